"""Edits that refer to further pictures: batches, sequences, and that a flow learns from them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import NO_CONTEXT, gather, padded
from kontext.edit.pairs import EditSampler, choose_edits
from kontext.errors import RecipeError
from kontext.models.flux.sequence import pack
from kontext.parallel.flops import Tokens, step_flops
from kontext.parallel.world import World
from kontext.train.flow.validation import level_losses
from kontext.train.flow.velocity import velocity, with_contexts
from kontext.train.loop.fit import fit, generator
from kontext.train.methods.flow import FlowMethod
from schemas.sections.training import DistillConfig, ParallelConfig
from tests.train.toy import SHAPE, toy_config, toy_model, toy_pairs

REFERENCES = ((3,), (4, 5), (), (6,))  # of the first edits


def test_pairs_know_how_many_pictures_they_come_with() -> None:
    data = toy_pairs(references=REFERENCES)
    assert data.context_counts().tolist() == [2, 3, 1, 2, 1, 1, 1, 1, 0, 0, 0, 0]
    assert data.plain_edits().tolist() == [2, 4, 5, 6, 7] and len(data.edits()) == 8
    parts = data.by_shape(torch.tensor([0, 1, 3, 8, 2]))
    assert [part.tolist() for part in parts] == [[3], [4], [0, 2], [1]]
    assert padded([(), ()]) is None and toy_pairs().references is None


def test_a_batch_has_equally_many_and_carries_them_in_order() -> None:
    data = toy_pairs(references=REFERENCES)
    batch = gather(data, torch.tensor([0, 3]))
    assert len(batch.contexts) == 2
    assert torch.equal(batch.contexts[1], data.latents[torch.tensor([3, 6])])
    assert torch.equal(batch.select(torch.tensor([1])).contexts[1], data.latents[6:7])
    assert gather(data, torch.tensor([0, 3]), with_context=False).contexts == ()
    with pytest.raises(ValueError, match="different numbers of contexts"):
        gather(data, torch.tensor([0, 1]))


def test_references_follow_the_context_at_times_of_their_own() -> None:
    batch = gather(toy_pairs(references=REFERENCES), torch.tensor([1]))
    tokens, ids = with_contexts(torch.zeros(1, 4, 16), batch)
    assert tokens.shape == (1, 16, 16)
    assert ids[:, 0].tolist() == [t for t in range(4) for _ in range(4)]
    assert torch.equal(tokens[:, 12:], pack(batch.references[1]))


class OneOfTwo(World):
    """A rank whose sums are its own part: the other is not there."""

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        return dict(values)

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Alone."""

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Alone."""


def test_ranks_share_the_parts_of_a_batch_with_up_to_five_references() -> None:
    """Each rank's losses are its share of the batch's; `tests.parallel.test_shard` runs two."""
    data = toy_pairs(references=[*REFERENCES, (3, 4, 5, 6, 7)])
    config = toy_config(t2i_steps=0, t2i_share=0.2, text_dropout=0.0)
    worlds = (World(), OneOfTwo(rank=0, size=2), OneOfTwo(rank=1, size=2))
    whole, *parts = (dict(FlowMethod(config, data, toy_model(), own).step(0)) for own in worlds)
    assert {"t2i", "edit", "edit_6_contexts"} <= whole.keys()
    for name in whole.keys() - {"grad_norm"}:
        assert sum(part[name] for part in parts) == pytest.approx(whole[name], rel=1e-4), name


def test_five_references_have_places_of_their_own() -> None:
    """Which of them is which changes the velocity: no two have one time, and the fifth is read."""
    data, model = toy_pairs(references=[(3, 4, 5, 6, 7)]), toy_model()
    batch = gather(data, torch.tensor([0]))
    noisy, t = torch.randn(1, 4, 16), torch.tensor([0.5])
    _, ids = with_contexts(noisy, batch)
    assert ids[:, 0].unique().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert torch.equal(ids[:, 1:], ids[:4, 1:].repeat(7, 1))
    own = velocity(model, noisy, batch, t)
    for one, other in ((0, 1), (3, 4)):
        pictures = list(batch.references)
        pictures[one], pictures[other] = pictures[other], pictures[one]
        moved = replace(batch, references=tuple(pictures))
        assert not torch.allclose(velocity(model, noisy, moved, t), own, atol=1e-6)


def test_pictures_of_other_sizes_keep_their_own_tokens_and_places() -> None:
    data = toy_pairs(mixed=True, references=[(5, 7)])
    batch = gather(data, torch.tensor([0]))
    tokens, ids = with_contexts(torch.zeros(1, 4, 16), batch)
    sizes = [tuple(ids[ids[:, 0] == time][:, 1:].max(dim=0).values + 1) for time in range(4)]
    assert sizes == [(2, 2), (2, 2), (2, 3), (2, 4)]
    assert torch.equal(tokens[:, 14:], pack(batch.references[1]))


def test_a_reference_changes_the_velocity_and_the_edit() -> None:
    data, model = toy_pairs(references=REFERENCES), toy_model()
    batch = gather(data, torch.tensor([0]))
    other = replace(batch, references=(data.latents[7:8],))
    noisy, t = torch.randn(1, 4, 16), torch.tensor([0.5])
    assert not torch.equal(velocity(model, noisy, batch, t), velocity(model, noisy, other, t))
    moved = replace(data, references=torch.where(data.references == 3, 7, data.references))  # type: ignore[arg-type]
    edits = [EditSampler(d, 2, 1.0).edits(model, torch.tensor([0])) for d in (data, moved)]
    assert not torch.equal(*edits)


def test_a_step_takes_all_edits_apart_by_their_pictures() -> None:
    data = toy_pairs(edits=60, references=[(3,), (4, 5), ()] * 20)
    method = FlowMethod(toy_config(t2i_steps=0, text_dropout=0.0, image_dropout=0.3), data)
    parts = method.drop_conditions("edit", data.edits(), generator(0, 0, "dropout"))
    names = {part.name for part in parts}
    assert names == {"edit", "edit_2_contexts", "edit_3_contexts", "edit_without_context"}
    assert sorted(p for part in parts for p in part.pairs.tolist()) == list(range(60))


def test_a_flow_learns_what_only_the_reference_tells() -> None:
    """Targets are all dark or all bright, as their references are; nothing else says which."""
    data = toy_pairs(edits=16, singles=0)
    latents = torch.zeros_like(data.latents)
    latents[:8], latents[8:16] = 1.0, -1.0
    data = replace(data, latents=latents, text=torch.ones(16).long())
    config = toy_config(t2i_steps=0, joint_steps=60, batch=32, lr=1e-2)
    ends = []
    for shown in (torch.arange(16), data.context):
        history = fit(FlowMethod(config, replace(data, references=shown[:, None])))
        ends.append(sum(row["loss"] for row in history[-20:]) / 20)
    assert ends[0] < 0.8 * ends[1]


def test_validation_weighs_every_pair_alike() -> None:
    data, model = toy_pairs(references=REFERENCES), toy_model()
    rows = level_losses(model, data, levels=2)
    assert {row["category"] for row in rows} == {
        "local",
        "global",
        "character",
        "style",
        "text",
        "t2i",
    }
    alone = replace(data, references=torch.full((12, 1), NO_CONTEXT))
    assert [r["loss"] for r in level_losses(model, alone, levels=2)] == [
        r["loss"] for r in level_losses(model, toy_pairs(), levels=2)
    ]


def test_work_counts_the_references_tokens() -> None:
    data = toy_pairs(edits=8, singles=0, references=[(3,)] * 8)
    work = FlowMethod(toy_config(t2i_steps=0, batch=4, t2i_share=0), data).work(0)
    tokens = Tokens(5, 4, 8)
    assert (work.tokens, work.flops) == (4 * 17, step_flops(SHAPE, tokens, 4).training)


def test_compiled_blocks_and_ladd_say_what_they_do_with_references() -> None:
    data = toy_pairs(references=REFERENCES)
    with pytest.raises(RecipeError, match="pairs with references"):
        FlowMethod(toy_config(parallel=ParallelConfig(compile="eager")), data)
    chosen = choose_edits(data, DistillConfig(teacher_edits=8))
    assert set(chosen.tolist()) <= set(data.plain_edits().tolist())
