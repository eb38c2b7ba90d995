"""Sample grids for the training stages: a few validation pairs, edited and decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kontext.data.encoded.pair_tensors import Batch, PairTensors, gather, tokens_of
from kontext.edit.canvas import Image
from kontext.edit.codec import PictureCodec
from kontext.edit.euler import noise
from kontext.edit.pairs import EditSampler, plain_edits
from kontext.errors import GateError
from kontext.models.autoencoder.network import load_autoencoder
from kontext.models.flux.transformer import FluxTransformer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kontext.store.artifacts.artifact_store import Artifact

CHANGES_RESULTS = False  # pictures for people

_PER_CATEGORY = 4
_SMALLEST, _LARGEST = 72, 512  # cells, in pixels; a sheet of many is reduced to a megabyte


def preview_edits(
    autoencoder: Artifact,
    model: FluxTransformer,
    data: PairTensors,
    steps: int,
    guidance: float = 1.0,
) -> bytes:
    """PNG grid: per category, context | edit | target for the first few validation pairs.

    Where no pair is an edit with one context, of all pairs: text-to-image without a context, edits
    with all that they refer to. As large as pictures are, up to what a page shows.

    Args:
        autoencoder: what stage train-autoencoder has made: it decodes.
    """
    # Pillow: where nothing is shown, not needed
    from kontext.data.contact_sheet import contact_sheet

    codec = PictureCodec(load_autoencoder(autoencoder, data.latents.device))
    sampler = EditSampler(data, steps)
    rows, labels = [], []
    groups = plain_edits(data)
    if not any(map(len, groups)):
        groups = [torch.nonzero(data.category == i).flatten() for i in range(len(groups))]
    for name, pairs in zip(data.categories, groups, strict=True):
        if not len(pairs):
            continue
        shown = pairs[:_PER_CATEGORY]
        found: dict[int, list[Image]] = {}
        for places in data.by_shape(shown):
            batch = gather(data, shown[places])
            start = noise(0, places.tolist(), batch.target.shape[1:])
            times = sampler.times(model, tokens_of(batch.grid))
            edited = sampler.draw(model, start, batch, times, guidance)
            columns = [codec.decode(z) for z in (*batch.contexts, edited, batch.target)]
            found |= {p: [column[i] for column in columns] for i, p in enumerate(places.tolist())}
        rows.append([picture for place in sorted(found) for picture in found[place]])
        labels.append(name)
    return contact_sheet(rows, row_labels=labels, cell=_cell(rows))


def check_prompts(prompts: Sequence[str]) -> None:
    """Ask the text rules and the text classifier: what they stop is not drawn.

    Raises:
        GateError: a prompt is stopped, or (CanaryError) rules or classifier do not work.
    """
    from kontext.safety.texts import judge_texts, prove_texts

    if not prompts:
        return
    prove_texts()
    for number, reason in enumerate(judge_texts(prompts), 1):
        if reason is not None:
            raise GateError(f"encode.prompts: prompt {number} is refused ({reason})")


def preview_prompts(
    autoencoder: Artifact,
    model: FluxTransformer,
    data: PairTensors,
    prompts: Mapping[str, int],
    steps: int,
    guidance: float = 1.0,
) -> bytes:
    """PNG grid: what each prompt gives, a row each, after the pictures that it is given.

    Without a picture, with the first validation edit's, and with those of the first that has
    several, where there are such.

    Args:
        autoencoder: what stage train-autoencoder has made: it decodes.
        prompts: text -> its row in the bank of texts.
    """
    from kontext.data.contact_sheet import contact_sheet

    codec = PictureCodec(load_autoencoder(autoencoder, data.latents.device))
    sampler, counts = EditSampler(data, steps), data.context_counts()
    first = [torch.nonzero(kind).flatten()[:1] for kind in (counts == 1, counts > 1)]
    places = [(torch.zeros(1, dtype=torch.int64), False), *((one, True) for one in first)]

    def drawn(batch: Batch) -> list[Image]:
        times = sampler.times(model, tokens_of(batch.grid))
        start = noise(0, [0], batch.target.shape[1:])
        made = sampler.draw(model, start, batch, times, guidance)
        return [codec.decode(z)[0] for z in (*batch.contexts, made)]

    rows = [
        [
            picture
            for pair, given in places
            if len(pair)
            for picture in drawn(gather(data, pair, torch.tensor([row]), given))
        ]
        for row in prompts.values()
    ]
    return contact_sheet(rows, row_labels=[*prompts], cell=_cell(rows))


def _cell(rows: list[list[Image]]) -> int:
    """Side of a cell in pixels: as large as pictures are, up to what a page shows."""
    longest = int(max(max(picture.shape[:2]) for row in rows for picture in row))
    return max(_SMALLEST, min(longest, _LARGEST))
