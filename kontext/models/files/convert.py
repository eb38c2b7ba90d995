"""BFL's and diffusers' layouts of FLUX.1, both ways, bit for bit.

Our modules carry BFL's names. A rule per BFL key says which diffusers keys hold the same numbers:
the same tensor, parts of a fused projection, the final modulation with its halves swapped, or a 1x1
convolution written as a matrix.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kontext.errors import WeightsError
from kontext.models.autoencoder.network import FLUX_SCALE, FLUX_SHIFT, Autoencoder
from schemas.sections.models import AutoencoderShape, TransformerShape

Layout = Literal["bfl", "diffusers"]
Shape = tuple[int, ...]

_TRANSFORMER_NAMES = (
    ("img_in.", "x_embedder."),
    ("txt_in.", "context_embedder."),
    ("time_in.", "time_text_embed.timestep_embedder."),
    ("guidance_in.", "time_text_embed.guidance_embedder."),
    ("vector_in.", "time_text_embed.text_embedder."),
    ("in_layer.", "linear_1."),
    ("out_layer.", "linear_2."),
    ("double_blocks.", "transformer_blocks."),
    (".img_mod.lin.", ".norm1.linear."),
    (".txt_mod.lin.", ".norm1_context.linear."),
    (".img_attn.norm.query_norm.scale", ".attn.norm_q.weight"),
    (".img_attn.norm.key_norm.scale", ".attn.norm_k.weight"),
    (".txt_attn.norm.query_norm.scale", ".attn.norm_added_q.weight"),
    (".txt_attn.norm.key_norm.scale", ".attn.norm_added_k.weight"),
    (".img_attn.proj.", ".attn.to_out.0."),
    (".txt_attn.proj.", ".attn.to_add_out."),
    (".img_mlp.0.", ".ff.net.0.proj."),
    (".img_mlp.2.", ".ff.net.2."),
    (".txt_mlp.0.", ".ff_context.net.0.proj."),
    (".txt_mlp.2.", ".ff_context.net.2."),
    ("single_blocks.", "single_transformer_blocks."),
    (".modulation.lin.", ".norm.linear."),
    (".norm.query_norm.scale", ".attn.norm_q.weight"),
    (".norm.key_norm.scale", ".attn.norm_k.weight"),
    (".linear2.", ".proj_out."),
    ("final_layer.linear.", "proj_out."),
    ("final_layer.adaLN_modulation.1.", "norm_out.linear."),
)
_FUSED = (
    (".img_attn.qkv.", (".attn.to_q.", ".attn.to_k.", ".attn.to_v.")),
    (".txt_attn.qkv.", (".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj.")),
    (".linear1.", (".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".proj_mlp.")),
)
_AUTOENCODER_NAMES = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
)


@dataclass(frozen=True)
class Rule:
    """Where a BFL tensor lives in diffusers' layout.

    `parts` names the tensors it is the row-wise concatenation of, with their row counts in `rows`.
    """

    bfl: str
    shape: Shape
    parts: tuple[str, ...]
    rows: tuple[int, ...]
    swap_halves: bool = False
    matrix: bool = False  # diffusers drops the two trailing 1s of a 1x1 convolution

    def part_shapes(self) -> dict[str, Shape]:
        """Shape of each diffusers tensor."""
        rest = self.shape[1:-2] if self.matrix else self.shape[1:]
        return {name: (rows, *rest) for name, rows in zip(self.parts, self.rows, strict=True)}

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """BFL tensor -> its diffusers tensors (views where the numbers are in the same order)."""
        if self.swap_halves:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if self.matrix:
            tensor = tensor.flatten(1)
        pieces = torch.split(tensor, list(self.rows))
        return dict(zip(self.parts, pieces, strict=True))

    def join(self, parts: list[Tensor]) -> Tensor:
        """diffusers tensors -> the BFL tensor."""
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.swap_halves:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        return tensor.reshape(self.shape)


def rules_for(model: nn.Module) -> list[Rule]:
    """One rule per tensor of a FluxTransformer or an Autoencoder; `model.shape` says which.

    The model may be on any device, also meta.
    """
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    shape = getattr(model, "shape", None)
    if isinstance(shape, TransformerShape):
        return [_transformer_rule(k, s, shape.hidden_size) for k, s in shapes.items()]
    if isinstance(shape, AutoencoderShape):
        return [_autoencoder_rule(k, s, len(shape.ch_mult)) for k, s in shapes.items()]
    raise TypeError(f"no weights layout is known for {type(model).__name__}")


def diffusers_name(key: str) -> str:
    """diffusers' name of a transformer tensor that is not a part of a fused projection."""
    for old, new in _TRANSFORMER_NAMES:
        key = key.replace(old, new)
    return key


def _transformer_rule(key: str, shape: Shape, hidden: int) -> Rule:
    names, rows = [key], [shape[0]]
    for fused, parts in _FUSED:
        if fused in key:
            names = [key.replace(fused, part) for part in parts]
            rows = [hidden] * 3 + [shape[0] - 3 * hidden] * (len(parts) - 3)
    names = [diffusers_name(name) for name in names]
    swap = key.startswith("final_layer.adaLN_modulation")
    return Rule(key, shape, tuple(names), tuple(rows), swap_halves=swap)


