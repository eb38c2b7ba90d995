"""How LoRA files name an adapter: the layer, and which half of it a tensor is.

    diffusers   transformer.transformer_blocks.0.attn.to_q.lora_A.weight
    peft        base_model.model.double_blocks.0.img_attn.qkv.lora_A.default.weight
    BFL         diffusion_model.double_blocks.0.img_attn.qkv.lora_down.weight    (ComfyUI's too)
    kohya       lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight
    OneTrainer  lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight
    XLabs       double_blocks.0.processor.qkv_lora1.down.weight

Prefixes are seen in any combination (`transformer.base_model.model.`, `model.diffusion_model.`), so
all of them are taken off before the layer is looked up, in BFL's names and in diffusers'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from kontext.models.files.convert import Rule

LoraLayout = Literal["diffusers", "bfl", "kohya"]  # what files can be written in
HALVES = ("A", "B")  # W + B A

_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
_FLAT = ("lora_unet_", "lora_transformer_")  # before a name whose dots are underscores
_HALF = re.compile(
    r"(?P<name>.+)"
    r"(?:\.lora_(?P<peft>A|B|down|up)(?:\.\w+)?\.weight"  # the word: the adapter's name in peft
    r"|\.lora(?:_linear_layer)?\.(?P<old>down|up)\.weight"
    r"|(?<=_lora|lora1|lora2)\.(?P<xlabs>down|up)\.weight"
    r"|\.(?P<alpha>alpha))"
)
_TEXT = re.compile(
    r"(?:lora_te\d?_|text_encoders?[._]|text_encoder_\d\.|text_model\.|clip_[lg]\.|t5xxl\.)"
)
_XLABS = {
    "img_attn.qkv": "processor.qkv_lora1",
    "txt_attn.qkv": "processor.qkv_lora2",
    "img_attn.proj": "processor.proj_lora1",
    "txt_attn.proj": "processor.proj_lora2",
    "linear1": "processor.qkv_lora",  # its rows q, k and v alone
    "linear2": "processor.proj_lora",
}


@dataclass(frozen=True)
class Part:
    """Rows of one of our weights, under a name that a layout has for them."""

    rule: Rule
    index: int  # of the part in the rule; -1: all rows
    rows: int


@dataclass(frozen=True)
class LoraKeys:
    """The keys of a file, sorted.

    Attributes:
        halves: by layer, which key holds its `A`, its `B` and its `alpha`.
        text: keys of adapters of text encoders.
        strange: keys that are none of these, or name a half that another key has named.
    """

    halves: dict[str, dict[str, str]] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)


def sort_keys(keys: Iterable[str]) -> LoraKeys:
    """Sort the keys of a LoRA file of any style; layers are named without prefixes."""
    found = LoraKeys()
    for key in keys:
        if _TEXT.match(_bare(key)) or _TEXT.match(key):
            found.text.append(key)
            continue
        match = _HALF.fullmatch(key)
        if match is None:
            found.strange.append(key)
            continue
        said = match["peft"] or match["old"] or match["xlabs"] or "alpha"
        half = {"down": "A", "up": "B"}.get(said, said)
        if found.halves.setdefault(_bare(match["name"]), {}).setdefault(half, key) != key:
            found.strange.append(key)
    return found


def _bare(name: str) -> str:
    """A name without the prefixes that files put before it."""
    while True:
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return name
        name = name.removeprefix(prefix)


def layer_parts(rules: Iterable[Rule]) -> dict[str, list[Part]]:
    """Which of our weights' rows each layer that can have an adapter stands for, in any style."""
    found: dict[str, list[Part]] = {}
    for rule in rules:
        if len(rule.shape) != 2:
            continue
        ours = rule.bfl.removesuffix(".weight")
        named = {ours: Part(rule, -1, rule.shape[0])}
        for index, theirs in enumerate(rule.parts):
            named[theirs.removesuffix(".weight")] = Part(rule, index, rule.rows[index])
        for name, part in named.items():
            for style in (name, *(start + name.replace(".", "_") for start in _FLAT)):
                found[style] = [part]
        layer = ours.partition(".")[2].partition(".")[2]  # behind double_blocks.0
        if layer in _XLABS:
            name = f"{ours.removesuffix(layer)}{_XLABS[layer]}"
            found[name] = _attention_rows(rule) if layer == "linear1" else [named[ours]]
    return found


def _attention_rows(rule: Rule) -> list[Part]:
    """The parts q, k and v of a single block's `linear1`."""
    return [Part(rule, index, rule.rows[index]) for index in range(3)]


def written_keys(layer: str, layout: LoraLayout) -> tuple[str, str, str | None]:
    """The keys of A, B and alpha of a layer in a file of `layout`.

    diffusers takes alpha from the file's metadata, and refuses a file with both.
    """
    if layout == "diffusers":
        return f"transformer.{layer}.lora_A.weight", f"transformer.{layer}.lora_B.weight", None
    stem = f"diffusion_model.{layer}" if layout == "bfl" else _FLAT[0] + layer.replace(".", "_")
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"


def style_of(keys: Mapping[str, object]) -> str:
    """Which style the keys of a LoRA file have, in a word."""
    signs = (
        ("kohya", r"lora_unet_"),
        ("OneTrainer", r"lora_transformer_"),
        ("XLabs", r".*\.processor\."),
        ("bfl", r".*(double_blocks|single_blocks|img_in|txt_in|final_layer)\."),
        ("diffusers", r".*(transformer_blocks|x_embedder|context_embedder|proj_out|norm_out)\."),
    )
    layers = [key for key in keys if not _TEXT.match(key)]
    for style, sign in signs:
        if any(re.match(sign, key) for key in layers):
            return style
    return "unknown"
