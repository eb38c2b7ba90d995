import copy
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kontext.errors import RecipeError
from kontext.models.files.convert import rules_for, to_diffusers, transformer_config
from kontext.models.flux.heads import Rotary, split_heads, split_heads_reference
from kontext.models.flux.sequence import rope, sequence_ids
from kontext.models.flux.transformer import FluxTransformer, timestep_embedding
from schemas.sections.models import TransformerShape


def small_shape(**changes: Any) -> TransformerShape:
    values: dict[str, Any] = {
        "in_channels": 16,
        "vec_in_dim": 12,
        "context_in_dim": 20,
        "hidden_size": 32,
        "num_heads": 2,
        "depth": 1,
        "depth_single_blocks": 2,
        "axes_dim": (4, 6, 6),
        "guidance_embed": False,
    }
    return TransformerShape(**{**values, **changes})


def randomised(model: nn.Module, seed: int = 0, std: float = 0.05) -> Any:
    """Weights of every layer random, so that no zero-initialised gate hides an error."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if name.endswith("scale") else 0.0, std, generator=generator)
    return model


def inputs(
    shape: TransformerShape,
    target: tuple[int, int] = (2, 3),
    contexts: tuple[tuple[int, int], ...] = ((2, 2),),
    batch: int = 2,
    length: int = 4,
    seed: int = 0,
) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    ids = sequence_ids(target, contexts)
    out = {
        "tokens": torch.randn(batch, len(ids), shape.in_channels, generator=g),
        "ids": ids,
        "text": torch.randn(batch, length, shape.context_in_dim, generator=g),
        "pooled": torch.randn(batch, shape.vec_in_dim, generator=g),
        "timesteps": torch.rand(batch, generator=g),
    }
    if shape.guidance_embed:
        out["guidance"] = 1 + 3 * torch.rand(batch, generator=g)
    return out


def diffusers_output(model: FluxTransformer, x: dict[str, Tensor], n: int) -> Tensor:
    config = {k: v for k, v in transformer_config(model.shape).items() if k[0] != "_"}
    reference = FluxTransformer2DModel(**config)
    reference.load_state_dict(to_diffusers(model.state_dict(), rules_for(model)))
    out = reference(
        hidden_states=x["tokens"],
        encoder_hidden_states=x["text"],
        pooled_projections=x["pooled"],
        timestep=x["timesteps"],
        guidance=x.get("guidance"),
        img_ids=x["ids"],
        txt_ids=torch.zeros(x["text"].shape[1], 3),
        return_dict=False,
    )[0]
    return out[:, :n]


@st.composite
def shapes(draw: st.DrawFn) -> TransformerShape:
    axes = tuple(2 * draw(st.integers(1, 4)) for _ in range(3))
    heads = draw(st.integers(1, 3))
    return small_shape(
        in_channels=4 * draw(st.integers(1, 5)),
        vec_in_dim=draw(st.integers(1, 20)),
        context_in_dim=draw(st.integers(1, 20)),
        axes_dim=axes,
        num_heads=heads,
        hidden_size=heads * sum(axes),
        depth=draw(st.integers(0, 2)),
        depth_single_blocks=draw(st.integers(0, 3)),
    )


sides = st.tuples(st.integers(1, 4), st.integers(1, 5))


@pytest.mark.parametrize("guidance", [False, True], ids=["plain", "guidance"])
@pytest.mark.parametrize("n_contexts", [0, 1, 2])
@settings(max_examples=4, deadline=None)
@given(shapes(), st.lists(sides, min_size=3, max_size=3), st.integers(1, 5), st.integers(0, 99))
def test_equals_diffusers(
    n_contexts: int,
    guidance: bool,
    shape: TransformerShape,
    grids: list[tuple[int, int]],
    length: int,
    seed: int,
) -> None:
    shape = shape.model_copy(update={"guidance_embed": guidance})
    model = randomised(FluxTransformer(shape), seed).eval()
    x = inputs(shape, grids[0], tuple(grids[1 : 1 + n_contexts]), length=length, seed=seed)
    n = grids[0][0] * grids[0][1]
    with torch.no_grad():
        ours = model(**x, target_length=n)
        assert (ours - diffusers_output(model, x, n)).abs().max() <= 2e-5
    assert ours.abs().max() > 1e-3


def test_gradients_equal_diffusers() -> None:
    shape = small_shape(depth=2)
    model = randomised(FluxTransformer(shape))
    config = {k: v for k, v in transformer_config(shape).items() if k[0] != "_"}
    reference = FluxTransformer2DModel(**config)
    reference.load_state_dict(to_diffusers(model.state_dict(), rules_for(model)))
    x = inputs(shape)
    weight = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(5))
    (model(**x, target_length=6) * weight).sum().backward()
    theirs = reference(
        hidden_states=x["tokens"],
        encoder_hidden_states=x["text"],
        pooled_projections=x["pooled"],
        timestep=x["timesteps"],
        img_ids=x["ids"],
        txt_ids=torch.zeros(4, 3),
        return_dict=False,
    )[0][:, :6]
    (theirs * weight).sum().backward()
    ours = to_diffusers({k: p.grad for k, p in model.named_parameters()}, rules_for(model))
    for name, parameter in reference.named_parameters():
        scale = parameter.grad.abs().max().clamp_min(1.0)
        assert (ours[name] - parameter.grad).abs().max() <= 1e-4 * scale, name


def test_every_parameter_gets_a_gradient() -> None:
    shape = small_shape(guidance_embed=True)
    model = randomised(FluxTransformer(shape))
    model(**inputs(shape), target_length=6).square().mean().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_starts_at_zero_and_learns_from_there() -> None:
    torch.manual_seed(0)
    model = FluxTransformer(small_shape())
    x = inputs(small_shape())
    assert model(**x, target_length=6).abs().max() == 0
    target = torch.randn(2, 6, 16)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = (model(**x, target_length=6) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_features_are_the_states_the_forward_pass_has() -> None:
    shape = small_shape(depth=2, depth_single_blocks=2)
    model = randomised(FluxTransformer(shape)).eval()
    x = inputs(shape)
    seen: dict[int, Tensor] = {}
    for i, block in enumerate(model.double_blocks):
        block.register_forward_hook(lambda _m, _i, out, i=i: seen.__setitem__(i, out[0]))
    model.single_blocks[0].register_forward_hook(
        lambda _m, _i, out: seen.__setitem__(2, out[:, 4:])
    )
    model(**x, target_length=6)
    expected = dict(seen)
    found = model.features(**x, taps=(2, 0, 1))
    for tap, state in zip((2, 0, 1), found, strict=True):
        assert state.shape == (2, 10, 32)
        assert torch.equal(state, expected[tap])
    last = model.features(**x, taps=(3,))[0]
    assert last.shape == (2, 10, 32)
    with pytest.raises(ValueError, match="taps"):
        model.features(**x, taps=(4,))


def test_features_stop_after_the_deepest_tap_and_carry_gradients_to_the_tokens() -> None:
    model = randomised(FluxTransformer(small_shape()))
    model.requires_grad_(False)
    model.single_blocks[1].register_forward_hook(lambda *_: pytest.fail("block ran"))
    x = inputs(small_shape())
    x["tokens"].requires_grad_(True)
    model.features(**x, taps=(1,))[0].square().sum().backward()
    assert x["tokens"].grad is not None
    assert x["tokens"].grad.abs().sum() > 0


def test_computing_only_the_target_rows_changes_nothing() -> None:
    shape = small_shape(depth_single_blocks=1)
    model = randomised(FluxTransformer(shape)).eval()
    x = inputs(shape, (2, 3), ((2, 2), (1, 3)))
    with torch.no_grad():
        every = model(**x, target_length=13)
        assert (model(**x, target_length=6) - every[:, :6]).abs().max() < 1e-6


def test_a_masked_token_is_as_good_as_absent() -> None:
    shape = small_shape()
    model = randomised(FluxTransformer(shape)).eval()
    x = inputs(shape, length=4)
    keep = torch.ones(2, 4 + 10, dtype=torch.bool)
    keep[:, 2:4] = False
    short = {**x, "text": x["text"][:, :2]}
    pairs = keep[:, None].expand(-1, 14, -1)
    with torch.no_grad():
        alone = model(**short, target_length=6)
        assert (model(**x, target_length=6, attention_mask=keep) - alone).abs().max() < 1e-5
        assert (model(**x, target_length=6, attention_mask=pairs) - alone).abs().max() < 1e-5
        assert (model(**x, target_length=6) - alone).abs().max() > 1e-4


def test_ids_may_differ_per_sample() -> None:
    shape = small_shape()
    model = randomised(FluxTransformer(shape)).eval()
    x = inputs(shape)
    other = sequence_ids((3, 2), [(1, 4)])
    with torch.no_grad():
        mixed = model(**{**x, "ids": torch.stack((x["ids"], other))}, target_length=6)
        first = model(**x, target_length=6)[0]
        second = model(**{**x, "ids": other}, target_length=6)[1]
    assert torch.allclose(mixed[0], first, atol=1e-6)
    assert torch.allclose(mixed[1], second, atol=1e-6)


def test_autocast_stays_close_to_float32() -> None:
    shape = small_shape(depth=2)
    model = randomised(FluxTransformer(shape))
    x = inputs(shape)
    exact = model(**x, target_length=6)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(**x, target_length=6)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_compiles_without_graph_breaks() -> None:
    shape = small_shape()
    model = randomised(FluxTransformer(shape)).eval()
    x = inputs(shape)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    with torch.no_grad():
        difference = compiled(**x, target_length=6) - model(**x, target_length=6)
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("rows", [1, 5])
def test_hand_written_backward_of_heads(rows: int) -> None:
    g = torch.Generator().manual_seed(1)
    cos, sin = rope(3 * torch.randn(5, 3, generator=g), (2, 4, 2), 100)
    rotary = Rotary(cos[None], sin[None])
    grads = []
    for function in (split_heads, split_heads_reference):
        g.manual_seed(2)
        qkv = torch.randn(2, 5, 3, 2, 8, generator=g, requires_grad=True)
        scale = torch.rand(rows, 2, 8, generator=g).requires_grad_(True)
        out = torch.stack(function(qkv, scale, rotary))
        (out * torch.randn(out.shape, generator=g)).sum().backward()
        grads.append((out.detach(), qkv.grad, scale.grad))
    for ours, reference in zip(*grads, strict=True):
        assert torch.allclose(ours, reference, atol=1e-5)


def test_timestep_embedding_has_cosines_first() -> None:
    emb = timestep_embedding(torch.tensor([0.0, 0.25]))
    assert emb.shape == (2, 256)
    assert torch.equal(emb[0], torch.cat((torch.ones(128), torch.zeros(128))))
    assert emb[1, 0].item() == pytest.approx(torch.tensor(250.0).cos().item(), abs=1e-5)
    assert emb[1, 128].item() == pytest.approx(torch.tensor(250.0).sin().item(), abs=1e-5)
    # BFL's quantised times: the product is taken in the caller's dtype
    half = torch.tensor([0.3], dtype=torch.bfloat16)
    assert torch.equal(timestep_embedding(half), timestep_embedding((half * 1000) / 1000.0))


WIDTH, MLP = 3072, 12288
STREAM = {
    "mod.lin": (6 * WIDTH, WIDTH),
    "attn.qkv": (3 * WIDTH, WIDTH),
    "attn.norm.query_norm": (128,),
    "attn.norm.key_norm": (128,),
    "attn.proj": (WIDTH, WIDTH),
    "mlp.0": (MLP, WIDTH),
    "mlp.2": (WIDTH, MLP),
}
SINGLE = {
    "linear1": (3 * WIDTH + MLP, WIDTH),
    "linear2": (WIDTH, WIDTH + MLP),
    "norm.query_norm": (128,),
    "norm.key_norm": (128,),
    "modulation.lin": (3 * WIDTH, WIDTH),
}
EDGES = {
    "img_in": (WIDTH, 64),
    "txt_in": (WIDTH, 4096),
    "time_in.in_layer": (WIDTH, 256),
    "time_in.out_layer": (WIDTH, WIDTH),
    "vector_in.in_layer": (WIDTH, 768),
    "vector_in.out_layer": (WIDTH, WIDTH),
    "guidance_in.in_layer": (WIDTH, 256),
    "guidance_in.out_layer": (WIDTH, WIDTH),
    "final_layer.linear": (64, WIDTH),
    "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
}


def published_table() -> dict[str, tuple[int, ...]]:
    """Names and shapes of flux1-dev.safetensors, from the table of its layers."""
    layers = dict(EDGES)
    for i in range(19):
        for stream in ("img", "txt"):
            layers.update({f"double_blocks.{i}.{stream}_{k}": v for k, v in STREAM.items()})
    for i in range(38):
        layers.update({f"single_blocks.{i}.{k}": v for k, v in SINGLE.items()})
    table: dict[str, tuple[int, ...]] = {}
    for name, size in layers.items():
        if len(size) == 1:
            table[f"{name}.scale"] = size
        else:
            table.update({f"{name}.weight": size, f"{name}.bias": size[:1]})
    return table


@pytest.mark.parametrize(
    ("guidance", "parameters"), [(True, 11_901_408_320), (False, 11_891_178_560)]
)
def test_flux_has_its_published_layers(guidance: bool, parameters: int) -> None:
    with torch.device("meta"):
        model = FluxTransformer(TransformerShape(guidance_embed=guidance))
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    table = published_table()
    assert shapes == {k: v for k, v in table.items() if guidance or "guidance" not in k}
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_flux_block_weights_are_the_published_sums() -> None:
    sizes = {k: v for k, v in published_table().items() if k.endswith("weight")}

    def billions(*parts: str) -> float:
        chosen = [k for k in sizes if "_blocks." in k and any(p in k for p in parts)]
        return round(sum(sizes[k][0] * sizes[k][1] for k in chosen) / 1e9, 3)

    # applied per image token, their text twins, modulation
    assert billions("img_attn", "img_mlp", "linear") == 6.455
    assert billions("txt_attn", "txt_mlp") == 2.152
    assert billions("_mod.lin", "modulation.lin") == 3.228


def test_flux_on_the_meta_device_is_diffusers_key_by_key() -> None:
    with torch.device("meta"):
        ours, theirs = (
            FluxTransformer(TransformerShape()),
            FluxTransformer2DModel(guidance_embeds=True),
        )
    names: dict[str, tuple[int, ...]] = {}
    for rule in rules_for(ours):
        names.update(rule.part_shapes())
    assert names == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}


def test_guidance_where_it_belongs_and_only_there() -> None:
    x = inputs(small_shape())
    with pytest.raises(ValueError, match="has no guidance"):
        FluxTransformer(small_shape())(**x, target_length=6, guidance=torch.ones(2))
    with pytest.raises(ValueError, match="needs guidance embedding"):
        FluxTransformer(small_shape(guidance_embed=True))(**x, target_length=6)


@pytest.mark.parametrize("change", [{"num_heads": 3}, {"axes_dim": (4, 6, 8)}])
def test_impossible_shapes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        FluxTransformer(small_shape(**change))
