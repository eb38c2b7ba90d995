"""LoRA files: read in every style of keys, written in three; low-rank extraction of a fine-tune.

Readers do not agree on what a file without alpha means, nor on files whose adapters have different
ranks (diffusers up to 0.36 scales all by the first one's). So what we write has one rank, filled up
with zeros where an adapter has less, alpha is always there, and both are equal: every reader takes
the adapters at scale 1. The scale that they were trained with is in B.
"""

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kontext.errors import WeightsError
from kontext.models.files.convert import Rule, rules_for
from kontext.models.files.lora_keys import (
    HALVES,
    LoraLayout,
    Part,
    layer_parts,
    sort_keys,
    written_keys,
)
from kontext.models.files.weights import WeightsFile, open_weights, state_entries, write_weights
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import Lora, LoraInfo
from schemas.sections.models import TransformerShape

_METADATA = "lora_adapter_metadata"  # diffusers' key for peft's LoraConfig
_TRIGGER = "modelspec.trigger_phrase"
_TITLE = "modelspec.title"
_BASES = ("base_model", "ss_sd_model_name", "ss_base_model_version")  # the first one that is there
_OTHERS = (
    ("DoRA", r"\.(dora_scale|lora_magnitude_vector)"),
    ("LoKr", r"\.lokr_"),
    ("LoHa", r"\.hada_"),
)
_log = logging.getLogger(__name__)
Pair = tuple[Tensor, Tensor]


class _Layer(NamedTuple):
    """A layer that a file adapts."""

    parts: list[Part]  # of our weights
    keys: dict[str, str]  # of its `A`, its `B` and its `alpha`


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file whose keys and shapes fit a model; no tensor of it has been read."""

    weights: WeightsFile
    layers: Mapping[str, _Layer]  # by the file's names
    text: tuple[str, ...]  # keys of adapters of text encoders

    @property
    def rank(self) -> int:
        """The largest rank of its adapters."""
        return max(self.weights.shape(layer.keys["A"])[0] for layer in self.layers.values())

    @property
    def targets(self) -> tuple[str, ...]:
        """The layers of the model that it adapts, by our names."""
        keys = {part.rule.bfl for layer in self.layers.values() for part in layer.parts}
        return tuple(sorted(key.removesuffix(".weight") for key in keys))

    def scale(self, name: str) -> float:
        """alpha / rank of a layer."""
        keys = self.layers[name].keys
        rank = self.weights.shape(keys["A"])[0]
        if "alpha" in keys:
            return float(self.weights[keys["alpha"]]) / rank
        return _metadata_scale(self.weights, name, rank)


def save_lora(
    lora: Lora,
    path: Path,
    model: FluxTransformer,
    layout: LoraLayout = "diffusers",
    info: LoraInfo | None = None,
) -> None:
    """Write adapters as safetensors. Only the shapes of `model` are used, not its weights.

    diffusers reads all three layouts, ComfyUI too. In `bfl` and `kohya` diffusers passes over
    adapters of embedders and of the last layer; those of blocks it reads.

    Args:
        info: what the file says about itself; by default what the adapters were read with.

    Raises:
        WeightsError: adapters for another model.
    """
    lora.check(model)
    rules = {rule.bfl: rule for rule in rules_for(model) if rule.bfl in lora.adapters}
    rank, stored = _of_one_rank(lora, rules, layout)
    state: dict[str, Tensor] = {}
    for name, (down, up) in stored.items():
        a, b, alpha = written_keys(name.removesuffix(".weight"), layout)
        state[a], state[b] = down, up
        if alpha is not None:
            state[alpha] = torch.tensor(float(len(down)))
    layers = sorted(name.removesuffix(".weight") for name in stored)
    metadata = _metadata(model.shape, rank, info or lora.info)
    if layout == "diffusers":
        metadata[_METADATA] = _peft_config(rank, layers)
    write_weights(path, state_entries(state), metadata)


def _metadata(shape: TransformerShape, rank: int, info: LoraInfo) -> dict[str, str]:
    """What tools show of a LoRA file: the model card's keys (modelspec), and kohya's."""
    dev = "flux-1-dev" if shape.guidance_embed else "flux-1-schnell"
    published = shape in (TransformerShape(), TransformerShape(guidance_embed=False))
    said = {_TITLE: info.title, _TRIGGER: info.trigger, _BASES[0]: info.base}
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{dev if published else 'flux-1-custom'}/lora",
        "ss_network_module": "networks.lora_flux",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        **{key: value for key, value in said.items() if value},
    }


def _peft_config(rank: int, layers: list[str]) -> str:
    """peft's LoraConfig as diffusers packs it; all keys that its versions look for."""
    config = {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": layers,
        "use_dora": False,
        "lora_bias": False,
    }
    return json.dumps({f"transformer.{key}": value for key, value in config.items()})


