"""LADD's formulas. Its known wiring faults are in test_gates.py, the two sides in test_turns.py."""

import pytest
import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import Batch
from kontext.edit.pairs import EditSampler
from kontext.errors import RecipeError
from kontext.models.flux.sequence import pack
from kontext.parallel.flops import Tokens, step_flops
from kontext.train.flow.timesteps import FLUX_MU, schedule, shift_mu, time_shift
from kontext.train.flow.velocity import add_noise, velocity
from kontext.train.ladd.formulas import default_taps, heads_hinge, level_probabilities, rolled
from kontext.train.ladd.gates import run_gates
from kontext.train.loop.fit import fit
from kontext.train.methods.ladd import Estimated, LaddMethod
from schemas.sections.training import DistillConfig
from tests.train.broken_ladd import wired
from tests.train.toy import SHAPE, toy_model, toy_pairs


def make(**changes: object) -> LaddMethod:
    values = {
        "steps": 3,
        "warmup_steps": 1,
        "batch": 6,
        "lr_student": 1e-3,
        "lr_heads": 1e-3,
        "taps": (0, 2),
    }
    data = toy_pairs()
    config = DistillConfig.model_validate({**values, **changes})
    real = data.latents[data.target[data.edits()]] * 0.9
    return LaddMethod(config, data, data.edits(), real, toy_model())


def student_inputs(method: LaddMethod, steps: range) -> tuple[list[Batch], Tensor, Tensor]:
    batches, noisy, times = zip(*(method.student_input(i) for i in steps), strict=True)
    return list(batches), torch.cat(noisy), torch.cat(times)


def test_student_input_is_the_noised_edit_not_pure_noise() -> None:
    method = make(batch=64)
    batch, noisy, t = method.student_input(5)
    clean = pack(batch.target)
    for level in t.unique().tolist():
        rows = t == level
        fit_ = (noisy[rows] * clean[rows]).mean() / clean[rows].square().mean()
        assert float(fit_) == pytest.approx(1 - level, abs=0.15)


def test_a_student_is_float32_whatever_its_teacher_is_held_in() -> None:
    plain, data = make(), toy_pairs()
    edits, real = data.edits(), data.latents[data.target[data.edits()]]
    method = LaddMethod(plain.config, data, edits, real, toy_model().to(torch.bfloat16))
    assert {p.dtype for p in method.teacher.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in method.student.parameters()} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(list(method.step(index).values()))).all()
               for index in range(2))  # fmt: skip


def test_the_estimate_is_x_t_minus_t_v() -> None:
    method = make()
    batch, noisy, t = method.student_input(0)
    v = velocity(method.student, noisy, batch, t)
    assert torch.allclose(method.denoised(batch, noisy, t), noisy - t[:, None, None] * v)


def test_the_sampler_ends_at_zero_noise() -> None:
    for steps in (1, 2, 4, 12, 50):
        grid = schedule(steps, 4, FLUX_MU)
        assert len(grid) == steps + 1 and grid[0] == 1.0 and grid[-1] == 0.0


def test_levels_are_the_samplers_shifted_grid() -> None:
    method = make()
    expected = time_shift(shift_mu(4, FLUX_MU), torch.tensor([1, 0.75, 0.5, 0.25]))
    assert torch.allclose(method.levels(4), expected)


def test_warmup_trains_the_cleaner_half_first() -> None:
    method = make(batch=64, warmup_steps=2)
    _, _, early = student_inputs(method, range(2))
    _, _, late = student_inputs(method, range(2, 12))
    assert float(early.max()) <= float(method.levels(4)[2]) + 1e-6
    assert float((late == 1.0).float().mean()) == pytest.approx(0.7, abs=0.07)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_level_probabilities_sum_to_one(steps: int) -> None:
    for warming in (True, False):
        odds = level_probabilities(steps, warming)
        assert len(odds) == steps and float(odds.sum()) == pytest.approx(1)


