"""Cached contexts: equal to running them at every step, and to the plain mask."""

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.attention import use_kernel
from schemas.sections.models import TransformerShape

Grid = tuple[int, int]


class Sample(NamedTuple):
    """One sample without the batch dimension."""

    tokens: Tensor  # [N, C]: [target | contexts]
    ids: Tensor  # [N, 3]
    text: Tensor  # [L, D]
    pooled: Tensor  # [P]
    target_length: int


def shape(**changes: Any) -> TransformerShape:
    values: dict[str, Any] = {
        "in_channels": 16,
        "vec_in_dim": 12,
        "context_in_dim": 20,
        "hidden_size": 32,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": (4, 6, 6),
        "guidance_embed": True,
    }
    return TransformerShape(**{**values, **changes})


def randomised(model: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if name.endswith("scale") else 0.0, 0.08, generator=generator)
    return model.eval()


def sample(of: TransformerShape, grids: list[Grid], text: int, seed: int) -> Sample:
    g = torch.Generator().manual_seed(seed)
    ids = sequence_ids(grids[0], grids[1:])
    return Sample(
        tokens=torch.randn(len(ids), of.in_channels, generator=g),
        ids=ids,
        text=torch.randn(text, of.context_in_dim, generator=g),
        pooled=torch.randn(of.vec_in_dim, generator=g),
        target_length=grids[0][0] * grids[0][1],
    )


def alone(model: FluxTransformer, x: Sample, t: Tensor, guidance: Tensor, **more: Any) -> Tensor:
    return model(
        x.tokens[None],
        x.ids,
        x.text[None],
        x.pooled[None],
        t[None],
        target_length=x.target_length,
        guidance=guidance[None],
        **more,
    )[0]


@pytest.mark.parametrize("kernel", ["sdpa", "math"])
@pytest.mark.parametrize("contexts", [[(2, 2)], [(3, 1), (2, 4)]], ids=["one", "two"])
def test_cached_equals_uncached_at_every_step(kernel: str, contexts: list[Grid]) -> None:
    model = randomised(FluxTransformer(shape(cached_context=True)))
    x = sample(model.shape, [(2, 3), *contexts], 4, 1)
    n, guidance = x.target_length, torch.tensor(2.5)
    use_kernel(kernel)
    try:
        cache = model.context_cache(
            x.tokens[None, n:], x.ids[n:], x.pooled[None], guidance=guidance[None]
        )
        assert cache.length == len(x.ids) - n
        short = x._replace(tokens=x.tokens[:n], ids=x.ids[:n])
        with torch.no_grad():
            for t in (1.0, 0.6, 0.1):
                moved = short._replace(tokens=short.tokens * t)
                full = x._replace(tokens=torch.cat((moved.tokens, x.tokens[n:])))
                step = torch.tensor(t)
                cached = alone(model, moved, step, guidance, cache=cache)
                assert (cached - alone(model, full, step, guidance)).abs().max() <= 1e-5
            without = alone(model, moved, step, guidance)
    finally:
        use_kernel("auto")
    assert (cached - without).abs().max() > 1e-3  # the contexts are seen


def test_one_cache_serves_a_batch_and_masked_text() -> None:
    model = randomised(FluxTransformer(shape(cached_context=True, guidance_embed=False)))
    x = sample(model.shape, [(2, 3), (2, 2)], 4, 1)
    cache = model.context_cache(x.tokens[None, 6:], x.ids[6:], x.pooled[None])
    g = torch.Generator().manual_seed(3)
    targets, t = torch.randn(2, 6, 16, generator=g), torch.tensor([0.3, 0.8])
    text, pooled = x.text.expand(2, -1, -1), x.pooled.expand(2, -1)
    keep = torch.ones(2, 4 + 10, dtype=torch.bool)
    keep[1, 2:4] = False
    both = torch.cat((targets, x.tokens[6:].expand(2, -1, -1)), dim=1)
    pairs = keep[:, None].expand(-1, 14, -1)
    with torch.no_grad():
        cached = model(
            targets,
            x.ids[:6],
            text,
            pooled,
            t,
            target_length=6,
            cache=cache,
            attention_mask=keep,
        )
        for mask in (keep, pairs):
            full = model(both, x.ids, text, pooled, t, target_length=6, attention_mask=mask)
            assert (cached - full).abs().max() <= 1e-5


