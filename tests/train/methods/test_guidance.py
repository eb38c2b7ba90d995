"""Guidance distillation: one pass gives what classifier-free guidance takes two for."""

import pytest
import torch

from kontext.data.encoded.pair_tensors import gather
from kontext.edit.pairs import EditSampler
from kontext.errors import RecipeError
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.velocity import velocity
from kontext.train.loop.fit import fit
from kontext.train.methods.guidance import GuidanceMethod, with_guidance
from tests.train.broken_ladd import teacher
from tests.train.toy import SHAPE, toy_config, toy_pairs

SETTINGS = {"steps": 150, "low": 1.0, "high": 4.0, "batch": 16, "lr": 5e-3, "warmup": 5}


def make(**changes: object) -> GuidanceMethod:
    config = toy_config(guidance_distill={**SETTINGS, **changes}, optimizer="adamw")
    return GuidanceMethod(config, toy_pairs(), teacher())


def test_the_student_starts_as_the_teacher_whatever_it_is_told() -> None:
    model, data = teacher(), toy_pairs()
    student = with_guidance(model)
    batch = gather(data, data.edits())
    noisy, t = torch.randn(8, 4, 16), torch.rand(8)
    expected = velocity(model, noisy, batch, t)
    for guidance in (1.0, 3.5):
        found = velocity(student, noisy, batch, t, torch.full((8,), guidance))
        assert torch.allclose(found, expected, atol=1e-5)
    assert student.shape.guidance_embed and not model.shape.guidance_embed


def test_the_goal_is_the_samplers_guided_velocity() -> None:
    """One Euler step of classifier-free guidance with the sampler, against the method's goal."""
    method = make()
    (part,) = method.parts_at(3)
    batch, noisy, t, guidance = part.batch, part.noisy, part.t, method.guidance_of(part)
    goal, _ = method.guided(batch, noisy, t, guidance)
    row = torch.tensor([5])
    sampler = EditSampler(method.data, 2, float(guidance[5]))
    start = noisy[row].view(1, 2, 2, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 4, 4, 4)
    times = torch.tensor([float(t[5]), 0.0])
    end = sampler.draw(method.teacher, start, batch.select(row), times, float(guidance[5]))
    packed = end.view(1, 4, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 4, 16)
    expected = (noisy[row] - packed) / t[5]
    assert torch.allclose(goal[row], expected, atol=0.02 * float(expected.abs().max()))


def test_only_edits_are_drawn_and_guidance_covers_its_range() -> None:
    method = make()
    told = []
    for index in range(20):
        (part,) = method.parts_at(index)
        assert part.batch.context is not None and len(part.batch.target) == 16
        assert float(part.t.min()) > 0 and float(part.t.max()) < 1
        told.append(method.guidance_of(part))
    every = torch.cat(told)
    assert 1.0 <= float(every.min()) < 1.3 and 3.7 < float(every.max()) <= 4.0


def test_one_pass_learns_what_two_give() -> None:
    method = make()
    frozen = {name: p.clone() for name, p in method.teacher.named_parameters()}
    history = fit(method)
    late = history[-20:]
    deaf = sum(row["unguided"] for row in late)
    assert sum(row["loss"] for row in late) < 0.5 * deaf
    assert all(torch.equal(p, frozen[name]) for name, p in method.teacher.named_parameters())
    # and at sampling: told 3, it lands nearer to the guided edits than the unguided teacher does
    method.state.ema["model"].copy_to(method.student)
    data = method.data
    guided = EditSampler(data, 4, 3.0).edits(method.teacher, data.edits())
    plain = EditSampler(data, 4, 1.0).edits(method.teacher, data.edits())
    told = EditSampler(data, 4, 3.0).edits(method.student, data.edits())
    assert (told - guided).square().mean() < 0.6 * (plain - guided).square().mean()


def test_it_is_repeatable() -> None:
    assert fit(make(steps=3)) == fit(make(steps=3))


def test_a_teacher_it_cannot_work_with_is_refused() -> None:
    with pytest.raises(RecipeError, match="guidance_embed"):
        with_guidance(FluxTransformer(SHAPE.model_copy(update={"guidance_embed": True})))
    config = toy_config(guidance_distill=SETTINGS).model_copy(update={"text_dropout": 0.0})
    with pytest.raises(RecipeError, match="text_dropout"):
        GuidanceMethod(config, toy_pairs(), teacher())
