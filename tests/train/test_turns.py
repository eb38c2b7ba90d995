"""Whose turn it is in LADD: who is updated, how often, and when the run stops."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kontext.errors import DivergedError, RecipeError
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import fit
from kontext.train.loop.state import copied
from kontext.train.methods.ladd import Estimated, LaddMethod
from tests.train.methods.test_ladd import make


def test_gradients_reach_the_student_through_the_frozen_teacher() -> None:
    method = make()
    report = method.step(0)
    assert report["student_grad_norm"] > 0
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    frozen = {name: p.clone() for name, p in method.teacher.named_parameters()}
    method.step(1)
    assert all(torch.equal(p, frozen[name]) for name, p in method.teacher.named_parameters())


def test_gradient_norms_are_those_of_the_update() -> None:
    method = make(lr_student=1e-9)
    batch, noisy, t = method.student_input(0)
    with torch.no_grad():
        fake = method.denoised(batch, noisy, t)
    method.update_heads(0, [Estimated(None, batch, fake)])
    part = Estimated(None, batch, method.denoised(batch, noisy, t))
    reported = method.update_student(0, [part])["student_grad_norm"]
    left = [p.grad.norm() for p in method.student.parameters() if p.grad is not None]
    norm = float(torch.stack(left).norm())
    assert reported > 0 and norm == pytest.approx(min(reported, method.config.clip), rel=1e-2)


def test_the_two_updates_do_not_touch_each_other() -> None:
    method = make()
    student = {k: v.clone() for k, v in method.student.state_dict().items()}
    batch, noisy, t = method.student_input(0)
    with torch.no_grad():
        fake = method.denoised(batch, noisy, t)
    method.update_heads(0, [Estimated(None, batch, fake)])
    assert all(torch.equal(v, student[k]) for k, v in method.student.state_dict().items())
    heads = {k: v.clone() for k, v in method.heads.state_dict().items()}
    method.update_student(0, [Estimated(None, batch, method.denoised(batch, noisy, t))])
    assert all(torch.equal(v, heads[k]) for k, v in method.heads.state_dict().items())


def test_the_step_makes_the_students_estimate_once() -> None:
    method = make()
    calls: list[int] = []
    method.student.register_forward_hook(lambda *_: calls.append(1))
    method.step(0)
    assert len(calls) == 1


@pytest.mark.parametrize("accumulate", [1, 2, 6])
def test_a_batch_in_parts_estimates_each_of_them_for_either_side(accumulate: int) -> None:
    """tests/parallel/test_methods.py compares what they lead to."""
    method = make(steps=1, batch=6, accumulate=accumulate, heads_floor=0.99)
    method.state.extra["accuracy"] = 0.5
    sizes: list[int] = []
    method.student.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    taken: list[str] = []
    for name, optimizer in method.state.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: taken.append(name))
    fit(method)
    assert taken == ["heads", "heads", "student"]
    # a batch whole needs one estimate for both sides; and one for the heads' second update
    assert sizes == [6 // accumulate] * accumulate * (2 if accumulate == 1 else 3)


def test_a_batch_of_fewer_samples_than_parts_is_refused() -> None:
    with pytest.raises(RecipeError, match="a batch of 6 is too small for 1 ranks times 7 parts"):
        make(batch=6, accumulate=7)


def heads_updates(method: LaddMethod) -> list[float]:
    return [row["heads_updates"] for row in fit(method)]


def test_heads_and_student_take_turns_one_to_one_by_default() -> None:
    method = make()
    taken: list[str] = []
    for name, optimizer in method.state.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: taken.append(name))
    history = fit(method)
    assert taken == ["heads", "student"] * 3
    assert all("heads_updates" not in row for row in history)
    assert "accuracy" not in method.state.extra


def test_losing_heads_learn_twice_and_winning_heads_pause() -> None:
    losing = make(steps=6, heads_floor=0.99, heads_ceiling=1.0)
    losing.state.extra["accuracy"] = 0.5
    assert heads_updates(losing) == [2] * 6
    winning = make(steps=6, heads_floor=0.0, heads_ceiling=0.1)
    winning.state.extra["accuracy"] = 0.9
    heads = copied(winning.heads.state_dict())
    assert heads_updates(winning) == [0] * 6
    assert all(torch.equal(v, heads[k]) for k, v in winning.heads.state_dict().items())
    balanced = make(steps=6, heads_floor=0.01, heads_ceiling=0.99)
    assert heads_updates(balanced) == [1] * 6


def test_what_decides_is_the_average_accuracy_over_the_whole_batch() -> None:
    method = make(steps=1, heads_floor=0.4, heads_ceiling=0.8)
    (row,) = fit(method)
    assert method.state.extra["accuracy"] == pytest.approx(0.9 * 0.6 + 0.1 * row["accuracy"])


def test_control_by_accuracy_survives_a_resume(tmp_path: Path) -> None:
    changes: dict[str, object] = {"steps": 6, "heads_floor": 0.55, "heads_ceiling": 0.6}
    whole = make(**changes)
    expected = fit(whole)
    first = make(**changes)

    def stop(done: int, total: int, losses: object) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(first, checkpoints=Checkpoints(tmp_path / "c", every=2), progress=stop)
    second = make(**changes)
    assert fit(second, checkpoints=Checkpoints(tmp_path / "c", every=2)) == expected
    assert second.state.extra == whole.state.extra


def test_a_hinge_that_stays_at_zero_stops_the_run_while_it_runs() -> None:
    method = make(steps=100)
    real = method.logits
    calls: list[int] = []

    def sure(*args: object) -> Tensor:
        calls.append(1)
        logits = real(*args)  # type: ignore[arg-type]
        # on edits, estimates, wrong conditions, edits again (R1), and for the student
        return logits * 0 + (50.0 if len(calls) % 5 in (1, 4) else -50.0)

    method.logits = sure  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match="pinned at zero for 20 steps"):
        fit(method)
    assert method.state.step < 25
