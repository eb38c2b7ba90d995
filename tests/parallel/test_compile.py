from typing import Any

import pytest
import torch

from kontext.data.buckets import KONTEXT_SIZES
from kontext.errors import RecipeError
from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.compile import closed_lengths, compile_blocks
from schemas.sections.models import TransformerShape

SHAPE = TransformerShape(
    in_channels=8,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=16,
    num_heads=1,
    depth=3,
    depth_single_blocks=3,
    axes_dim=(4, 6, 6),
    guidance_embed=False,
    cached_context=True,
)


def randomised() -> FluxTransformer:
    torch.manual_seed(0)
    model = FluxTransformer(SHAPE)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model.eval()


def inputs(grid: tuple[int, int], contexts: int = 1) -> dict[str, Any]:
    ids = sequence_ids(grid, [grid] * contexts)
    return {
        "tokens": torch.randn(1, len(ids), 8),
        "ids": ids,
        "text": torch.randn(1, 3, 10),
        "pooled": torch.randn(1, 6),
        "timesteps": torch.rand(1),
        "target_length": grid[0] * grid[1],
    }


def test_kontexts_17_sizes_are_9_lengths_for_each_number_of_contexts() -> None:
    targets = [width // 16 * (height // 16) for width, height in KONTEXT_SIZES]
    assert len(closed_lengths(targets, 512, contexts=0)) == 9
    assert len(closed_lengths(targets, 512)) == 18
    assert 512 + 2 * 4096 in closed_lengths(targets, 512)


def test_compiled_blocks_give_the_same_and_share_their_graphs() -> None:
    model = randomised()
    names = list(model.state_dict())
    cases = [inputs((2, 6)), inputs((3, 4)), inputs((4, 3), contexts=0)]
    with torch.no_grad():
        expected = [model(**x) for x in cases]
        torch._dynamo.reset()
        graphs: list[int] = []

        def backend(module: torch.fx.GraphModule, _: Any) -> Any:
            graphs.append(len(list(module.graph.nodes)))
            return module.forward

        compile_blocks(model, closed_lengths([12], 3), backend=backend)
        found = [model(**x) for x in cases[:2]]
        per_length = len(graphs)
        found.append(model(**cases[2]))
    for ours, eager in zip(found, expected, strict=True):
        assert torch.allclose(ours, eager, atol=1e-5)
    assert list(model.state_dict()) == names
    # a double block, a single block and the last one; 2x6 and 3x4 are one length
    assert per_length == 3
    assert len(graphs) == 6


def test_a_length_outside_the_set_is_an_error() -> None:
    model = randomised()
    torch._dynamo.reset()
    compile_blocks(model, [27], backend="eager")
    x = inputs((2, 6))
    with torch.no_grad():
        model(**x)
        with pytest.raises(RecipeError, match="compiled for 27 tokens, not for 15"):
            model(**inputs((2, 6), contexts=0))
        cache = model.context_cache(x["tokens"][:, 12:], x["ids"][12:], x["pooled"])
        short = {**x, "tokens": x["tokens"][:, :12], "ids": x["ids"][:12]}
        assert torch.allclose(model(**short, cache=cache), model(**x), atol=1e-5)


def test_no_lengths_is_an_error() -> None:
    with pytest.raises(RecipeError, match="no sequence lengths"):
        compile_blocks(randomised(), [])