def read_info(weights: WeightsFile) -> LoraInfo:
    """What a LoRA file says about itself, whoever wrote it."""
    said = weights.metadata
    base = next((said[key] for key in _BASES if said.get(key)), "")
    return LoraInfo(base, said.get(_TRIGGER, ""), said.get(_TITLE, ""))


def _of_one_rank(
    lora: Lora, rules: Mapping[str, Rule], layout: LoraLayout
) -> tuple[int, dict[str, Pair]]:
    """A rank that fits all parts, and A and B of that rank by the names that `layout` has.

    A fused projection whose parts do not share A has a block of that rank for each of them: that is
    how diffusers takes them apart again.
    """
    split = {key: _split(rules[key], *pair) for key, pair in lora.adapters.items()}
    rank = max(len(down) for parts in split.values() for down, _ in parts.values())
    if layout == "diffusers":
        parts = [pair for own in split.values() for pair in own.items()]
        return rank, {name: _padded(pair, rank) for name, pair in parts}
    return rank, {
        key: _fused(rules[key], _used(*pair), split[key], rank)
        for key, pair in lora.adapters.items()
    }


def _fused(rule: Rule, whole: Pair, parts: Mapping[str, Pair], rank: int) -> Pair:
    """One A and B for all parts of a projection, in which each has `rank` directions or less."""
    if all(len(down) == len(whole[0]) for down, _ in parts.values()):  # they share A
        return _padded(whole, rank)
    empty = torch.zeros(rank, rule.shape[1])
    given = []
    for index, (name, rows) in enumerate(zip(rule.parts, rule.rows, strict=True)):
        pair = parts.get(name, (empty, torch.zeros(rows, rank)))
        given.append((Part(rule, index, rows), _padded(pair, rank)))
    return _joined(given)


def _padded(pair: Pair, rank: int) -> Pair:
    """The same map at a rank that is not smaller."""
    more = rank - len(pair[0])
    if not more:
        return pair
    down, up = pair
    return torch.cat([down, down.new_zeros(more, down.shape[1])]), torch.cat(
        [up, up.new_zeros(len(up), more)], dim=1
    )


def _used(down: Tensor, up: Tensor) -> Pair:
    """Without the directions that B does not use; all of them where it uses none (untrained)."""
    used = up.count_nonzero(dim=0) > 0
    return (down[used], up[:, used]) if used.any() and not used.all() else (down, up)


def _unpadded(down: Tensor, up: Tensor) -> Pair:
    """Without the directions in which both A and B are zero; one is kept where all are."""
    used = (down.count_nonzero(dim=1) > 0) | (up.count_nonzero(dim=0) > 0)
    used[0] |= not used.any()
    return (down, up) if used.all() else (down[used], up[:, used])


def _split(rule: Rule, down: Tensor, up: Tensor) -> dict[str, Pair]:
    """Each part's own A and B. Directions that a part does not use are left out of it."""
    parts = replace(rule, shape=tuple(up.shape)).split(up)
    if not up.any():  # untrained: B is zero
        return {name: (down, part) for name, part in parts.items()}
    return {name: _used(down, part) for name, part in parts.items() if part.any()}


