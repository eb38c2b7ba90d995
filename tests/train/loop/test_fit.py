from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kontext.errors import DivergedError
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import Measure, fit, generator
from kontext.train.loop.state import Ema, TrainState
from kontext.train.optim.build import build_optimizers, rate_factor, warmup_cosine


class Regression:
    """A real method, tiny: fits y = 2x from batches drawn by step index."""

    def __init__(self, steps: int, broken_at: int = -1) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1))
        self.total_steps, self.broken_at = steps, broken_at
        muon, adam = build_optimizers(self.model, "muon", 5e-2)
        self.state = TrainState(
            {"model": self.model}, {"muon": muon, "adamw": adam}, {"model": Ema(self.model, 0.9)}
        )

    def step(self, index: int) -> Mapping[str, float]:
        x = torch.randn(4, 16, 2, 2, generator=generator(0, index, "batch"))
        loss = (self.model(x) - 2 * x).square().mean()
        for optimizer in self.state.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.state.optimizers.values():
            optimizer.step()
        self.state.ema["model"].update(self.model)
        return {"loss": float("nan") if index == self.broken_at else float(loss.detach())}


def test_muon_learns_through_the_convolution_views() -> None:
    history = fit(Regression(60))
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]


def test_resume_is_bitwise_equal_to_an_unbroken_run(tmp_path: Path) -> None:
    whole = Regression(12)
    fit(whole)
    first = Regression(12)
    first.total_steps = 7
    fit(first, checkpoints=Checkpoints(tmp_path / "checkpoints", every=3))
    second = Regression(12)
    history = fit(second, checkpoints=Checkpoints(tmp_path / "checkpoints", every=3))
    assert [row["step"] for row in history] == list(range(12))
    assert history == whole.state.history
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, tensor in whole.state.ema["model"].shadow.items():
        assert torch.equal(tensor, second.state.ema["model"].shadow[name])


def test_a_killed_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    method = Regression(4)
    fit(method, checkpoints=Checkpoints(tmp_path / "checkpoints", every=2))
    (tmp_path / "c.partial").write_bytes(b"half a checkpoint")
    again = Regression(4)
    assert (
        fit(again, checkpoints=Checkpoints(tmp_path / "checkpoints", every=2))
        == method.state.history
    )


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(DivergedError, match="step 3: loss is not finite"):
        fit(Regression(9, broken_at=3))


def test_generators_differ_by_seed_step_and_purpose() -> None:
    draws = {
        torch.rand(1, generator=generator(seed, step, purpose)).item()
        for seed in range(3)
        for step in range(5)
        for purpose in ("batch", "noise", "time")
    }
    assert len(draws) == 45


def test_ema_starts_fast_and_is_undone_outside_the_block() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = Ema(module, 0.99)
    nn.init.ones_(module.weight)
    ema.update(module)
    assert ema.shadow["weight"].item() == pytest.approx(1 - 2 / 11)
    with ema.applied(module):
        assert module.weight.item() == pytest.approx(1 - 2 / 11)
    assert module.weight.item() == 1.0


def test_warmup_then_cosine_to_the_floor() -> None:
    factors = [warmup_cosine(i, 100, 10) for i in range(100)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == 1.0
    assert factors[-1] == pytest.approx(0.02, abs=2e-3)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_schedules_end_where_they_say() -> None:
    for name, last in (("cosine", 0.02), ("linear", 0.02), ("constant", 1.0)):
        factors = [rate_factor(name, i, 101, 10) for i in range(101)]
        assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert factors[10] == 1 and factors[-1] == pytest.approx(last, abs=0.02)
        assert factors[10:] == sorted(factors[10:], reverse=True)
    assert rate_factor("linear", 55, 100, 10) == pytest.approx(0.51)


@pytest.mark.parametrize("killed_at", [None, 5, 9])
def test_a_run_ends_after_validations_that_were_no_better(
    tmp_path: Path, killed_at: int | None
) -> None:
    """The third is the best: with a patience of two the fifth ends the run, also after a kill."""
    losses = {2: 3.0, 4: 2.0, 6: 1.0, 8: 1.5, 10: 1.0, 12: 0.0}
    seen: list[int] = []

    def stop(done: int, *_: object) -> None:
        if done == killed_at:
            raise KeyboardInterrupt

    measure = Measure(2, lambda step: seen.append(step) or {"val_loss": losses[step]}, patience=2)  # type: ignore[func-returns-value]
    for progress in (stop, lambda *_: None):
        method, checkpoints = Regression(12), Checkpoints(tmp_path / "checkpoints", every=3)
        with suppress(KeyboardInterrupt):
            fit(method, checkpoints=checkpoints, measure=measure, progress=progress)
    assert method.state.step == 10 and checkpoints.finished()[-1] == 10
    assert [row["step"] for row in method.state.measured] == [2, 4, 6, 8, 10] and seen[-1] == 10
    unhurried = Regression(12)
    fit(unhurried, measure=replace(measure, patience=0))
    assert unhurried.state.step == 12


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown optimiser 'sgd'"):
        build_optimizers(nn.Linear(1, 1), "sgd", 1e-3, 0.0)
