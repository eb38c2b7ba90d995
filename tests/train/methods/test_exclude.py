"""Safety training: what is excluded gives back its context, and the rest stays as it was."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import PairTensors, gather
from kontext.errors import RecipeError
from kontext.models.flux.sequence import pack
from kontext.models.precision import full_precision
from kontext.train.flow.velocity import add_noise, velocity
from kontext.train.loop.fit import fit
from kontext.train.methods.exclude import Asked, ExcludeMethod, NoisedPairs
from schemas.sections.exclusion import ExcludeConfig
from tests.train.toy import toy_config, toy_model, toy_pairs

EXCLUDED = (0, 3)  # of the toy pairs


def asked(data: PairTensors, **changes: object) -> Asked:
    """Two texts ask for what is excluded, one says in other words what pair 1 does."""
    draw = torch.Generator().manual_seed(9)
    groups = torch.full((len(data.target),), -1)
    groups[1] = 0
    found = Asked(
        tokens=torch.randn(3, data.text_tokens.shape[1], 12, generator=draw),
        pooled=torch.randn(3, 12, generator=draw),
        excluded=torch.tensor(EXCLUDED),
        asks=2,
        related=torch.tensor([1, 2]),
        groups=groups,
        said=torch.tensor([0]),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def make(data: PairTensors | None = None, said: Asked | None = None, **changes: object):  # type: ignore[no-untyped-def]
    data = toy_pairs() if data is None else data
    settings = {"steps": 40, "batch": 8, "share": 0.5, "lr": 5e-3, "warmup": 2}
    config = ExcludeConfig.model_validate({**settings, "preserve": "model", **changes})
    flow = toy_config(optimizer="adamw", text_dropout=0.2)
    return ExcludeMethod(config, flow, data, said or asked(data), toy_model(), toy_model())


def parts_of(method: ExcludeMethod, steps: int = 20) -> list[NoisedPairs]:
    return [part for index in range(steps) for part in method.parts_at(index)]  # type: ignore[misc]


def among(row: Tensor, rows: Tensor) -> list[int]:
    return [i for i, other in enumerate(rows) if torch.equal(row, other)]


def test_who_asks_for_what_is_excluded_is_to_get_the_picture_back() -> None:
    method = make()
    contexts, count = set[int](), 0
    for part in (part for part in parts_of(method) if not part.kept):
        assert part.batch.context is not None and torch.equal(part.batch.target, part.batch.context)
        for tokens, context in zip(part.batch.tokens, part.batch.context, strict=True):
            assert among(tokens, method.asked.tokens[:2])  # one of the texts that ask for it
            contexts.update(among(context, method.data.latents))
            count += 1
    assert count == 20 * method.count == 20 * 4
    assert contexts == set(method.data.context[method.data.edits()].tolist())  # any picture


def test_others_keep_their_targets_and_what_they_ask_for() -> None:
    method, seen, other_words, empty = make(), set[int](), 0, 0
    data = method.data
    for part in (part for part in parts_of(method, 60) if part.kept):
        for target, tokens in zip(part.batch.target, part.batch.tokens, strict=True):
            (image,) = among(target, data.latents)
            (pair,) = among(torch.tensor(image), data.target)
            seen.add(pair)
            own = torch.equal(tokens, data.text_tokens[data.text[pair]].float())
            none = torch.equal(tokens, data.text_tokens[data.empty_text].float())
            assert own or none or (pair == 1 and torch.equal(tokens, method.asked.tokens[2]))
            other_words += not own and not none
            empty += none
    assert seen == set(range(len(data.target))) - set(EXCLUDED)
    assert other_words and empty


def test_the_rest_is_held_to_the_flow_as_it_was() -> None:
    method = make()
    with full_precision(True):
        for part in parts_of(method, 3):
            losses = method.losses(part)
            if part.kept:  # nothing is trained yet
                assert float(losses["loss"].detach()) == pytest.approx(0, abs=1e-9)
            else:
                assert float(losses["loss"].detach()) > 0.1
    toward = make(preserve="data")
    part = next(part for part in parts_of(toward) if part.kept)
    clean = pack(part.batch.target)
    eps = clean + (part.noisy - clean) / part.t.view(-1, 1, 1)
    with torch.no_grad(), full_precision(True):
        found = velocity(toward.trained, part.noisy, part.batch, part.t)
        wanted = (found - (eps - clean)).square().mean()
        assert float(toward.losses(part)["loss"].detach()) == pytest.approx(float(wanted), rel=1e-3)


def distance(method: ExcludeMethod, text: int, goal: str) -> float:
    """Mean square error of the clean estimates of noised contexts to contexts or edits' targets."""
    data = method.data
    pairs = data.edits()
    batch = gather(data, pairs)
    tokens = method.asked.tokens[text].expand_as(batch.tokens)
    batch = replace(batch, tokens=tokens, pooled=method.asked.pooled[text].expand_as(batch.pooled))
    clean = pack(batch.context if goal == "context" else batch.target)  # type: ignore[arg-type]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    t = torch.full((len(noise),), 0.9)
    with torch.no_grad():
        noisy = add_noise(clean, noise, t)
        estimate = noisy - 0.9 * velocity(method.trained, noisy, batch, t)
    return float((estimate - clean).square().mean())


def test_training_teaches_the_context_and_changes_the_rest_little() -> None:
    method = make(steps=80)
    before = distance(method, 0, "context")
    fit(method)
    method.state.ema["model"].copy_to(method.trained)
    assert distance(method, 0, "context") < 0.85 * before
    kept = [row["kept"] for row in method.state.history]
    excluded = [row["excluded"] for row in method.state.history]
    assert sum(excluded[-10:]) < 0.9 * sum(excluded[:10])
    assert sum(kept[-10:]) < 0.5 * sum(excluded[-10:])
    assert set(method.summary(method.state.history[-5:])) == {"excluded_loss", "kept_loss"}


def test_a_round_is_the_same_again_and_the_next_draws_others() -> None:
    one, again = (parts_of(make(), 2) for _ in range(2))
    for a, b in zip(one, again, strict=True):
        assert torch.equal(a.noisy, b.noisy) and torch.equal(a.batch.tokens, b.batch.tokens)
    data = toy_pairs()
    other = parts_of(make(data, asked(data, first=40)), 2)
    assert not torch.equal(one[0].noisy, other[0].noisy)


def test_pictures_of_several_sizes_take_turns() -> None:
    method = make(toy_pairs(mixed=True))
    grids = {part.batch.grid for part in parts_of(method) if not part.kept}
    assert len(grids) == 4
    assert method.work(0).tokens > 0


def test_what_a_round_trains_on_is_written_for_ranks(tmp_path: Path) -> None:
    own = asked(toy_pairs(), first=7)
    own.save(tmp_path / "asked.safetensors")
    found = Asked.load(tmp_path / "asked.safetensors")
    assert (found.asks, found.first) == (2, 7)
    for name in ("tokens", "pooled", "excluded", "related", "groups", "said"):
        assert torch.equal(getattr(found, name), getattr(own, name))


def test_there_must_be_something_left() -> None:
    data = toy_pairs(singles=0)
    with pytest.raises(RecipeError, match="none is kept"):
        make(data, asked(data, excluded=torch.arange(8)))
    unlike = toy_pairs(edits=2, singles=2, mixed=True)
    apart = replace(unlike, context=unlike.context.roll(1).where(unlike.context >= 0, -1))
    apart = replace(apart, context=torch.tensor([5, 4, -1, -1]))
    with pytest.raises(RecipeError, match="of its target's size"):
        make(apart, asked(apart, excluded=torch.tensor([0])))
