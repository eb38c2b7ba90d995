"""A tiny encoded dataset and transformer for the training tests."""

from collections.abc import Sequence

import torch

from kontext.data.encoded.pair_tensors import NO_CONTEXT, PairTensors, padded
from kontext.data.encoded.rows import MappedRows, Rows
from kontext.models.flux.transformer import FluxTransformer
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig
from schemas.tables import RELATION_CLASSES

SHAPES = ((4, 4), (4, 6), (6, 4), (4, 8))  # of latents of mixed sizes: rows, columns
SHAPE = TransformerShape(
    in_channels=16,
    vec_in_dim=12,
    context_in_dim=12,
    hidden_size=32,
    num_heads=2,
    depth=1,
    depth_single_blocks=2,
    axes_dim=(4, 6, 6),
    guidance_embed=False,
)


def toy_pairs(
    edits: int = 8,
    singles: int = 4,
    seed: int = 0,
    text_length: int = 5,
    references: Sequence[Sequence[int]] = (),
    mixed: bool = False,
) -> PairTensors:
    """`edits` pairs with a context and `singles` without, latents [*, 4, 4, 4].

    `references`: of the first edits, rows of latents.
    `mixed`: pairs have the shapes of `SHAPES` by turns, a context that of its target.
    """
    draw = torch.Generator().manual_seed(seed)
    n = edits + singles
    latents: Rows = torch.randn(2 * n, 4, 4, 4, generator=draw)
    if mixed:
        sides = [SHAPES[row % n % len(SHAPES)] for row in range(2 * n)]
        latents = MappedRows([torch.randn(1, 4, *side, generator=draw) for side in sides])
    return PairTensors(
        latents=latents,
        text_tokens=torch.randn(n + 1, text_length, 12, generator=draw),
        text_pooled=torch.randn(n + 1, 12, generator=draw),
        target=torch.arange(n),
        context=torch.tensor([n + i for i in range(edits)] + [NO_CONTEXT] * singles),
        text=torch.arange(1, n + 1),
        category=torch.tensor([i % 5 for i in range(edits)] + [5] * singles),
        categories=RELATION_CLASSES,
        empty_text=0,
        references=padded([*references, *[()] * (n - len(references))]),
    )


def toy_config(**changes: object) -> FinetuneConfig:
    values = {"shape": SHAPE, "t2i_steps": 2, "joint_steps": 4, "batch": 8, "warmup": 1, "lr": 1e-2}
    return FinetuneConfig.model_validate({**values, **changes})


def toy_model(seed: int = 0, std: float = 0.05) -> FluxTransformer:
    """A transformer whose zero-initialised layers are made random, so that it does something.

    With `std` 0.3 what it attends to counts, too: a wrong context is seen in the loss.
    """
    torch.manual_seed(seed)
    model = FluxTransformer(SHAPE)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=std)
    return model
