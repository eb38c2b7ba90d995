"""LADD's formulas and its cost, apart from who is updated when (kontext.train.methods.ladd)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext.parallel.flops import Tokens, step_flops
from schemas.sections.models import TransformerShape
from schemas.sections.training import DistillConfig

# Probability of each of the student's levels {1, .75, .5, .25}, noisiest first (LADD, section 4).
WARMUP_PROBABILITIES = (0.0, 0.0, 0.5, 0.5)
PROBABILITIES = (0.7, 0.1, 0.1, 0.1)


def level_probabilities(steps: int, warming_up: bool) -> Tensor:
    """Probability of each student level for a grid of `steps`, noisiest first.

    The paper gives four levels; other counts keep its shape: warm-up trains the cleaner half, then
    the first level gets 0.7 and the rest share 0.3.
    """
    if steps == 1:
        return torch.ones(1)
    if steps == 4:
        return torch.tensor(WARMUP_PROBABILITIES if warming_up else PROBABILITIES)
    weights = torch.zeros(steps)
    if warming_up:
        weights[steps // 2 :] = 1.0
    else:
        weights[:] = 0.3 / (steps - 1)
        weights[0] = 0.7
    return weights / weights.sum()


def default_taps(shape_depth: int, single_depth: int, count: int = 4) -> tuple[int, ...]:
    """Blocks spread over the depth, so that structure and texture both vote."""
    total = shape_depth + single_depth
    count = min(count, total)
    return tuple(sorted({round((i + 1) * total / count) - 1 for i in range(count)}))


def heads_hinge(
    on_real: Tensor, on_fake: Tensor, on_wrong: Tensor, negative_weight: float
) -> Tensor:
    """Hinge loss of the heads, with all fakes together weighing as much as the reals.

    If they weighed more, the best constant answer would be "fake" at a logit of -1, where the
    fakes' hinge has no gradient any more, and the heads would stay there.
    """
    fakes = F.relu(1 + on_fake).mean() + negative_weight * F.relu(1 + on_wrong).mean()
    return F.relu(1 - on_real).mean() + fakes / (1 + negative_weight)


def rolled(n: int, index: int) -> Tensor:
    """A permutation without fixed points: every sample gets another one's condition."""
    shift = 1 + index % (n - 1) if n > 1 else 0
    return (torch.arange(n) + shift) % n


def ladd_flops(config: DistillConfig, shape: TransformerShape, tokens: Tokens) -> int:
    """Operations of one LADD step: the transformers' products; the heads' own are left out.

    The student goes forward once, for the heads' fakes and its own update, and backward. The
    teacher, to its deepest tap, goes forward for the reals, the fakes, the wrong
    conditions and R1's nudged reals, and for the student's update forward and backward towards its
    inputs alone. Without an adversarial loss the teacher does nothing.
    """
    student = step_flops(shape, tokens, config.batch).training
    if not config.adversarial_weight:
        return student
    passes = 3 + (1 if config.r1_weight else 0) + 2
    return student + passes * tapped_flops(config, shape, tokens)


def tapped_flops(config: DistillConfig, shape: TransformerShape, tokens: Tokens) -> int:
    """Operations of a batch's pass through the teacher, as far as its deepest tap."""
    doubles, singles = shape.depth, shape.depth_single_blocks
    deepest = 1 + max(config.taps or default_taps(doubles, singles))
    assert deepest <= doubles + singles, "a tap lies behind the last block"
    reach = {"depth": min(deepest, doubles), "depth_single_blocks": max(0, deepest - doubles)}
    return step_flops(shape.model_copy(update=reach), tokens, config.batch).total
