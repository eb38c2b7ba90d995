"""Training on pictures of several sizes: what is drawn, and what a step makes of it."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from kontext.data.encoded.pair_tensors import (
    SizedDraw,
    edit_magnitudes,
    gather,
    sampling_weights,
    sizes_of,
)
from kontext.data.encoded.rows import MappedRows, spread
from kontext.edit.pairs import EditSampler, choose_edits
from kontext.errors import RecipeError
from kontext.parallel.flops import Tokens
from kontext.train.flow.timesteps import shift_mu
from kontext.train.flow.velocity import change_weights
from kontext.train.loop.fit import generator
from kontext.train.methods.flow import FlowMethod
from kontext.train.methods.ladd import LaddMethod
from schemas.sections.training import DistillConfig
from tests.train.toy import SHAPE, SHAPES, toy_config, toy_model, toy_pairs

GRIDS = [(rows // 2, columns // 2) for rows, columns in SHAPES]
REFERENCES = ((3,), (4, 5), (), (6,))  # of the first edits: other sizes than their targets


def test_rows_of_several_shapes_are_read_by_shape() -> None:
    rows = MappedRows([torch.ones(3, 2, 4, 4), 2 * torch.ones(2, 2, 4, 6)])
    assert len(rows) == 5 and [shape[2] for shape in rows.row_shapes] == [4, 4, 4, 6, 6]
    assert rows[torch.tensor([4, 3])].shape == (2, 2, 4, 6)
    for ask in (lambda: rows[torch.tensor([2, 3])], lambda: rows.shape):
        with pytest.raises(ValueError, match="rows of 2 shapes"):
            ask()
    values = torch.cat([torch.ones(3 * 32), 2 * torch.ones(2 * 48)])
    assert torch.allclose(spread(rows), values.std())


def test_pairs_know_their_shapes() -> None:
    data = toy_pairs(mixed=True, references=REFERENCES)
    assert data.shapes[0] == (GRIDS[0], GRIDS[0], GRIDS[3]) and data.shapes[8] == (GRIDS[0],)
    assert data.target_tokens == [4, 6, 8] and data.channels == 4
    assert data.lengths(torch.tensor([1])) == Tokens(5, 6, 6 + 4 + 6)
    parts = data.by_shape(torch.tensor([2, 8, 6, 3, 9, 2]))
    assert [part.tolist() for part in parts] == [[1], [4], [0, 2, 5], [3]]
    with pytest.raises(ValueError, match="rows of 2 shapes"):
        gather(data, torch.tensor([4, 5]))
    with pytest.raises(ValueError, match="targets of 2 sizes"):
        data.grid(torch.tensor([4, 5]))


def test_sizes_and_categories_keep_their_weights_and_a_batch_has_one_size() -> None:
    data = toy_pairs(edits=40, singles=12, mixed=True)
    weights, by_size = {"local": 3.0, "text": 0.5}, {"48x32": 3.0, "32x48": 0.2}
    config = toy_config(
        category_weights=weights,
        size_weights=by_size,
        t2i_share=0.25,
        t2i_steps=0,
        joint_steps=2000,
    )
    method = FlowMethod(config, data, toy_model())
    sizes, categories = Counter[tuple[int, int]](), Counter[str]()
    for step in range(2000):
        for name, pairs in method.pairs_at(step):
            (size,) = set(sizes_of(data, pairs))
            if name == "edit":
                sizes[size] += len(pairs)
                categories.update(data.categories[row] for row in data.category[pairs])
    edits = data.edits()
    asked = sampling_weights(data, edits, weights, size_weights=by_size)
    for kinds, found in (
        (sizes_of(data, edits), sizes),
        ([data.categories[row] for row in data.category[edits]], categories),
    ):
        for kind in set(kinds):
            wanted = sum(float(w) for w, own in zip(asked, kinds, strict=True) if own == kind)
            assert found[kind] / found.total() == pytest.approx(wanted, abs=0.035), kind  # type: ignore[index]


def test_weights_of_sizes_hold_inside_a_category_and_name_sizes_that_there_are() -> None:
    data = toy_pairs(edits=40, mixed=True)
    edits = data.edits()
    plain = sampling_weights(data, edits, {})
    found = sampling_weights(data, edits, {}, size_weights={"64x32": 4.0})
    for category in range(5):
        rows = data.category[edits] == category
        assert float(found[rows].sum()) == pytest.approx(float(plain[rows].sum()))
        large = rows & torch.tensor([size == GRIDS[3] for size in sizes_of(data, edits)])
        ratio = found[large][0] / found[rows & ~large][0]
        assert float(ratio) == pytest.approx(4.0, rel=1e-5)
    with pytest.raises(RecipeError, match="no edit's target is 9x9; there are 32x32, 32x48"):
        sampling_weights(data, edits, {}, size_weights={"9x9": 1.0})


def test_a_source_has_its_share_whatever_its_number_of_pairs() -> None:
    """Two edits of one's own beside 40 of another set, each of all categories."""
    data = toy_pairs(edits=42, singles=8)
    named = {"source": torch.tensor([0] * 2 + [1] * 40 + [0] * 2 + [1] * 6)}
    data = replace(data, sources=("pairs:mine", "pairs:theirs"), **named)
    edits = data.edits()
    plain = sampling_weights(data, edits, {})
    weights = sampling_weights(data, edits, {}, source_weights={"pairs:mine": 3.0})
    assert float(weights[:2].sum()) == pytest.approx(0.75) and float(plain[:2].sum()) < 0.1
    assert torch.allclose(weights[2:] / weights[2:].sum(), plain[2:] / plain[2:].sum())
    config = toy_config(t2i_share=0.5, batch=200, source_weights={"pairs:mine": 0.0})
    for _, pairs in FlowMethod(config, data, toy_model()).pairs_at(3):
        assert data.source is not None and set(data.source[pairs].tolist()) == {1}
    for own, words in ((data, "no pair is of x; there are pairs:mine, pairs:theirs"),
                       (replace(data, source=None), "do not say their source")):  # fmt: skip
        with pytest.raises(RecipeError, match=words):
            sampling_weights(own, edits, {}, source_weights={"x": 1.0})
    nothing = dict.fromkeys(data.sources, 0.0)
    with pytest.raises(RecipeError, match="every edit of the training split weighs 0"):
        sampling_weights(data, edits, {}, source_weights=nothing)
    with pytest.raises(RecipeError, match="every text-to-image pair of the training split weighs"):
        sampling_weights(data, data.singles(), {}, source_weights=nothing)
    with pytest.raises(ValidationError, match=r"source_weights\.pairs:mine"):
        toy_config(source_weights={"pairs:mine": -1.0})


