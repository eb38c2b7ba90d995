from itertools import pairwise
from typing import Any

import pytest
import torch

from kontext.edit.euler import Guidance, Prompt, noise, sample
from kontext.models.flux.layout import ContextCache
from kontext.models.flux.sequence import pack, sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from schemas.sections.models import TransformerShape

SHAPE = TransformerShape(
    in_channels=16,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=16,
    num_heads=2,
    depth=1,
    depth_single_blocks=2,
    axes_dim=(4, 2, 2),
    guidance_embed=False,
    cached_context=True,
)


class Counting(FluxTransformer):
    """Counts how often a cache is made."""

    caches = 0

    def context_cache(self, *args: Any, **kwargs: Any) -> ContextCache:
        self.caches += 1
        return super().context_cache(*args, **kwargs)


@pytest.mark.parametrize("masked", [False, True])
def test_sampling_computes_contexts_once_and_gives_the_uncached_edit(masked: bool) -> None:
    torch.manual_seed(0)
    model = Counting(SHAPE).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    start = noise(1, range(2), (4, 4, 6))
    contexts = [torch.randn(2, 4, 4, 4), torch.randn(2, 4, 2, 6)]
    mask = torch.tensor([[True, True, False]]) if masked else None
    text = Prompt(torch.randn(1, 3, 10), torch.randn(1, 6), mask)
    empty = Prompt(torch.randn(1, 3, 10), torch.randn(1, 6), mask)
    times = torch.tensor([1.0, 0.7, 0.3, 0.0])
    found = sample(
        model, start, text, contexts, times=times, guidance=Guidance(text=2.0), empty=empty
    )
    assert model.caches == 1

    x, clean = pack(start), torch.cat([pack(c) for c in contexts], dim=1)
    ids = sequence_ids((2, 3), [(2, 2), (1, 3)])
    keep = None
    if mask is not None:
        keep = torch.cat((mask.expand(2, -1), torch.ones(2, 13, dtype=torch.bool)), dim=1)
    with torch.no_grad():
        for t, following in pairwise(times):
            sides = [
                model(
                    torch.cat((x, clean), dim=1),
                    ids,
                    p.text.expand(2, -1, -1),
                    p.pooled.expand(2, -1),
                    t.expand(2),
                    target_length=6,
                    attention_mask=keep,
                )
                for p in (text, empty)
            ]
            x = x + (following - t) * (sides[1] + 2 * (sides[0] - sides[1]))
    assert (pack(found) - x).abs().max() <= 1e-5