def open_lora(path: Path, model: FluxTransformer) -> LoraFile:
    """Look into a LoRA file of any style of keys for `model`, which may be on the meta device.

    Raises:
        WeightsError: damaged, not a LoRA, or adapters of text encoders alone; one message with all
            surplus, missing and misshapen keys where it is for another model.
    """
    weights = open_weights(path)
    _check_kind(weights)
    keys = sort_keys(weights)
    if not keys.halves and keys.text and not keys.strange:
        raise WeightsError(f"{path} holds adapters of text encoders alone, none of the transformer")
    known = layer_parts(rules_for(model))
    layers: dict[str, _Layer] = {}
    missing, misshapen, strange = [], [], list(keys.strange)
    for name, tensors in keys.halves.items():
        parts = known.get(name)
        if parts is None:
            strange += tensors.values()
        elif lacks := [half for half in HALVES if half not in tensors]:
            missing.append(f"{name} has no lora_{lacks[0]}")
        elif (wrong := _misfit(parts, weights, tensors)) is not None:
            misshapen.append(f"{name} {wrong}")
        else:
            layers[name] = _Layer(parts, tensors)
    strange += _twice(layers.values())
    lists = (("missing", missing), ("surplus", strange), ("misshapen", misshapen))
    problems = [f"{len(keys)} {what}: {', '.join(sorted(keys))}" for what, keys in lists if keys]
    if problems:
        raise WeightsError(f"{path} does not fit the model; " + "; ".join(problems))
    return LoraFile(weights, layers, tuple(sorted(keys.text)))


def load_lora(path: Path, model: FluxTransformer) -> Lora:
    """Read adapters for `model` (which may be on the meta device) from a file of any style.

    alpha is read from the file's tensors or from the metadata that diffusers writes; without
    either the scale is 1. Adapters of text encoders, which are not trained here, are left out:
    that is logged, and their keys are in the result's `skipped`.

    Raises:
        WeightsError: as `open_lora`.
    """
    file = open_lora(path, model)
    found: dict[str, list[tuple[Part, Pair]]] = {}
    scales: dict[str, set[float]] = {}
    for name, (parts, keys) in file.layers.items():
        scale = file.scale(name)
        down, up = (file.weights[keys[half]].float() for half in HALVES)
        for part, rows in zip(parts, _rows(parts, _unpadded(down, up * scale)), strict=True):
            found.setdefault(part.rule.bfl, []).append((part, rows))
            scales.setdefault(part.rule.bfl, set()).add(scale)
    made = Lora(
        {key: _joined(given) for key, given in found.items()},
        str(path),
        skipped=file.text,
        info=read_info(file.weights),
        rank=file.rank,
        scales={key: min(own) for key, own in scales.items() if len(own) == 1 and 0.0 not in own},
    )
    for note in made.notes():
        _log.warning("%s", note)
    return made


def _check_kind(weights: WeightsFile) -> None:
    for kind, sign in _OTHERS:
        if any(re.search(sign, key) for key in weights):
            raise WeightsError(f"{weights.label} is a {kind}, which is not supported")
    if not weights.is_lora:
        raise WeightsError(f"{weights.label} holds no LoRA adapters")


def _twice(layers: Iterable[_Layer]) -> Iterable[str]:
    """Weights that a file adapts more than once, under names of several styles."""
    given: dict[str, list[int]] = {}
    for part in (part for layer in layers for part in layer.parts):
        given.setdefault(part.rule.bfl, []).append(part.index)
    for key, indices in given.items():
        if len(set(indices)) < len(indices) or (-1 in indices and len(indices) > 1):
            yield f"{key} (adapted under several names)"


def _rows(parts: Sequence[Part], pair: Pair) -> list[Pair]:
    """A layer's A and B for each of the parts that it stands for, which share A."""
    down, up = pair
    return [(down, rows) for rows in torch.split(up, [part.rows for part in parts])]