def test_singles_that_are_never_drawn_may_weigh_nothing() -> None:
    data = toy_pairs(edits=4, singles=4)
    data = replace(data, source=torch.tensor([0] * 4 + [1] * 4), sources=("edits", "words"))
    config = toy_config(t2i_steps=0, t2i_share=0.0, source_weights={"words": 0.0})
    ((_, pairs),) = FlowMethod(config, data, toy_model()).pairs_at(0)
    assert set(pairs.tolist()) <= set(range(4))


def test_pairs_of_one_size_are_drawn_as_ever() -> None:
    """Not a number more is drawn for them than before there were sizes."""
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    drawn = SizedDraw(weights, ["all"] * 4)(6, generator(0, 3, "batch"))
    draw = generator(0, 3, "batch")
    assert torch.equal(drawn, torch.multinomial(weights, 6, replacement=True, generator=draw))
    plain = SizedDraw(None, ["all"] * 4)(6, generator(0, 3, "batch"))
    assert torch.equal(plain, torch.randint(4, (6,), generator=generator(0, 3, "batch")))


def test_a_flow_learns_on_all_sizes_with_zero_one_and_several_references() -> None:
    data = toy_pairs(mixed=True, references=REFERENCES)
    config = toy_config(joint_steps=40, t2i_share=0.25, mask_weight=2.0)
    method = FlowMethod(config, data, toy_model())
    rows = [method.step(step) for step in range(42)]
    names = {name for row in rows for name in row}
    assert {"t2i", "edit", "edit_2_contexts", "edit_3_contexts"} <= names
    losses = [row["loss"] for row in rows]
    assert sum(losses[-8:]) < 0.95 * sum(losses[2:10])
    held_out = method.validation_losses(data)
    assert held_out["val_loss"] > 0


