from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.context_cache import saving
from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.attention import use_kernel
from kontext.parallel.flops import (
    Flops,
    Tokens,
    _attention,
    _token_weights,
    cache_flops,
    step_flops,
    utilisation,
)
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

FLUX = TransformerShape()
SQUARE = Tokens(text=512, target=4096, context=4096)


@st.composite
def shapes(draw: st.DrawFn) -> TransformerShape:
    heads = draw(st.integers(1, 2))
    return TransformerShape(
        in_channels=draw(st.sampled_from([4, 12])),
        vec_in_dim=10,
        context_in_dim=14,
        hidden_size=heads * 12,
        num_heads=heads,
        mlp_ratio=draw(st.sampled_from([2.0, 4.0])),
        depth=draw(st.integers(0, 2)),
        depth_single_blocks=draw(st.integers(1, 3)),
        axes_dim=(4, 4, 4),
        guidance_embed=draw(st.booleans()),
        cached_context=draw(st.booleans()),
    )


def counted(run: Any) -> int:
    use_kernel("math")  # plain products: every attention is counted, on any device
    try:
        with FlopCounterMode(display=False) as counter:
            run()
    finally:
        use_kernel("auto")
    return int(counter.get_total_flops())


def inputs(of: TransformerShape, target: int, context: int, text: int) -> dict[str, Any]:
    return {
        "tokens": torch.randn(2, target + context, of.in_channels),
        "ids": sequence_ids((1, target), [(1, context)] if context else []),
        "text": torch.randn(2, text, of.context_in_dim),
        "pooled": torch.randn(2, of.vec_in_dim),
        "timesteps": torch.rand(2),
        "guidance": torch.rand(2) if of.guidance_embed else None,
    }


@settings(max_examples=12, deadline=None)
@given(shapes(), st.integers(1, 6), st.integers(0, 6), st.integers(1, 5))
def test_counts_are_those_of_pytorch(
    of: TransformerShape, target: int, context: int, text: int
) -> None:
    model, x = FluxTransformer(of), inputs(of, target, context, text)
    tokens = Tokens(text, target, context)
    expected = step_flops(of, tokens, batch=2)
    with torch.no_grad():
        assert counted(lambda: model(**x, target_length=target)) == expected.total
    training = counted(lambda: model(**x, target_length=target).sum().backward())
    assert training == expected.training
    if not (of.cached_context and context):
        return
    more = {"pooled": x["pooled"], "guidance": x["guidance"]}
    clean, where = x["tokens"][:, target:], x["ids"][target:]
    cache = model.context_cache(clean, where, **more)
    made = counted(lambda: model.context_cache(clean, where, **more))
    assert made == cache_flops(of, context, batch=2).total
    x.update(tokens=x["tokens"][:, :target], ids=x["ids"][:target])
    with torch.no_grad():
        step = counted(lambda: model(**x, target_length=target, cache=cache))
    assert step == step_flops(of, tokens, batch=2, cache=True).total


def block_flops(shape: TransformerShape, tokens: int) -> Flops:
    """Forward of all blocks on `tokens` that all see each other: the published convention.

    FLUX.1 at 1024 x 1024 and 512 text tokens: 74.4 TFLOP, with one context 165.4.
    """
    blocks = shape.depth + shape.depth_single_blocks
    return Flops(2 * _token_weights(shape) * blocks * tokens, _attention(shape, tokens**2) * blocks)


def test_flux_has_the_published_counts() -> None:
    plain, edit = block_flops(FLUX, 4608), block_flops(FLUX, 8704)
    assert plain.total / 1e12 == pytest.approx(74.4, abs=0.05)
    assert edit.total / 1e12 == pytest.approx(165.4, abs=0.1)
    assert edit.linear / 1e12 == pytest.approx(112.4, abs=0.05)
    assert edit.attention / 1e12 == pytest.approx(53.1, abs=0.05)
    assert plain.linear / 4608 / 2e9 == pytest.approx(6.455, abs=0.001)
    # trained: 38.73 GFLOP a token for the linears, 496 TFLOP for an edit
    assert 3 * edit.linear / 8704 / 1e9 == pytest.approx(38.73, abs=0.01)
    assert edit.training / 1e12 == pytest.approx(496, abs=1)
    # what runs is a little less: the last block is computed for the targets alone
    assert 0.98 < step_flops(FLUX, SQUARE).total / edit.total < 1.0


@pytest.mark.parametrize(
    ("of", "tokens"), [(FLUX, SQUARE), (FinetuneConfig().shape, Tokens(20, 16, 16))]
)
def test_cached_context_saves_over_a_third_of_a_step(of: TransformerShape, tokens: Tokens) -> None:
    floor = 0.35 if of is FLUX else 0.25  # the demo's text is longer than its images
    assert saving(of, tokens) >= floor
    assert saving(of, tokens, steps=4) < saving(of, tokens, steps=28) < saving(of, tokens)


def test_an_edit_of_four_steps_keeps_the_saving_at_full_size() -> None:
    assert saving(FLUX, SQUARE, steps=4) >= 0.35
    assert saving(FLUX, SQUARE, steps=28) >= 0.45


def test_a_joint_shape_has_no_cache_to_count() -> None:
    with pytest.raises(ValueError, match="caches no contexts"):
        step_flops(FLUX, SQUARE, cache=True)


def test_utilisation_is_work_over_time_over_peak() -> None:
    assert utilisation(300, 2.0, 600.0) == 0.25
