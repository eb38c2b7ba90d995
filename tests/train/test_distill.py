"""LADD wiring. The ten tests named `fault_NN` are the ten failures of a public reproduction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kontext.errors import GateError
from kontext.models.batch import Batch, gather
from kontext.models.sequence import pack
from kontext.sample.euler import Guidance, Prompt, noise, sample
from kontext.train.distill import (
    DistillMethod,
    check_training,
    check_wiring,
    default_taps,
    heads_hinge,
    level_probabilities,
)
from kontext.train.flow import add_noise, velocity
from kontext.train.loop import fit
from kontext.train.timesteps import schedule, shift_mu, time_shift
from schemas.recipes import DistillConfig
from tests.train.toy import toy_model, toy_pairs


def make(**changes: object) -> DistillMethod:
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
    return DistillMethod(config, data, data.edits(), real, toy_model())


def student_inputs(method: DistillMethod, steps: range) -> tuple[list[Batch], Tensor, Tensor]:
    batches, noisy, times = zip(*(method._student_input(i) for i in steps), strict=True)
    return list(batches), torch.cat(noisy), torch.cat(times)


def test_fault_01_student_input_is_the_noised_edit_not_pure_noise() -> None:
    method = make(batch=64)
    batch, noisy, t = method._student_input(5)
    clean = pack(batch.target)
    for level in t.unique().tolist():
        rows = t == level
        fit_ = (noisy[rows] * clean[rows]).mean() / clean[rows].square().mean()
        assert float(fit_) == pytest.approx(1 - level, abs=0.15)


def test_fault_02_the_estimate_is_x_t_minus_t_v() -> None:
    method = make()
    batch, noisy, t = method._student_input(0)
    v = velocity(method.student, noisy, batch, t)
    assert torch.allclose(method.denoised(batch, noisy, t), noisy - t[:, None, None] * v)


def test_fault_03_real_samples_are_teacher_latents_and_noise_is_caught() -> None:
    method = make()
    batch, _, _ = method._student_input(0)
    rows = {tuple(x.flatten()[:3].tolist()) for x in method.real}
    assert all(tuple(x.flatten()[:3].tolist()) in rows for x in batch.target)
    method.real = torch.randn_like(method.real) * 5
    with pytest.raises(GateError, match="spread"):
        check_wiring(method)


def test_fault_04_the_sampler_ends_at_zero_noise() -> None:
    for steps in (1, 2, 4, 12, 50):
        grid = schedule(steps, 4)
        assert len(grid) == steps + 1 and grid[0] == 1.0 and grid[-1] == 0.0


def test_fault_05_teacher_edits_use_guidance() -> None:
    data, model = toy_pairs(), toy_model()
    batch = gather(data, data.edits())
    assert batch.context is not None
    start = noise(0, range(8), (4, 4, 4))
    empty = Prompt(data.text_tokens[:1], data.text_pooled[:1])
    made = [
        sample(
            model,
            start,
            Prompt(batch.tokens, batch.pooled),
            [batch.context],
            steps=2,
            guidance=Guidance(text=scale),
            empty=empty,
        )
        for scale in (1.0, 3.0)
    ]
    assert not torch.allclose(made[0], made[1], atol=1e-3)


def test_fault_06_gradients_reach_the_student_through_the_frozen_teacher() -> None:
    method = make()
    report = method.step(0)
    assert report["student_grad_norm"] > 0
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    frozen = {name: p.clone() for name, p in method.teacher.named_parameters()}
    method.step(1)
    assert all(torch.equal(p, frozen[name]) for name, p in method.teacher.named_parameters())


def test_fault_07_gradient_norms_are_those_of_the_update() -> None:
    method = make(lr_student=1e-9)
    batch, noisy, t = method._student_input(0)
    with torch.no_grad():
        fake = method.denoised(batch, noisy, t)
    method._update_heads(0, batch, fake)
    reported = method._update_student(0, batch, noisy, t)["student_grad_norm"]
    left = [p.grad.norm() for p in method.student.parameters() if p.grad is not None]
    norm = float(torch.stack(left).norm())
    assert reported > 0 and norm == pytest.approx(min(reported, method.config.clip), rel=1e-2)


def test_fault_08_the_two_updates_do_not_touch_each_other() -> None:
    method = make()
    student = {k: v.clone() for k, v in method.student.state_dict().items()}
    batch, noisy, t = method._student_input(0)
    with torch.no_grad():
        fake = method.denoised(batch, noisy, t)
    method._update_heads(0, batch, fake)
    assert all(torch.equal(v, student[k]) for k, v in method.student.state_dict().items())
    heads = {k: v.clone() for k, v in method.heads.state_dict().items()}
    method._update_student(0, batch, noisy, t)
    assert all(torch.equal(v, heads[k]) for k, v in method.heads.state_dict().items())


def test_fault_09_a_pinned_hinge_stops_the_run() -> None:
    with pytest.raises(GateError, match="pinned at zero"):
        check_training([{"heads_loss": 0.0, "accuracy": 1.0}] * 30)
    assert check_training([{"heads_loss": 1.3, "accuracy": 0.8}] * 30) == []
    with pytest.raises(ValueError, match="batch"):
        DistillConfig(batch=1)


def test_fault_10_the_first_estimate_is_the_teachers_so_tuning_starts_from_a_checked_loop() -> None:
    method = make()
    check_wiring(method)
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(0.5)
    with pytest.raises(GateError, match="first estimate"):
        check_wiring(method)


def test_levels_are_the_samplers_shifted_grid() -> None:
    method = make()
    expected = time_shift(shift_mu(4), torch.tensor([1, 0.75, 0.5, 0.25]))
    assert torch.allclose(method.levels, expected)


def test_warmup_trains_the_cleaner_half_first() -> None:
    method = make(batch=64, warmup_steps=2)
    _, _, early = student_inputs(method, range(2))
    _, _, late = student_inputs(method, range(2, 12))
    assert float(early.max()) <= float(method.levels[2]) + 1e-6
    assert float((late == 1.0).float().mean()) == pytest.approx(0.7, abs=0.07)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_level_probabilities_sum_to_one(steps: int) -> None:
    for warming in (True, False):
        odds = level_probabilities(steps, warming)
        assert len(odds) == steps and float(odds.sum()) == pytest.approx(1)


def test_renoise_levels_are_logit_normal_1_1() -> None:
    method = make()
    (level, _), *_ = method._renoise(0, torch.zeros(20_000, 1, 1), 1)
    logit = torch.logit(level)
    assert float(logit.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(logit.std()) == pytest.approx(1.0, abs=0.03)


def test_negatives_are_wrong_instruction_wrong_context_and_copied_context() -> None:
    method = make()
    batch, _, _ = method._student_input(0)
    wrong, clean = method._negatives(0, batch)
    assert batch.context is not None and wrong.context is not None
    real = pack(batch.target)
    assert not torch.equal(wrong.tokens[0], batch.tokens[0])
    assert torch.equal(wrong.context[0], batch.context[0]) and torch.equal(clean[0], real[0])
    assert not torch.equal(wrong.context[1], batch.context[1])
    assert torch.equal(wrong.tokens[1], batch.tokens[1])
    assert torch.equal(clean[2], pack(batch.context)[2])


def test_heads_see_the_context() -> None:
    method = make()
    batch, _, _ = method._student_input(0)
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


def test_heads_that_never_beat_chance_are_told_of() -> None:
    chance, able = {"heads_loss": 1.9, "accuracy": 0.5}, {"heads_loss": 1.2, "accuracy": 0.7}
    (verdict,) = check_training([chance] * 60)
    assert "never told real from fake (best 50%" in verdict
    # a student that catches up with its teacher ends there too, and that is no fault
    assert check_training([able] * 30 + [chance] * 60) == []
    assert check_training([chance] * 19) == []  # too short to tell
