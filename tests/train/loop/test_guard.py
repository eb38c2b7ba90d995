"""Steps go wrong by injection: a batch of NaN, or one ten thousand times too large."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kontext.errors import DivergedError
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import fit, generator
from kontext.train.loop.state import Ema, TrainState
from kontext.train.optim.build import adamw
from schemas.sections.training import GuardConfig

STEPS = 20


class Injected:
    """A real little method; `bad` multiplies the batch of a step, `without` leaves steps out."""

    def __init__(self, bad: Mapping[int, float] | None = None, without: range = range(0)) -> None:
        torch.manual_seed(0)
        self.model, self.total_steps = nn.Linear(4, 4), STEPS
        self.bad, self.without = dict(bad or {}), without
        self.state = TrainState(
            {"model": self.model},
            {"adam": adamw(self.model.parameters(), 1e-2)},
            {"model": Ema(self.model, 0.9)},
        )

    def step(self, index: int) -> Mapping[str, float]:
        if index in self.without:
            return {"loss": 1.0}
        x = torch.randn(8, 4, generator=generator(0, index, "batch")) * self.bad.get(index, 1.0)
        loss = (self.model(x) - 2 * x).square().mean()
        optimizer = self.state.optimizers["adam"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        self.state.ema["model"].update(self.model)
        return {"loss": float(loss.detach())}

    def result(self) -> list[Tensor]:
        ema = self.state.ema["model"].shadow
        return [*self.model.state_dict().values(), *ema.values()]


NAN, HUGE = float("nan"), 1e4


def assert_equal(one: Injected, other: Injected) -> None:
    for a, b in zip(one.result(), other.result(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("bad", "policy"), [(NAN, {"on_nan": "skip"}), (HUGE, {"on_spike": "skip"})]
)
def test_a_skipped_step_leaves_no_trace_in_the_weights(bad: float, policy: dict[str, str]) -> None:
    method = Injected({9: bad})
    history = fit(method, policy=GuardConfig(**policy))
    expected = Injected(without=range(9, 10))
    fit(expected)
    assert_equal(method, expected)
    assert [row["step"] for row in history] == [i for i in range(STEPS) if i != 9]
    (incident,) = method.state.incidents
    assert incident["step"] == incident["weights_of_step"] == 9
    assert incident["action"] == "skip" and "loss" in incident["line"]


@pytest.mark.parametrize(
    ("bad", "policy"), [(NAN, {"on_nan": "roll-back"}), (HUGE, {"on_spike": "roll-back"})]
)
def test_rolling_back_leaves_out_all_batches_since_the_checkpoint(
    tmp_path: Path, bad: float, policy: dict[str, str]
) -> None:
    method = Injected({10: bad})
    history = fit(
        method,
        checkpoints=Checkpoints(tmp_path / "checkpoints", every=4),
        policy=GuardConfig(**policy),
    )
    expected = Injected(without=range(8, 11))
    fit(expected)
    assert_equal(method, expected)
    assert [row["step"] for row in history] == [*range(8), *range(11, STEPS)]
    (incident,) = method.state.incidents
    assert (incident["step"], incident["weights_of_step"]) == (10, 8)


def test_rolling_back_before_the_first_checkpoint_returns_to_the_start(tmp_path: Path) -> None:
    method = Injected({2: NAN})
    fit(
        method,
        checkpoints=Checkpoints(tmp_path / "checkpoints"),
        policy=GuardConfig(on_nan="roll-back"),
    )
    expected = Injected(without=range(3))
    fit(expected)
    assert_equal(method, expected)


@pytest.mark.parametrize("action", ["skip", "roll-back"])
def test_a_run_killed_around_an_incident_ends_as_an_unbroken_one(
    tmp_path: Path, action: str
) -> None:
    policy = GuardConfig(on_nan=action)

    def run(name: str, until: int) -> Injected:
        method = Injected({9: NAN})
        method.total_steps = until
        fit(method, checkpoints=Checkpoints(tmp_path / name, every=4), policy=policy)
        return method

    whole = run("whole", STEPS)
    for until in (4, 8, 12, STEPS):
        last = run("broken", until)
    assert_equal(last, whole)
    assert last.state.history == whole.state.history
    found, wanted = (m.state.incidents for m in (last, whole))
    assert [row["step"] for row in found] == [row["step"] for row in wanted] == [9]


def test_by_default_a_nan_stops_the_run_and_a_spike_does_not(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 5: loss is not finite \(loss nan\)"):
        fit(Injected({5: NAN}), checkpoints=Checkpoints(tmp_path / "checkpoints", every=2))
    assert Checkpoints(tmp_path / "checkpoints").finished()[-1] == 4
    assert len(fit(Injected({9: HUGE}))) == STEPS


def test_a_spike_can_stop_the_run() -> None:
    with pytest.raises(DivergedError, match=r"step 9: loss is .* times its median of 9 steps"):
        fit(Injected({9: HUGE}), policy=GuardConfig(on_spike="stop"))


def test_the_first_steps_are_no_spikes() -> None:
    method = Injected({2: HUGE})
    fit(method, policy=GuardConfig(on_spike="skip"))
    assert not method.state.incidents


def test_too_many_incidents_stop_the_run() -> None:
    policy = GuardConfig(on_nan="skip", most=2)
    fit(Injected(dict.fromkeys((5, 9), NAN)), policy=policy)
    with pytest.raises(DivergedError, match=r"step 11: .* after 2 that were left out already"):
        fit(Injected(dict.fromkeys((5, 9, 11), NAN)), policy=policy)


def test_rolling_back_needs_checkpoints() -> None:
    with pytest.raises(ValueError, match="nothing to roll back to"):
        fit(Injected(), policy=GuardConfig(on_nan="roll-back"))


def test_a_policy_that_is_not_needed_changes_no_bit(tmp_path: Path) -> None:
    plain, guarded = Injected(), Injected()
    fit(plain)
    policy = GuardConfig(on_nan="roll-back", on_spike="skip", spike_factor=100)
    fit(guarded, checkpoints=Checkpoints(tmp_path / "checkpoints"), policy=policy)
    assert_equal(plain, guarded)
    assert plain.state.history == guarded.state.history