def _autoencoder_rule(key: str, shape: Shape, levels: int) -> Rule:
    name = key
    for pattern, replacement in _AUTOENCODER_NAMES:
        name = re.sub(pattern, replacement, name)
    # BFL counts the decoder's levels from full resolution, diffusers from the latent
    name = re.sub(r"\.up_blocks\.(\d+)\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.", name)
    matrix = re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight", key) is not None
    return Rule(key, shape, (name,), (shape[0],), matrix=matrix)


def to_diffusers(state: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """Our (BFL) tensors in diffusers' layout. Numbers and dtypes are kept bit for bit."""
    split = (rule.split(state[rule.bfl]) for rule in rules)
    return {name: part.clone() for parts in split for name, part in parts.items()}


def transformer_config(shape: TransformerShape) -> dict[str, Any]:
    """diffusers' `transformer/config.json`.

    Raises:
        WeightsError: diffusers cannot express this shape.
    """
    if shape.mlp_ratio != 4.0 or not shape.qkv_bias or shape.theta != 10_000:
        raise WeightsError("diffusers' FLUX has mlp_ratio 4, qkv_bias and theta 10000 fixed")
    if shape.cached_context:
        raise WeightsError("diffusers' FLUX has no cached contexts: it would compute other edits")
    return {
        "_class_name": "FluxTransformer2DModel",
        "_diffusers_version": "0.35.0",
        "patch_size": 1,
        "in_channels": shape.in_channels,
        "out_channels": None,
        "num_layers": shape.depth,
        "num_single_layers": shape.depth_single_blocks,
        "attention_head_dim": shape.hidden_size // shape.num_heads,
        "num_attention_heads": shape.num_heads,
        "joint_attention_dim": shape.context_in_dim,
        "pooled_projection_dim": shape.vec_in_dim,
        "guidance_embeds": shape.guidance_embed,
        "axes_dims_rope": list(shape.axes_dim),
    }


def autoencoder_config(ae: Autoencoder) -> dict[str, Any]:
    """diffusers' `vae/config.json`."""
    shape, levels = ae.shape, len(ae.shape.ch_mult)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.35.0",
        "act_fn": "silu",
        "block_out_channels": [shape.ch * m for m in shape.ch_mult],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": shape.in_channels,
        "out_channels": shape.in_channels,
        "latent_channels": shape.z_channels,
        "layers_per_block": shape.num_res_blocks,
        "mid_block_add_attention": True,
        "norm_num_groups": shape.norm_groups,
        "sample_size": 1024,
        "scaling_factor": ae.scale,
        "shift_factor": ae.shift,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }


def scheduler_config(shape: TransformerShape) -> dict[str, Any]:
    """diffusers' `scheduler/scheduler_config.json`: Euler with the model's own timestep shift.

    The numbers are those of `kontext.train.flow.timesteps`; `shift` is not used where the shift is
    dynamic, and 3.0 is what FLUX.1-dev's own file says.
    """
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": "0.35.0",
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
        "base_shift": shape.timestep_shift[0],
        "max_shift": shape.timestep_shift[1],
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    }


def read_transformer_config(
    config: Mapping[str, Any], scheduler: Mapping[str, Any] | None = None
) -> TransformerShape:
    """The shape that diffusers' `transformer/config.json` and its scheduler's file describe."""
    heads = int(config["num_attention_heads"])
    base, most = ((scheduler or {}).get(key) for key in ("base_shift", "max_shift"))
    flux = TransformerShape.model_fields["timestep_shift"].default
    return TransformerShape(
        in_channels=config["in_channels"],
        vec_in_dim=config["pooled_projection_dim"],
        context_in_dim=config["joint_attention_dim"],
        hidden_size=heads * int(config["attention_head_dim"]),
        num_heads=heads,
        depth=config["num_layers"],
        depth_single_blocks=config["num_single_layers"],
        axes_dim=tuple(config.get("axes_dims_rope", (16, 56, 56))),
        guidance_embed=bool(config["guidance_embeds"]),
        timestep_shift=flux if base is None or most is None else (base, most),
    )


def read_autoencoder_config(config: Mapping[str, Any]) -> Autoencoder:
    """An untrained autoencoder as a diffusers `vae/config.json` describes it."""
    widths = list(config["block_out_channels"])
    shape = AutoencoderShape(
        in_channels=config["in_channels"],
        ch=widths[0],
        ch_mult=tuple(w // widths[0] for w in widths),
        num_res_blocks=config["layers_per_block"],
        z_channels=config["latent_channels"],
        norm_groups=config["norm_num_groups"],
    )
    scale, shift = config.get("scaling_factor"), config.get("shift_factor")
    return Autoencoder(
        shape, FLUX_SCALE if scale is None else scale, FLUX_SHIFT if shift is None else shift
    )