def test_renoise_levels_are_logit_normal_1_1() -> None:
    method = make()
    (level, _), *_ = method.renoise(0, torch.zeros(20_000, 1, 1), 1)
    logit = torch.logit(level)
    assert float(logit.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(logit.std()) == pytest.approx(1.0, abs=0.03)


def test_negatives_are_wrong_instruction_wrong_context_and_copied_context() -> None:
    method = make()
    batch, _, _ = method.student_input(0)
    wrong, clean = method.negatives(0, batch)
    assert batch.context is not None and wrong.context is not None
    real = pack(batch.target)
    assert not torch.equal(wrong.tokens[0], batch.tokens[0])
    assert torch.equal(wrong.context[0], batch.context[0]) and torch.equal(clean[0], real[0])
    assert not torch.equal(wrong.context[1], batch.context[1])
    assert torch.equal(wrong.tokens[1], batch.tokens[1])
    assert torch.equal(clean[2], pack(batch.context)[2])


@pytest.mark.parametrize("kind", ["instruction", "context", "copy"])
def test_negatives_can_be_of_one_kind(kind: str) -> None:
    method = make(negatives=(kind,))
    batch, _, _ = method.student_input(0)
    wrong, clean = method.negatives(0, batch)
    assert batch.context is not None and wrong.context is not None
    other = batch.select(rolled(6, 0))
    assert other.context is not None
    tokens, context = (other if kind == "instruction" else batch).tokens, batch.context
    assert torch.equal(wrong.tokens, tokens)
    assert torch.equal(wrong.context, other.context if kind == "context" else context)
    assert torch.equal(clean, pack(context if kind == "copy" else batch.target))
    with pytest.raises(ValueError, match="at least 1 item"):
        make(negatives=())


def test_heads_see_the_context() -> None:
    method = make()
    batch, _, _ = method.student_input(0)
    clean = pack(batch.target)
    level, eps = torch.full((6,), 0.5), torch.randn(clean.shape)
    assert batch.context is not None
    other = Batch(batch.target, batch.context.flip(0), batch.tokens, batch.pooled)
    a = method.logits(batch, clean, level, eps)
    b = method.logits(other, clean, level, eps)
    assert a.shape == (6, 2 * 4) and not torch.allclose(a, b)


def test_a_run_is_repeatable_and_its_ema_moves() -> None:
    first, second = make(), make()
    assert fit(first) == fit(second)
    start = toy_model().state_dict()
    moved = first.state.ema["student"].shadow
    assert any(not torch.equal(moved[k], v) for k, v in start.items())


def test_taps_are_spread_over_the_depth() -> None:
    assert default_taps(2, 4) == (1, 2, 3, 5)
    assert default_taps(1, 0) == (0,)
    assert max(default_taps(19, 38)) == 56


def test_renoising_is_the_flows_own_noising() -> None:
    clean, eps = torch.randn(2, 4, 16), torch.randn(2, 4, 16)
    t = torch.tensor([0.3, 0.8])
    assert torch.allclose(
        add_noise(clean, eps, t), (1 - t[:, None, None]) * clean + t[:, None, None] * eps
    )


@pytest.mark.parametrize("negative_weight", [0.0, 0.5, 2.0])
def test_no_constant_answer_is_better_than_undecided(negative_weight: float) -> None:
    bias = torch.zeros((), requires_grad=True)
    logits = torch.zeros(5) + bias
    loss = heads_hinge(logits, logits, logits, negative_weight)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2.0)
    assert bias.grad is not None and float(bias.grad) == pytest.approx(0.0, abs=1e-6)


def test_the_heads_learn_to_tell_wrong_conditions_and_fakes() -> None:
    method = make(steps=80, batch=8, lr_student=1e-9, lr_heads=1e-2, anchor_weight=0.0)
    history = fit(method)
    recent = history[-10:]
    real = sum(row["real_logit"] for row in recent) / 10
    wrong = sum(row["wrong_logit"] for row in recent) / 10
    assert real > wrong + 0.1


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_student_of_any_number_of_steps_trains_on_its_grid_and_is_drawn_on_it(steps: int) -> None:
    method = make(student_steps=steps, batch=32, warmup_steps=0)
    _, _, times = student_inputs(method, range(3))
    grid = schedule(steps, 4, FLUX_MU)
    assert {round(float(t), 5) for t in times.unique()} == {round(float(t), 5) for t in grid[:-1]}
    history = fit(method)
    assert len(history) == 3 and all(row["student_grad_norm"] > 0 for row in history)
    calls: list[float] = []
    method.student.register_forward_pre_hook(lambda _, args: calls.append(float(args[4][0])))
    drawn = EditSampler(method.data, steps, 1.0).edits(method.student, method.edits)
    assert drawn.shape == method.real.shape
    assert calls == pytest.approx(grid[:-1].tolist())  # one pass per step: no guidance


