"""The one timestep function. Training, validation and sampling all draw from it.

FLUX.1's rules: mu is linear in the number of *target* tokens (256 -> 0.5, 4096 -> 1.15; context
and text not counted), and t' = e^mu / (e^mu + 1/t - 1). Shifting a logit-normal(0, 1) by mu is the
same as drawing logit-normal(mu, 1), so training needs no second formula. Which mu a model has at
the two lengths is part of it (`TransformerShape.timestep_shift`): it samples as it was trained.
Sources: black-forest-labs/flux `sampling.py` (get_lin_function, time_shift); FLUX.1 Kontext A.2.
"""

import math

import torch
from torch import Tensor

BASE_TOKENS, MAX_TOKENS = 256, 4096
Shift = tuple[float, float]  # mu at BASE_TOKENS and at MAX_TOKENS
FLUX_MU: Shift = (0.5, 1.15)


def shift_mu(n_target_tokens: int, shift: Shift) -> float:
    """The shift for a target of `n_target_tokens` tokens. Extrapolates linearly at both ends."""
    slope = (shift[1] - shift[0]) / (MAX_TOKENS - BASE_TOKENS)
    return shift[0] + slope * (n_target_tokens - BASE_TOKENS)


def time_shift(mu: float, t: Tensor) -> Tensor:
    """Shift times in [0, 1] towards noise; 0 and 1 are fixed points."""
    alpha = math.exp(mu)
    return alpha * t / (1.0 + (alpha - 1.0) * t)


def schedule(steps: int, n_target_tokens: int, shift: Shift) -> Tensor:
    """Sampling grid [steps + 1] in float32, from 1 (noise) to 0 (image)."""
    grid = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return time_shift(shift_mu(n_target_tokens, shift), grid).float()


def logit_normal(normal: Tensor, mean: float, std: float = 1.0) -> Tensor:
    """Map standard normal draws to logit-normal(mean, std) times in (0, 1)."""
    return torch.sigmoid(normal * std + mean)


def sample_t(normal: Tensor, n_target_tokens: int, shift: Shift) -> Tensor:
    """Training times for standard normal draws: logit-normal(mu(target tokens), 1)."""
    return logit_normal(normal, shift_mu(n_target_tokens, shift))


def validation_levels(count: int, n_target_tokens: int, shift: Shift) -> Tensor:
    """`count` fixed noise levels at the centres of equal-probability bins of `sample_t`."""
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    normal = torch.special.ndtri(centres)
    return sample_t(normal, n_target_tokens, shift).float()