def _misfit(parts: Sequence[Part], weights: WeightsFile, keys: Mapping[str, str]) -> str | None:
    down, up = weights.shape(keys["A"]), weights.shape(keys["B"])
    wanted = (sum(part.rows for part in parts), parts[0].rule.shape[1])
    if "alpha" in keys and torch.Size(weights.shape(keys["alpha"])).numel() != 1:
        return "has an alpha that is not one number"
    if len(down) == len(up) == 2 and down[0] == up[1] and (up[0], down[1]) == wanted:
        return None if down[0] else "has rank 0"
    return f"{list(up)} x {list(down)} for {list(wanted)}"


def _metadata_scale(weights: WeightsFile, name: str, rank: int) -> float:
    """alpha / rank from peft's LoraConfig, where the file carries it; else 1."""
    try:
        stored: dict[str, Any] = json.loads(weights.metadata.get(_METADATA, "{}"))
        config = {key.removeprefix("transformer."): value for key, value in stored.items()}
        alphas = config.get("alpha_pattern") or {}
        # peft takes the first pattern that matches the end of the layer's name
        own = [value for key, value in alphas.items() if re.match(rf"(.*\.)?({key})$", name)]
        said = own[0] if own else config.get("lora_alpha")
        alpha = None if said is None else float(said)
    except (ValueError, TypeError, AttributeError, RecursionError, re.error) as error:
        raise WeightsError(f"{weights.label}: its LoRA metadata cannot be read") from error
    if config.get("use_dora"):
        raise WeightsError(f"{weights.label} is a DoRA, which is not supported")
    divisor = math.sqrt(rank) if config.get("use_rslora") else rank
    return 1.0 if alpha is None else alpha / divisor


def _joined(given: Sequence[tuple[Part, Pair]]) -> Pair:
    """One adapter for our weight from those of its parts.

    Parts with the same A share it again; otherwise A is stacked and B is block-diagonal, which is
    the same map at the sum of the ranks.
    """
    rule = given[0][0].rule
    if given[0][0].index < 0:
        return given[0][1]
    pairs = {part.index: pair for part, pair in given}
    first = given[0][1][0]
    shared = all(torch.equal(first, down) for down, _ in pairs.values())
    down = first if shared else torch.cat([pairs[i][0] for i in sorted(pairs)])
    rows, start = [], 0
    for index, count in enumerate(rule.rows):
        block = torch.zeros(count, down.shape[0])
        if index in pairs:
            up = pairs[index][1]
            start = 0 if shared else start
            block[:, start : start + up.shape[1]] = up
            start += up.shape[1]
        rows.append(block)
    return down, replace(rule, shape=(rule.shape[0], down.shape[0])).join(rows)


def extract(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], model: FluxTransformer, rank: int
) -> Lora:
    """The best adapters of `rank` (truncated SVD) for tuned - base, part by part.

    Args:
        base, tuned: transformers' tensors in our names (state dicts or `WeightsFile`s).
        model: a transformer of the same shape; its weights are not used.

    Returns:
        Adapters of the weights that differ. `lost` has, per tensor that differs, the share of its
        change (0-1, Frobenius) that the adapters do not hold; 1 for biases and norms.

    Raises:
        WeightsError: a rank below 1, or no weight that differs.
    """
    if rank < 1:
        raise WeightsError(f"a LoRA's rank must be at least 1, not {rank}")
    found: dict[str, Pair] = {}
    lost: dict[str, float] = {}
    for rule in rules_for(model):
        delta = tuned[rule.bfl].float() - base[rule.bfl].float()
        if not delta.any():
            continue
        lost[rule.bfl] = 1.0
        if delta.dim() == 2:
            given = [
                (Part(rule, index, len(piece)), _truncated(piece, rank))
                for index, piece in enumerate(rule.split(delta).values())
            ]
            found[rule.bfl] = _joined(given)
            down, up = found[rule.bfl]
            lost[rule.bfl] = float((delta - up @ down).norm() / delta.norm())
    if not found:
        raise WeightsError("no weight matrix differs: there is nothing to extract")
    return Lora(found, lost=lost)


def _truncated(matrix: Tensor, rank: int) -> Pair:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root
