"""DMD2: where its gradient points, what its fake score learns, and whose turn it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kontext.edit.pairs import EditSampler
from kontext.errors import RecipeError
from kontext.models.flux.sequence import pack, unpack
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel import attention
from kontext.parallel.flops import Tokens
from kontext.parallel.flops import step_flops as forward_flops
from kontext.train.flow.timesteps import FLUX_MU, schedule
from kontext.train.ladd.gates import run_gates
from kontext.train.ladd.student import Estimated
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import fit
from kontext.train.methods.dmd2 import Dmd2Method, matching_direction, step_flops
from schemas.sections.training import DistillConfig
from tests.train.broken_ladd import wired
from tests.train.toy import SHAPE, toy_model, toy_pairs


def make(**changes: object) -> Dmd2Method:
    values = {
        "method": "dmd2",
        "steps": 3,
        "batch": 6,
        "lr_student": 1e-3,
        "lr_fake": 1e-3,
        "lr_heads": 1e-3,
        "taps": (0, 2),
        "dmd_fake_updates": 2,
        "gan_weight": 0.1,
        "guidance": 2.0,
    }
    data = toy_pairs()
    config = DistillConfig.model_validate({**values, **changes})
    real = data.latents[data.target[data.edits()]] * 0.9
    return Dmd2Method(config, data, data.edits(), real, toy_model())


class GaussianFlow(nn.Module):
    """Stands in for a transformer of which all data are normal: mean `mean`, spread `std`."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.shape, self.mean, self.std = SHAPE, mean, std

    def clean(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], from the joint normal distribution of both."""
        kept = (1 - t) * self.std**2
        return self.mean + kept / ((1 - t) * kept + t**2) * (x - (1 - t) * self.mean)

    def forward(self, tokens: Tensor, *rest: Any, target_length: int, guidance: Any) -> Tensor:
        x, t = tokens[:, :target_length], rest[3].view(-1, 1, 1)
        return (x - self.clean(x, t)) / t


def gaussian(method: Dmd2Method, teacher: GaussianFlow, fake: GaussianFlow) -> None:
    swapped: Any = method
    swapped.teacher, swapped.trained["fake"] = teacher, fake


def test_the_direction_is_the_difference_of_both_views_by_the_distance_to_the_teachers() -> None:
    clean, real, fake = torch.randn(3, 5, 4, 8, generator=torch.Generator().manual_seed(1))
    found = matching_direction(clean, real, fake)
    for row in range(5):
        size = sum(float(v) for v in (clean[row] - real[row]).abs().flatten()) / 32
        assert torch.allclose(found[row], (fake[row] - real[row]) / size, rtol=1e-5)
    same = matching_direction(clean, clean, clean)
    assert bool((same == 0).all())  # and not a number, where there is no distance


def test_the_gradient_of_normal_distributions_is_the_closed_form() -> None:
    method = make(guidance=1.0)
    real, fake = GaussianFlow(1.5, 0.7), GaussianFlow(-0.5, 0.7)
    gaussian(method, real, fake)
    batch, _, _ = method.student_input(0)
    draw = torch.Generator().manual_seed(3)
    x = (-0.5 + 0.7 * torch.randn(pack(batch.target).shape, generator=draw)).requires_grad_()
    part = Estimated(None, batch, x)
    method.lesson(0, part).backward()
    noisy, _, t = method._renoised(0, part, 5)
    t = t.view(-1, 1, 1)
    # two normal distributions of one spread: their views differ alike for every sample
    apart = (-0.5 - 1.5) * t**2 / ((1 - t) ** 2 * 0.7**2 + t**2)
    size = (x.detach() - real.clean(noisy, t)).abs().mean(dim=(1, 2), keepdim=True)
    assert x.grad is not None
    assert torch.allclose(x.grad * x.numel(), (apart / size).expand_as(x), rtol=1e-3, atol=1e-5)
    assert bool((x.grad < 0).all())  # downhill is towards the teacher's mean


def test_samples_that_follow_it_end_where_the_teachers_are() -> None:
    method = make(guidance=1.0)
    batch, _, _ = method.student_input(0)
    draw = torch.Generator().manual_seed(4)
    x = -1 + 0.5 * torch.randn(pack(batch.target).shape, generator=draw)
    for index in range(150):
        gaussian(method, GaussianFlow(2.0, 0.5), GaussianFlow(float(x.mean()), 0.5))
        x = x.requires_grad_()
        method.lesson(index, Estimated(None, batch, x)).backward()
        assert x.grad is not None
        x = (x - 0.05 * x.numel() * x.grad).detach()
    assert float(x.mean()) == pytest.approx(2.0, abs=0.1)


def test_guidance_pushes_the_teacher_and_not_the_fake_score() -> None:
    plain, guided = make(guidance=1.0), make(guidance=3.0)
    part = next(iter(guided.estimates_alone(0)))
    noisy, _, t = guided._renoised(0, part, 5)
    with torch.no_grad():
        v, w = (m.teacher_velocity(noisy, part, t) for m in (plain, guided))
    sampler = EditSampler(guided.data, 1, 3.0)
    level = float(t[0])
    times, row = torch.tensor([level, 0.0]), torch.tensor([0])
    start = unpack(noisy[:1], 2, 2)
    end = sampler.draw(guided.teacher, start, part.batch.select(row), times, 3.0)
    assert torch.allclose(pack(end), noisy[:1] - level * w[:1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(v, w)
    # at first the fake score is the teacher: without guidance nothing pulls
    assert float(plain.lesson(0, part)) == 0 and float(guided.lesson(0, part)) > 0


def test_the_fake_score_learns_what_the_student_makes() -> None:
    method = make(guidance=1.0, batch=32, lr_fake=3e-3, gan_weight=0.0)
    before = [method.update_fake(index)["fake_loss"] for index in range(5)]
    for index in range(5, 120):
        method.update_fake(index)
    after = [method.update_fake(index)["fake_loss"] for index in range(120, 125)]
    assert sum(after) < 0.9 * sum(before)
    part = next(iter(method.estimates_alone(1000)))  # a batch it has not learned from
    noisy, _, t = method._renoised(1000, part, 1)
    with torch.no_grad():
        off = {
            name: (noisy - t.view(-1, 1, 1) * v - part.fake).square().mean()
            for name, v in (
                ("teacher", method.teacher_velocity(noisy, part, t)),
                ("fake", velocity_of(method.trained["fake"], method, noisy, part, t)),
            )
        }
    assert off["fake"] < off["teacher"]


def velocity_of(
    model: FluxTransformer, method: Dmd2Method, noisy: Tensor, part: Estimated, t: Tensor
) -> Tensor:
    kept, method.teacher = method.teacher, model
    try:
        return method.teacher_velocity(noisy, part, t)
    finally:
        method.teacher = kept


def test_all_that_is_trained_moves_and_the_teacher_stays_frozen() -> None:
    method = make()
    frozen = {name: p.clone() for name, p in method.teacher.named_parameters()}
    before = {
        key: [p.detach().clone() for p in module.parameters()]
        for key, module in method.state.modules.items()
    }
    assert list(before) == ["student", "fake", "heads"]
    history = fit(method)
    for key, module in method.state.modules.items():
        moved = [
            not torch.equal(*pair) for pair in zip(before[key], module.parameters(), strict=True)
        ]
        assert any(moved), key
    for name, parameter in method.teacher.named_parameters():
        assert parameter.grad is None and torch.equal(parameter, frozen[name])
    for row in history:
        assert row["student_grad_norm"] > 0 and row["fake_grad_norm"] > 0
        assert {"fake_loss", "matching", "adversarial", "accuracy"} <= set(row)
    start = toy_model().state_dict()
    shadow = method.state.ema["student"].shadow
    assert any(not torch.equal(shadow[k], v) for k, v in start.items())


@pytest.mark.parametrize(("updates", "gan_weight"), [(1, 0.1), (3, 0.1), (2, 0.0)])
def test_the_fake_score_has_several_turns_to_one_of_the_student(
    updates: int, gan_weight: float
) -> None:
    method = make(steps=2, dmd_fake_updates=updates, gan_weight=gan_weight)
    taken: list[str] = []
    for name, optimizer in method.state.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: taken.append(name))
    history = fit(method)
    judged = ["heads"] if gan_weight else []
    assert taken == [*["fake"] * updates, *judged, "student"] * 2
    assert ("heads" in method.state.modules) == ("accuracy" in history[0]) == bool(judged)


def test_every_turn_has_a_batch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen = make(steps=4, dmd_fake_updates=3), list[int]()
    real = method._picks

    def told(index: int) -> Tensor:
        seen.append(index)
        return real(index)

    monkeypatch.setattr(method, "_picks", told)
    monkeypatch.setattr(method, "negatives", lambda _, batch, __: (batch, pack(batch.target)))
    fit(method)
    assert sorted(seen) == list(range(16))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_simulated_input_is_where_the_sampler_would_be(steps: int) -> None:
    method = make(student_steps=steps)
    sampler, grid = EditSampler(method.data, steps), schedule(steps, 4, FLUX_MU)
    levels = set()
    for index in range(8):
        batch, noisy, t = method.trained_input(index, range(6))
        assert len(set(t.tolist())) == 1
        place = (grid - t[0]).abs().argmin()
        levels.add(int(place))
        _, noise = method._edits_and_noise(index, range(6))
        start = unpack(noise, 2, 2)
        if place:
            start = sampler.draw(method.student, start, batch, grid[: int(place) + 1])
        assert torch.allclose(pack(start), noisy, rtol=1e-4, atol=1e-5)
    assert len(levels) == min(steps, len(levels)) and (steps == 1 or len(levels) > 1)


def test_without_simulation_the_input_is_the_noised_edit() -> None:
    method = make(dmd_simulate=False)
    for found, expected in zip(
        method.trained_input(3, range(6)), method.student_input(3), strict=True
    ):
        if isinstance(found, Tensor):
            assert torch.equal(found, expected)
    assert len(fit(method)) == 3


def test_a_resumed_run_gives_the_same_bits(tmp_path: Path) -> None:
    whole, first, second = (make(steps=6) for _ in range(3))
    expected = fit(whole)

    def stop(done: int, total: int, losses: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(first, checkpoints=Checkpoints(tmp_path / "c", every=2), progress=stop)
    assert fit(second, checkpoints=Checkpoints(tmp_path / "c", every=2)) == expected
    for name, module in whole.state.modules.items():
        found = second.state.modules[name].state_dict()
        assert all(torch.equal(found[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("changes", [{}, {"gan_weight": 0.0}, {"dmd_simulate": False}], ids=str)
def test_it_passes_the_gates_on_wiring(changes: dict[str, Any]) -> None:
    kind: Any = Dmd2Method
    method, sampler = wired(kind, method="dmd2", dmd_fake_updates=2, **changes)
    findings = run_gates(method, sampler)
    assert [finding.gate for finding in findings if not finding.passed] == []
    assert any("distribution-matching gradient" in finding.seen for finding in findings)


def test_sequences_are_not_shared() -> None:
    with pytest.raises(RecipeError, match=r"parallel\.context"):
        make(parallel={"context": 2})


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_operations_are_those_of_the_transformers(
    guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One student step, so that every step costs the same; without heads all are counted."""
    method = make(student_steps=1, guidance=guidance, gan_weight=0.0)
    monkeypatch.setattr(attention._choice, "name", "math")  # plain products
    with FlopCounterMode(display=False) as counter:
        method.step(0)
    assert method.work(0).flops == counter.get_total_flops()


