"""LoRA files: diffusers' and peft's keys, and BFL's; low-rank extraction of a fine-tune.

diffusers:  transformer.transformer_blocks.0.attn.to_q.lora_A.weight
peft:       base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight
BFL:        double_blocks.0.img_attn.qkv.lora_A.weight

We write files without alpha: the scale is folded into B, which every reader takes as scale 1.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kontext.errors import WeightsError
from kontext.models.files.convert import Layout, Rule, rules_for
from kontext.models.files.weights import WeightsFile, open_weights, state_entries, write_weights
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import Lora

_PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.")
_METADATA = "lora_adapter_metadata"  # diffusers' key for peft's LoraConfig
_KEY = re.compile(r"(?P<name>.+)\.(?:lora_(?P<half>A|B|down|up)(?:\.default)?\.weight|alpha)")
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Part:
    """Rows of one of our weights, under the name that a layout has for them."""

    rule: Rule
    index: int  # of the part in the rule; -1: all rows
    rows: int


def save_lora(lora: Lora, path: Path, model: FluxTransformer, layout: Layout = "diffusers") -> None:
    """Write adapters as safetensors. Only the shapes of `model` are used, not its weights.

    Raises:
        WeightsError: adapters for another model.
    """
    lora.check(model)
    rules = {rule.bfl: rule for rule in rules_for(model) if rule.bfl in lora.adapters}
    state: dict[str, Tensor] = {}
    start = "" if layout == "bfl" else "transformer."
    for key, pair in lora.adapters.items():
        pairs = {key: pair} if layout == "bfl" else _split(rules[key], *pair)
        for name, (a, b) in pairs.items():
            stem = start + name.removesuffix(".weight")
            state[f"{stem}.lora_A.weight"], state[f"{stem}.lora_B.weight"] = a, b
    write_weights(path, state_entries(state), {})


def _split(rule: Rule, down: Tensor, up: Tensor) -> dict[str, Pair]:
    """Each part's own A and B. Directions that a part does not use are left out of it."""
    parts = replace(rule, shape=tuple(up.shape)).split(up)
    used = {name: part.count_nonzero(dim=0) > 0 for name, part in parts.items()}
    if not any(bool(mask.any()) for mask in used.values()):  # untrained: B is zero
        return {name: (down, part) for name, part in parts.items()}
    return {
        name: (down[used[name]], part[:, used[name]])
        for name, part in parts.items()
        if used[name].any()
    }


def load_lora(path: Path, model: FluxTransformer) -> Lora:
    """Read adapters for `model` (which may be on the meta device) from a file of any layout.

    alpha is read from the file's tensors or from the metadata that diffusers writes.

    Raises:
        WeightsError: damaged or not a LoRA; one message with all surplus, missing and misshapen
            keys where it is for another model.
    """
    weights = open_weights(path)
    if not weights.is_lora:
        raise WeightsError(f"{path} holds no LoRA adapters")
    halves, strange = _halves(weights)
    parts = _parts(model)
    found: dict[str, list[tuple[_Part, Pair]]] = {}
    missing, misshapen = [], []
    for name, tensors in halves.items():
        part = parts.get(name)
        if part is None:
            strange.append(name)
        elif not {"A", "B"} <= set(tensors):
            missing.append(f"{name} has no lora_{'B' if 'A' in tensors else 'A'}")
        elif (wrong := _misfit(part, weights, tensors)) is not None:
            misshapen.append(f"{name} {wrong}")
        else:
            pair = _scaled(weights, name, tensors)
            found.setdefault(part.rule.bfl, []).append((part, pair))
    lists = (("missing", missing), ("surplus", strange), ("misshapen", misshapen))
    problems = [f"{len(keys)} {what}: {', '.join(sorted(keys))}" for what, keys in lists if keys]
    if problems:
        raise WeightsError(f"{path} does not fit the model; " + "; ".join(problems))
    return Lora({key: _joined(given) for key, given in found.items()}, str(path))


def _halves(weights: WeightsFile) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Keys of A, B and alpha by module name, and keys that are none of them."""
    halves: dict[str, dict[str, str]] = {}
    strange = []
    for key in weights:
        match = _KEY.fullmatch(key)
        if match is None:
            strange.append(key)
            continue
        half = {"down": "A", "up": "B", None: "alpha"}.get(match["half"], match["half"])
        name = match["name"]
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        halves.setdefault(name, {})[half] = key
    return halves, strange


def _parts(model: FluxTransformer) -> dict[str, _Part]:
    """Every module name of either layout that can have an adapter."""
    found = {}
    for rule in rules_for(model):
        if len(rule.shape) == 2:
            found[rule.bfl.removesuffix(".weight")] = _Part(rule, -1, rule.shape[0])
            for index, name in enumerate(rule.parts):
                found[name.removesuffix(".weight")] = _Part(rule, index, rule.rows[index])
    return found


def _misfit(part: _Part, weights: WeightsFile, keys: Mapping[str, str]) -> str | None:
    down, up = weights.shape(keys["A"]), weights.shape(keys["B"])
    wanted = (part.rows, part.rule.shape[1])
    if len(down) == len(up) == 2 and down[0] == up[1] and (up[0], down[1]) == wanted:
        return None
    return f"{list(up)} x {list(down)} for {list(wanted)}"


def _scaled(weights: WeightsFile, name: str, keys: Mapping[str, str]) -> Pair:
    down, up = weights[keys["A"]].float(), weights[keys["B"]].float()
    if "alpha" in keys:
        return down, up * (float(weights[keys["alpha"]]) / down.shape[0])
    return down, up * _metadata_scale(weights, name, down.shape[0])


def _metadata_scale(weights: WeightsFile, name: str, rank: int) -> float:
    """alpha / rank from peft's LoraConfig, where the file carries it; else 1."""
    try:
        stored: dict[str, Any] = json.loads(weights.metadata.get(_METADATA, "{}"))
    except ValueError as error:
        raise WeightsError(f"{weights.label}: its LoRA metadata is not JSON") from error
    config = {key.removeprefix("transformer."): value for key, value in stored.items()}
    if config.get("use_dora"):
        raise WeightsError(f"{weights.label} is a DoRA, which is not supported")
    alphas = config.get("alpha_pattern") or {}
    alpha = next((v for k, v in alphas.items() if name.endswith(k)), config.get("lora_alpha"))
    if alpha is None:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _joined(given: Sequence[tuple[_Part, Pair]]) -> Pair:
    """One adapter for our weight from those of its parts.

    Parts with the same A share it again; otherwise A is stacked and B is block-diagonal, which is
    the same map at the sum of the ranks.
    """
    rule = given[0][0].rule
    if given[0][0].index < 0:
        return given[0][1]
    pairs = {part.index: pair for part, pair in given}
    first = given[0][1][0]
    shared = len(pairs) == len(rule.parts) and all(
        torch.equal(first, down) for down, _ in pairs.values()
    )
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
                (_Part(rule, index, len(piece)), _truncated(piece, rank))
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
