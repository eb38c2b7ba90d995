"""Sample grids for the training stages: a few validation pairs, edited and decoded."""

from __future__ import annotations

import numpy as np
import torch

from kontext.data.images import contact_sheet
from kontext.data.pair_tensors import PairTensors, gather
from kontext.models.autoencoder import load_autoencoder
from kontext.models.precision import autocast
from kontext.models.transformer import FluxTransformer
from kontext.sample.euler import Guidance, Prompt, noise, sample
from kontext.stage import StageContext

CHANGES_RESULTS = False  # pictures for people

_PER_CATEGORY = 4


def preview_edits(
    ctx: StageContext, model: FluxTransformer, data: PairTensors, steps: int
) -> bytes:
    """PNG grid: per category, context | edit | target for the first few validation pairs."""
    device = data.latents.device
    codec = load_autoencoder(ctx.inputs["train-autoencoder"], device)
    rows, labels = [], []
    edits = set(data.plain_edits().tolist())
    for index, name in enumerate(data.categories):
        pairs = [p for p in torch.nonzero(data.category == index).flatten().tolist() if p in edits]
        if not pairs:
            continue
        batch = gather(data, torch.tensor(pairs[:_PER_CATEGORY]))
        assert batch.context is not None
        start = noise(0, range(len(batch.target)), batch.target.shape[1:]).to(device)
        with autocast(device):
            edited = sample(
                model,
                start,
                Prompt(batch.tokens, batch.pooled),
                [batch.context],
                steps=steps,
                guidance=Guidance(embedded=1.0 if model.shape.guidance_embed else None),
            )
            decoded = [codec.decode(z).float() for z in (batch.context, edited, batch.target)]
        pixels = [
            ((d.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            for d in decoded
        ]
        rows.append([np.ascontiguousarray(p[i]) for i in range(len(batch.target)) for p in pixels])
        labels.append(name)
    return contact_sheet(rows, row_labels=labels, cell=72)