@pytest.mark.parametrize("r1_weight", [0.0, 0.1])
def test_the_heads_passes_that_are_counted_are_those_it_makes(
    r1_weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, passes = make(r1_weight=r1_weight), list[int]()
    real = method.teacher.features
    monkeypatch.setattr(
        method.teacher, "features", lambda *a, **k: passes.append(1) or real(*a, **k)
    )
    method.step(0)
    tokens, without = Tokens(5, 4, 4), method.config.model_copy(update={"gan_weight": 0.0})
    heads = step_flops(method.config, SHAPE, tokens) - step_flops(without, SHAPE, tokens)
    once = forward_flops(SHAPE, tokens, method.config.batch).total  # up to the last block
    assert heads == (len(passes) + 1) * once  # the student's goes backward to its inputs too


def test_simulation_costs_the_students_earlier_steps() -> None:
    tokens = Tokens(512, 4096, 4096)
    config = make(gan_weight=0.0).config
    plain = config.model_copy(update={"dmd_simulate": False})
    once = forward_flops(SHAPE, tokens, config.batch).total
    more = step_flops(config, SHAPE, tokens) - step_flops(plain, SHAPE, tokens)
    # one and a half steps before each of the estimates, of which the student's own is one
    assert more == pytest.approx(1.5 * (config.dmd_fake_updates + 1) * once, rel=1e-6)
