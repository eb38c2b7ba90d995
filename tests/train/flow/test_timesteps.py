import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kontext.edit.pairs import EditSampler
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.timesteps import (
    FLUX_MU,
    logit_normal,
    sample_t,
    schedule,
    shift_mu,
    time_shift,
    validation_levels,
)
from kontext.train.loop.fit import generator
from kontext.train.methods.flow import FlowMethod
from tests.train.toy import SHAPE, toy_config, toy_pairs


@pytest.mark.parametrize(
    ("tokens", "mu", "alpha"),
    [(256, 0.5, 1.6487), (1024, 0.63, 1.8776), (2304, 0.8467, 2.3319), (4096, 1.15, 3.1582)],
)
def test_shift_has_the_published_values(tokens: int, mu: float, alpha: float) -> None:
    assert shift_mu(tokens, FLUX_MU) == pytest.approx(mu, abs=1e-4)
    assert math.exp(shift_mu(tokens, FLUX_MU)) == pytest.approx(alpha, abs=1e-4)


def test_28_step_grid_at_1024_squared_is_flux() -> None:
    grid = schedule(28, 4096, FLUX_MU)
    assert grid[:4].tolist() == pytest.approx([1, 0.9884, 0.9762, 0.9634], abs=1e-4)
    assert grid[-3:].tolist() == pytest.approx([0.1955, 0.1047, 0.0], abs=1e-4)


@given(st.floats(-3, 3), st.floats(0, 1))
def test_shift_keeps_both_ends_and_inverts(mu: float, t: float) -> None:
    moved = time_shift(mu, torch.tensor(t, dtype=torch.float64))
    assert -1e-12 <= float(moved) <= 1 + 1e-12
    assert float(time_shift(-mu, moved)) == pytest.approx(t, abs=1e-9)


@given(st.floats(-4, 4), st.integers(16, 8192))
def test_training_times_are_shifted_unit_logit_normal(normal: float, tokens: int) -> None:
    draw = torch.tensor([normal], dtype=torch.float64)
    shifted = time_shift(shift_mu(tokens, FLUX_MU), logit_normal(draw, 0.0))
    assert torch.allclose(sample_t(draw, tokens, FLUX_MU), shifted)


def test_training_and_sampling_shift_by_the_models_own_mu() -> None:
    """Undone by it, training's times are unit logit-normal and sampling's grid is even."""
    shape = SHAPE.model_copy(update={"timestep_shift": (-2.0, 1.0)})
    data, told = toy_pairs(mixed=True, singles=0), []
    model = FluxTransformer(shape)
    model.register_forward_pre_hook(lambda _, args: told.append(args[4]))
    method = FlowMethod(toy_config(t2i_steps=0, text_dropout=0.0), data, model)
    ((_, pairs),) = method.pairs_at(0)
    tokens = data.lengths(pairs).target
    method.step(0)
    normal = torch.randn(8, generator=generator(0, 0, "time"))
    mu = shift_mu(tokens, shape.timestep_shift)
    assert mu < -1.5
    assert torch.allclose(torch.logit(torch.cat(told)) - mu, normal, atol=1e-4)
    told.clear()
    EditSampler(data, 4).edits(model, pairs[:1])
    grid = time_shift(-mu, torch.cat(told).double())
    assert grid.tolist() == pytest.approx([1, 0.75, 0.5, 0.25], abs=1e-4)


def test_validation_levels_split_training_times_evenly() -> None:
    levels = validation_levels(8, 4096, FLUX_MU)
    draws = sample_t(
        torch.randn(200_000, generator=torch.Generator().manual_seed(0)), 4096, FLUX_MU
    )
    below = [(draws < level).float().mean().item() for level in levels]
    assert below == pytest.approx([(i + 0.5) / 8 for i in range(8)], abs=0.01)
