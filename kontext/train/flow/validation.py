"""The loss of held-out pairs, per noise level and category, with the same noise every time.

And what of it the model owes to the pictures that an edit comes with.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import Batch, PairTensors, gather
from kontext.models.flux.sequence import pack
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.timesteps import validation_levels
from kontext.train.flow.velocity import add_noise, unit_guidance, velocity
from kontext.train.loop.fit import generator

_TOKENS = 2**16  # that go through the model at a time
_NONE = -1  # the category of pairs that are left out


def validation(
    model: FluxTransformer, held_out: PairTensors, limit: int, seed: int, told: float = 1.0
) -> dict[str, float]:
    """Mean loss of held-out pairs: of all (`val_loss`), per category, and per noise level.

    With them `context_gain`, where it can be measured.

    On several ranks all compute the same: the model's weights are gathered block by block.

    Args:
        limit: pairs per category, at most.
        seed: of the noise.
        told: see `level_losses`.
    """
    rows = level_losses(model, held_out, limit=limit, seed=seed, told=told)
    found = {"val_loss": _mean(rows)}
    if (gain := context_gain(model, held_out, seed, told, limit)) is not None:
        found["context_gain"] = gain
    for key in ("category", "level"):
        for value in sorted({row[key] for row in rows}, key=str):
            found[f"val_loss/{key}_{value}"] = _mean([r for r in rows if r[key] == value])
    return found


def _mean(rows: Sequence[Mapping[str, float | str]]) -> float:
    return sum(float(row["loss"]) for row in rows) / max(1, len(rows))


def context_gain(
    model: FluxTransformer,
    held_out: PairTensors,
    seed: int = 0,
    told: float = 1.0,
    limit: int = 16,
) -> float | None:
    """What the pictures that an edit comes with save of the loss: 1 - own / exchanged.

    Both are losses of held-out edits over the noise levels, from the same noise: with their own
    context and references, and with another edit's. 0: it does not look at them, or what it sees
    is of no use. None where no edit can be given those of another one.

    Args:
        told: see `level_losses`.
        limit: edits per category, at most: each goes through the model eight times.
    """
    given = _exchangeable(held_out)
    if given is None:
        return None
    own, exchanged = (
        _mean(level_losses(model, data, levels=4, limit=limit, seed=seed, told=told))
        for data in given
    )
    return 1 - own / max(exchanged, 1e-12)


def _exchangeable(data: PairTensors) -> tuple[PairTensors, PairTensors] | None:
    """The edits that have another one of their shape, with their own pictures and with its.

    Half a round further among those of one shape: neighbours are often the way there and back,
    whose context is the target that is asked for.
    """
    context, category = data.context.clone(), torch.full_like(data.category, _NONE)
    references = None if data.references is None else data.references.clone()
    edits = data.edits()
    for rows in data.by_shape(edits):
        pairs = edits[rows]
        others = pairs.roll(len(pairs) // 2)
        context[pairs] = data.context[others]
        if references is not None and data.references is not None:
            references[pairs] = data.references[others]
        new = (context[pairs] != data.context[pairs]) & (context[pairs] != data.target[pairs])
        category[pairs[new]] = data.category[pairs[new]]
    if not bool((category != _NONE).any()):
        return None
    own = replace(data, category=category)
    return own, replace(own, context=context, references=references)


@torch.no_grad()
def level_losses(
    model: FluxTransformer,
    data: PairTensors,
    levels: int = 8,
    limit: int = 64,
    seed: int = 0,
    told: float = 1.0,
) -> list[dict[str, float | str]]:
    """Held-out loss per noise level and category, with noise fixed by `seed`.

    Returns rows {category, level, t, loss, n}; at most `limit` pairs per category. `t` is a mean
    where targets differ in size, which the levels depend on.

    Args:
        told: the guidance that a model with an embedding is told, as in training.
    """
    rows: list[dict[str, float | str]] = []
    shift = model.shape.timestep_shift
    times = {n: validation_levels(levels, n, shift) for n in data.target_tokens}
    for index, name in enumerate(data.categories):
        pairs = torch.nonzero(data.category == index).flatten()[:limit]
        if not len(pairs):
            continue
        draw = generator(seed, index, "noise")
        losses, shares = torch.zeros(levels), Counter[int]()
        for part in data.by_shape(pairs):
            alike = pairs[part]
            lengths = data.lengths(alike)
            eps = torch.randn(len(alike), lengths.target, 4 * data.channels, generator=draw)
            shares[lengths.target] += len(alike)
            at_once = max(1, _TOKENS // lengths.count)
            for few in torch.split(torch.arange(len(alike)), at_once):
                batch = gather(data, alike[few])
                noise, share = eps[few].to(batch.target.device), len(few) / len(pairs)
                for level, t in enumerate(times[lengths.target].tolist()):
                    losses[level] += _level_loss(model, batch, noise, t, told) * share
        means = torch.stack([times[n] * (k / len(pairs)) for n, k in shares.items()]).sum(dim=0)
        rows += [
            {"category": name, "level": level, "t": t, "loss": loss, "n": len(pairs)}
            for level, (t, loss) in enumerate(zip(means.tolist(), losses.tolist(), strict=True))
        ]
    return rows


def _level_loss(model: FluxTransformer, batch: Batch, eps: Tensor, t: float, told: float) -> float:
    clean = pack(batch.target)
    times = torch.full((len(clean),), t, device=clean.device)
    guidance = unit_guidance(model, times)
    guidance = None if guidance is None else told * guidance
    predicted = velocity(model, add_noise(clean, eps, times), batch, times, guidance)
    return float((predicted - (eps - clean)).square().mean())
