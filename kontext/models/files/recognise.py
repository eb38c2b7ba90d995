"""What a weights file is: FLUX.1 [dev] or [schnell], or a model of another shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kontext.errors import WeightsError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.files.convert import Layout, diffusers_name, read_transformer_config, rules_for
from kontext.models.files.recognise_autoencoder import (
    SHAPE_KEY,
    autoencoder_of,
    bad_config,
    count_blocks,
    is_autoencoder,
    read_json,
    told_by_nothing,
)
from kontext.models.files.weights import WeightsFile, key_problems, open_weights
from kontext.models.flux.transformer import FluxTransformer
from schemas.sections.models import AutoencoderShape, TransformerShape

SCHEDULER = "scheduler/scheduler_config.json"  # beside diffusers' transformer folder
_FLUX_HEAD = 128
_PUBLISHED = (
    (TransformerShape(), "FLUX.1-dev or FLUX.1-Kontext-dev"),
    (TransformerShape(guidance_embed=False), "FLUX.1-schnell"),
)


@dataclass(frozen=True)
class Recognised:
    """A transformer's or an autoencoder's file and the model it fits."""

    label: str
    kind: str  # "transformer" or "autoencoder"
    layout: Layout
    name: str  # which published model has this geometry, or "custom"
    model: FluxTransformer | Autoencoder  # on the meta device
    parameters: int  # in the file
    dtypes: dict[str, int]  # tensors per dtype
    problems: tuple[str, ...]  # missing, surplus and misshapen keys
    assumed: tuple[str, ...]  # numbers that neither tensors nor a configuration say

    @property
    def transformer(self) -> FluxTransformer:
        """The transformer. Raises WeightsError for another kind."""
        if isinstance(self.model, FluxTransformer):
            return self.model
        raise WeightsError(f"{self.label} is an autoencoder, not a transformer")

    @property
    def autoencoder(self) -> Autoencoder:
        """The autoencoder. Raises WeightsError for another kind."""
        if isinstance(self.model, Autoencoder):
            return self.model
        raise WeightsError(f"{self.label} is a transformer, not an autoencoder")

    def require_whole(self) -> Recognised:
        """Return this, if the file fits the model and no number of its shape is guessed.

        Raises:
            WeightsError: it does not fit, or a number is guessed.
        """
        if self.problems:
            raise WeightsError(f"{self.label} does not fit the model; " + "; ".join(self.problems))
        if self.assumed:
            raise told_by_nothing(self.label, self.assumed)
        return self


def recognise(path: Path, model: FluxTransformer | Autoencoder | None = None) -> Recognised:
    """Look at a safetensors file, or at diffusers' `transformer` or `vae` folder.

    Only headers are read. Keys that do not fit are listed in `problems`, not raised.

    Args:
        model: what the file should hold (on the meta device); None: found from the file.

    Raises:
        WeightsError: damaged, of neither layout, or too few tensors to find the model's shape.
    """
    weights = open_weights(path)
    assumed: tuple[str, ...] = ()
    if model is None:
        configs = (read_json(path / "config.json"), read_json(path.parent / SCHEDULER))
        model, assumed = _model_of(weights, *(configs if path.is_dir() else ({}, {})))
    if isinstance(model, FluxTransformer):
        kind, name = "transformer", transformer_name(model.shape)
    else:
        kind, name = "autoencoder", "FLUX.1" if model.shape == AutoencoderShape() else "custom"
    return Recognised(
        label=str(path),
        kind=kind,
        layout=weights.layout,
        name=name,
        model=model,
        parameters=sum(torch.Size(e.shape).numel() for e in weights.entries.values()),
        dtypes=dict(Counter(str(e.dtype)[6:] for e in weights.entries.values())),
        problems=tuple(key_problems(weights, rules_for(model))),
        assumed=assumed,
    )


def _model_of(
    weights: WeightsFile, config: dict[str, Any], scheduler: dict[str, Any]
) -> tuple[FluxTransformer | Autoencoder, tuple[str, ...]]:
    """The model on the meta device, and what had to be assumed about it."""
    with torch.device("meta"):
        if is_autoencoder(weights):
            return autoencoder_of(weights, config)
        shape, assumed = _transformer_shape(weights, config, scheduler)
        return FluxTransformer(shape), assumed


def transformer_name(shape: TransformerShape) -> str:
    """Which published model has this geometry (FLUX.1-dev and Kontext-dev have the same)."""
    return next((name for known, name in _PUBLISHED if shape == known), "custom")


def _transformer_shape(
    weights: WeightsFile, config: dict[str, Any], scheduler: dict[str, Any]
) -> tuple[TransformerShape, tuple[str, ...]]:
    stored = weights.metadata.get(SHAPE_KEY)
    try:
        if stored:
            return TransformerShape.model_validate_json(stored), ()
        if "num_attention_heads" in config:
            return read_transformer_config(config, scheduler), ()
    except (ValueError, TypeError, LookupError) as error:
        raise bad_config(weights, error) from error
    return _shape_from_tensors(weights)


def _shape_from_tensors(weights: WeightsFile) -> tuple[TransformerShape, tuple[str, ...]]:
    bfl = weights.layout == "bfl"

    def size(keys: Iterable[str], axis: int) -> int:
        names = [key if bfl else diffusers_name(key) for key in keys]
        for name in names:
            if name in weights and len(weights.shape(name)) > axis:
                return weights.shape(name)[axis]
        raise WeightsError(f"{weights.label}: not a whole FLUX.1 transformer ({names[0]} missing)")

    hidden = size(["img_in.weight"], 0)
    head = size(
        ["double_blocks.0.img_attn.norm.query_norm.scale", "single_blocks.0.norm.query_norm.scale"],
        0,
    )
    doubles = any(key.startswith(("double_blocks.", "transformer_blocks.")) for key in weights)
    mlp = size(["double_blocks.0.img_mlp.0.weight"], 0) if doubles else 4 * hidden
    guidance = "guidance_in.in_layer.weight"
    shape = TransformerShape(
        in_channels=size(["img_in.weight"], 1),
        vec_in_dim=size(["vector_in.in_layer.weight"], 1),
        context_in_dim=size(["txt_in.weight"], 1),
        hidden_size=hidden,
        mlp_ratio=mlp / hidden,
        num_heads=max(1, hidden // head),
        depth=count_blocks(weights, r"(?:double_blocks|transformer_blocks)"),
        depth_single_blocks=count_blocks(weights, r"single_(?:transformer_)?blocks"),
        axes_dim=_axes(head),
        guidance_embed=(guidance if bfl else diffusers_name(guidance)) in weights,
    )
    return shape, () if head == _FLUX_HEAD else ("axes_dim",)


def _axes(head: int) -> tuple[int, int, int]:
    """FLUX.1's 16, 56, 56 of 128, in proportion."""
    side = 2 * round(head * 56 / _FLUX_HEAD / 2)
    return head - 2 * side, side, side