def reference(model: FluxTransformer, x: Sample, t: float) -> Tensor:
    """The mode written out: one dense mask, each token modulated by its own vector."""
    m, n_txt, n = model, len(x.text), len(x.text) + len(x.tokens)
    main = n_txt + x.target_length
    may = torch.ones(n, n, dtype=torch.bool)
    may[main:, :main] = False
    heads, dim = m.shape.num_heads, m.shape.hidden_size // m.shape.num_heads
    from kontext.models.flux.transformer import timestep_embedding

    def vec(time: float) -> Tensor:
        embedded = m.time_in(timestep_embedding(torch.tensor([time])))
        return F.silu(embedded + m.vector_in(x.pooled[None]))[0]

    vectors = torch.stack([vec(t)] * main + [vec(0.0)] * (n - main))
    rotary = m._rotary(x.ids, n_txt)

    def norm(y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], eps=1e-6)

    def attend(qkv: Tensor, scales: Tensor) -> Tensor:
        q, k, v = qkv.view(n, 3, heads, dim).permute(1, 2, 0, 3)

        def turn(y: Tensor, weight: Tensor) -> Tensor:
            y = F.rms_norm(y, (dim,), eps=1e-6) * weight
            pairs = torch.view_as_complex(y.reshape(heads, n, dim // 2, 2))
            turned = pairs * torch.complex(rotary.cos[0], rotary.sin[0])
            return torch.view_as_real(turned).reshape(heads, n, dim)

        scores = turn(q, scales[:, 0]) @ turn(k, scales[:, 1]).transpose(1, 2) / dim**0.5
        weights = scores.masked_fill(~may, float("-inf")).softmax(-1)
        return (weights @ v).transpose(0, 1).reshape(n, -1)

    txt, img = m.txt_in(x.text), m.img_in(x.tokens)
    for b in m.double_blocks:
        i = b.img_mod.lin(vectors[n_txt:]).chunk(6, -1)
        s = b.txt_mod.lin(vectors[:n_txt]).chunk(6, -1)
        txt_qkv = b.txt_attn.qkv(norm(txt) * (1 + s[1]) + s[0])
        img_qkv = b.img_attn.qkv(norm(img) * (1 + i[1]) + i[0])
        both = (b.txt_attn.norm.scales().expand(n_txt, -1, -1), b.img_attn.norm.scales())
        scales = torch.cat((both[0], both[1].expand(len(img), -1, -1)))
        out = attend(torch.cat((txt_qkv, img_qkv)), scales)
        img = img + i[2] * b.img_attn.proj(out[n_txt:])
        img = img + i[5] * b.img_mlp(norm(img) * (1 + i[4]) + i[3])
        txt = txt + s[2] * b.txt_attn.proj(out[:n_txt])
        txt = txt + s[5] * b.txt_mlp(norm(txt) * (1 + s[4]) + s[3])
    y = torch.cat((txt, img))
    for b in m.single_blocks:
        shift, scale, gate = b.modulation.lin(vectors).chunk(3, -1)
        qkv, mlp = b.linear1(norm(y) * (1 + scale) + shift).split([3 * 32, 4 * 32], -1)
        out = attend(qkv, b.norm.scales().expand(n, -1, -1))
        y = y + gate * b.linear2(torch.cat((out, F.gelu(mlp, approximate="tanh")), -1))
    y = y[n_txt:main]
    shift, scale = m.final_layer.adaLN_modulation[1](vectors[0]).chunk(2, -1)
    return m.final_layer.linear(norm(y) * (1 + scale) + shift)


def test_the_mode_is_the_mask_and_the_two_noise_levels() -> None:
    of = shape(cached_context=True, guidance_embed=False)
    model = randomised(FluxTransformer(of))
    x = sample(of, [(2, 3), (2, 2), (1, 3)], 4, 1)
    with torch.no_grad():
        ours = model(
            x.tokens[None],
            x.ids,
            x.text[None],
            x.pooled[None],
            torch.tensor([0.7]),
            target_length=6,
        )[0]
        assert (ours - reference(model, x, 0.7)).abs().max() <= 1e-5
        joint = FluxTransformer(of.model_copy(update={"cached_context": False}))
        joint.load_state_dict(model.state_dict())
        other = joint(
            x.tokens[None],
            x.ids,
            x.text[None],
            x.pooled[None],
            torch.tensor([0.7]),
            target_length=6,
        )[0]
    assert (ours - other).abs().max() > 1e-3


def test_features_keep_contexts_apart_as_well() -> None:
    model = randomised(FluxTransformer(shape(cached_context=True, guidance_embed=False)))
    x = sample(model.shape, [(2, 3), (2, 2)], 4, 1)
    states = []
    for t in (0.2, 0.9):
        states.append(
            model.features(
                x.tokens[None], x.ids, x.text[None], x.pooled[None], torch.tensor([t]), taps=(1, 3)
            )
        )
    for low, high in zip(*states, strict=True):
        assert torch.equal(low[:, 6:], high[:, 6:])
        assert not torch.equal(low[:, :6], high[:, :6])


def test_arguments_that_do_not_go_together_are_refused() -> None:
    joint = FluxTransformer(shape(guidance_embed=False))
    apart = FluxTransformer(shape(guidance_embed=False, cached_context=True))
    x = sample(joint.shape, [(2, 3), (2, 2)], 4, 1)
    whole = (x.tokens[None], x.ids, x.text[None], x.pooled[None], torch.tensor([0.5]))
    cache = apart.context_cache(x.tokens[None, 6:], x.ids[6:], x.pooled[None])
    with pytest.raises(ValueError, match="cached_context is off"):
        joint.context_cache(x.tokens[None, 6:], x.ids[6:], x.pooled[None])
    with pytest.raises(ValueError, match="cached_context is off"):
        joint(*whole, target_length=6, cache=cache)
    with pytest.raises(ValueError, match="in the cache"):
        apart(*whole, target_length=6, cache=cache)
