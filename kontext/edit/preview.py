"""Sample grids for the training stages: a few validation pairs, edited and decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kontext.data.encoded.pair_tensors import PairTensors, gather, tokens_of
from kontext.edit.canvas import Image
from kontext.edit.codec import PictureCodec
from kontext.edit.euler import noise
from kontext.edit.pairs import EditSampler, plain_edits
from kontext.models.autoencoder.network import load_autoencoder
from kontext.models.flux.transformer import FluxTransformer

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext

CHANGES_RESULTS = False  # pictures for people

_PER_CATEGORY = 4
_SMALLEST, _LARGEST = 72, 512  # cells, in pixels; a sheet of many is reduced to a megabyte


def preview_edits(
    ctx: StageContext, model: FluxTransformer, data: PairTensors, steps: int, guidance: float = 1.0
) -> bytes:
    """PNG grid: per category, context | edit | target for the first few validation pairs.

    Where no pair is an edit with one context, of all pairs: text-to-image without a context, edits
    with all that they refer to. As large as pictures are, up to what a page shows.
    """
    # Pillow: where nothing is shown, not needed
    from kontext.data.contact_sheet import contact_sheet

    codec = PictureCodec(load_autoencoder(ctx.inputs["train-autoencoder"], data.latents.device))
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
    longest = max(max(picture.shape[:2]) for row in rows for picture in row)
    cell = max(_SMALLEST, min(longest, _LARGEST))
    return contact_sheet(rows, row_labels=labels, cell=cell)