def test_approximate_r1_is_the_change_of_logits_under_small_noise() -> None:
    method = make(r1_weight=0.5, r1_sigma=0.2)
    batch, noisy, t = method.student_input(0)
    with torch.no_grad():
        fake = method.denoised(batch, noisy, t)
    real = pack(batch.target)
    (level, noise), *_ = method.renoise(0, real, 3)
    on_real = method.logits(batch, real, level, noise)
    nudged = method.logits(batch, real + 0.2 * noise, level, noise)
    expected = float((nudged - on_real).square().mean().detach())
    report = method.update_heads(0, [Estimated(None, batch, fake)], learn=False)
    assert report["r1"] == pytest.approx(expected, rel=1e-4) and expected > 0
    assert (
        make(r1_weight=0.0).update_heads(0, [Estimated(None, batch, fake)], learn=False)["r1"] == 0
    )


def test_wrong_conditions_weigh_in_the_heads_loss_as_the_recipe_says() -> None:
    reports = []
    for weight in (0.0, 1.0):
        method = make(negative_weight=weight)
        batch, noisy, t = method.student_input(0)
        with torch.no_grad():
            fake = method.denoised(batch, noisy, t)
        reports.append(method.update_heads(0, [Estimated(None, batch, fake)], learn=False))
    assert reports[0]["wrong_logit"] == reports[1]["wrong_logit"]
    assert reports[0]["heads_loss"] != reports[1]["heads_loss"]


def test_the_distance_alone_needs_neither_heads_nor_teacher() -> None:
    method = make(adversarial_weight=0.0, steps=40, warmup_steps=0, batch=8)
    calls: list[int] = []
    method.teacher.register_forward_hook(lambda *_: calls.append(1))
    method.teacher.features = lambda *_, **__: calls.append(1)  # type: ignore[method-assign]
    assert list(method.state.modules) == list(method.state.optimizers) == ["student"]
    history = fit(method)
    assert not calls and set(history[0]) == {"step", "student_loss", "anchor", "student_grad_norm"}
    assert all(row["student_loss"] == row["anchor"] for row in history)
    first, last = (sum(row["anchor"] for row in part) for part in (history[:8], history[-8:]))
    assert last < 0.9 * first


def test_the_distance_alone_follows_the_distances_gradient() -> None:
    method = make(adversarial_weight=0.0, anchor_weight=3.0, lr_student=1e-12)
    batch, noisy, t = method.student_input(0)
    part = Estimated(None, batch, method.denoised(batch, noisy, t))
    (3.0 * (part.fake - pack(batch.target)).square().mean()).backward()
    expected = torch.stack([p.grad.norm() for p in method.student.parameters()]).norm()
    part = Estimated(None, batch, method.denoised(batch, noisy, t))
    found = method.update_student(0, [part])["student_grad_norm"]
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_the_heads_weight_scales_their_part_of_the_gradient() -> None:
    norms = [
        make(adversarial_weight=weight, anchor_weight=0.0).step(0)["student_grad_norm"]
        for weight in (1.0, 0.5)
    ]
    assert norms[1] == pytest.approx(0.5 * norms[0], rel=1e-4)


def test_a_student_that_nothing_teaches_is_refused() -> None:
    with pytest.raises(RecipeError, match="learns nothing"):
        make(adversarial_weight=0.0, anchor_weight=0.0)


def test_without_heads_the_gates_pass_and_the_work_is_the_students_alone() -> None:
    method, sampler = wired(adversarial_weight=0.0)
    assert [found.gate for found in run_gates(method, sampler) if not found.passed] == []
    tokens = Tokens(5, 4, 4)
    assert method.work(0).flops == step_flops(SHAPE, tokens, method.config.batch).training