def test_a_steps_work_is_that_of_its_sizes() -> None:
    data = toy_pairs(mixed=True)
    method = FlowMethod(toy_config(t2i_steps=0, t2i_share=0.0), data, toy_model())
    ((_, pairs),) = method.pairs_at(0)
    lengths = data.lengths(pairs)
    assert lengths.context == lengths.target
    assert method.work(0).tokens == 8 * lengths.count
    assert len({method.work(step).tokens for step in range(20)}) == 3


def test_levels_follow_the_targets_own_length() -> None:
    data = toy_pairs(mixed=True)
    sampler = EditSampler(data, 4)
    model = toy_model()
    assert not torch.equal(sampler.times(model, 4), sampler.times(model, 8))
    assert shift_mu(4, SHAPE.timestep_shift) != shift_mu(8, SHAPE.timestep_shift)
    made = sampler.edits(model, torch.tensor([3, 7]))
    assert made.shape == (2, 4, 4, 8)


def test_a_student_is_taught_on_one_shape_at_a_time() -> None:
    data = toy_pairs(mixed=True)
    config = DistillConfig(teacher_edits=8, batch=4, taps=(0, 2), steps=8, accumulate=2)
    edits = choose_edits(data, config)
    assert sizes_of(data, edits) == sorted(sizes_of(data, edits))
    real = MappedRows([data.latents[data.target[pair].view(1)] for pair in edits])
    method = LaddMethod(config, data, edits, real, toy_model())
    grids = set()
    for step in range(8):
        batch, noisy, t = method.student_input(step)
        grids.add(batch.grid)
        tokens = noisy.shape[1]
        assert all(bool((level == method.levels(tokens)).any()) for level in t)
        report = method.step(step)
        assert report["student_loss"] == report["student_loss"]
    assert len(grids) >= 3


def test_a_context_of_another_size_is_compared_with_nothing() -> None:
    data = toy_pairs(mixed=True)
    data = replace(data, context=data.context[[1, 0, 2, *range(3, 12)]])
    assert data.shapes[0] == (GRIDS[0], GRIDS[1])
    batch = gather(data, torch.tensor([0]))
    assert batch.context is not None
    assert torch.equal(change_weights(batch.target, batch.context, 5.0), torch.ones(1, 4, 1))
    size = edit_magnitudes(data, torch.tensor([0]))
    assert torch.allclose(size, batch.target.square().mean().sqrt())
    config = DistillConfig(batch=2, taps=(0,), negatives=("copy",))
    method = LaddMethod(config, data, torch.tensor([0]), batch.target, toy_model())
    wrong, clean = method.negatives(0, gather(data, torch.tensor([0, 0])))
    assert wrong.context is not None and wrong.context.shape[2:] == (4, 6)
    assert clean.shape == (2, 4, 16)


def test_a_share_of_what_the_teacher_makes_is_drawn_from_words_alone() -> None:
    data = toy_pairs(edits=24, singles=12, mixed=True)
    config = DistillConfig(teacher_edits=16, t2i_share=0.25, steps=24, batch=4)
    chosen = choose_edits(data, config)
    words = [pair for pair in chosen.tolist() if pair in set(data.singles().tolist())]
    assert len(chosen) == len(set(chosen.tolist())) == 16 and len(words) == 4
    real = MappedRows([data.latents[data.target[pair].view(1)] for pair in chosen])
    method = LaddMethod(config, data, chosen, real, toy_model())
    contexts = set()
    for step in range(config.steps):
        batch, _, _ = method.student_input(step)
        contexts.add(len(batch.contexts))
        assert math.isfinite(method.step(step)["student_loss"])
    assert contexts == {0, 1}
    only = choose_edits(data, DistillConfig(teacher_edits=8, t2i_share=1.0))
    assert set(only.tolist()) <= set(data.singles().tolist())
    with pytest.raises(RecipeError, match="asks for 20 pictures from words, and training has 12"):
        choose_edits(data, DistillConfig(teacher_edits=20, t2i_share=1.0))
    with pytest.raises(RecipeError, match="training has no edits with one context"):
        choose_edits(toy_pairs(edits=0), DistillConfig(teacher_edits=8))
