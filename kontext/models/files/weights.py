"""Weights in files: safetensors read and written tensor by tensor.

A file is mapped for one tensor at a time. So peak memory is the weights in the wanted dtype plus
the largest tensor, whatever the file's own dtype is.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kontext.errors import WeightsError
from kontext.models.files.convert import Layout, Rule, Shape, rules_for

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_BFL = ("double_blocks.", "single_blocks.", "img_in.", "encoder.down.", "decoder.up.")
_DIFFUSERS = (
    "transformer_blocks.",
    "single_transformer_blocks.",
    "x_embedder.",
    "encoder.down_blocks.",
    "decoder.up_blocks.",
)
_LORA = re.compile(r"[._]lora[._\d]")  # lora_A, lora.down, qkv_lora1
_WRAPPED = "model.diffusion_model."  # ComfyUI's name of the transformer in a file of all parts
_SHARD_BYTES = 10 * 10**9  # diffusers' own limit for one file


@dataclass(frozen=True)
class Entry:
    """Name, shape and dtype of a tensor, and how to read it."""

    name: str
    shape: Shape
    dtype: torch.dtype
    read: Callable[[], Tensor]
    part: Callable[[int, int], Tensor] | None = None  # reads some rows without the others

    def rows(self, start: int, stop: int) -> Tensor:
        """Its rows from `start` to before `stop`, of a tensor with at least one dimension."""
        if self.part is None:
            return self.read()[start:stop]
        return self.part(start, stop)

    @property
    def bytes(self) -> int:
        """Size of the tensor in bytes."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


class WeightsFile(Mapping[str, Tensor]):
    """Tensors of one or several safetensors files, read when asked for. Use `open_weights`."""

    def __init__(self, entries: Mapping[str, Entry], label: str, metadata: dict[str, str]) -> None:
        self.entries, self.label, self.metadata = entries, label, metadata

    def __getitem__(self, key: str) -> Tensor:
        return self.entries[key].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, key: str) -> Shape:
        """Shape of a tensor, without reading it."""
        return self.entries[key].shape

    @property
    def is_lora(self) -> bool:
        """Whether these are low-rank adapters rather than a model."""
        return any(_LORA.search(key) for key in self)

    @property
    def layout(self) -> Layout:
        """Which layout the keys have.

        Raises:
            WeightsError: neither of the two, or adapters instead of a model.
        """
        if self.is_lora:
            raise WeightsError(f"{self.label} holds LoRA adapters, not a model")
        if any(key.startswith(_BFL) for key in self):
            return "bfl"
        if any(key.startswith(_DIFFUSERS) for key in self):
            return "diffusers"
        raise WeightsError(f"{self.label}: neither FLUX.1 weights of BFL's layout nor diffusers'")


def open_weights(path: Path) -> WeightsFile:
    """Read the headers of a safetensors file, or of a folder with one (or with a sharded index).

    Of ComfyUI's files of all parts of a model this is the transformer.

    Raises:
        WeightsError: nothing there, a file that is damaged or not safetensors, or a tensor that
            two files have.
    """
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for file in _files(path):
        try:
            with safe_open(str(file), framework="pt") as handle:
                metadata.update(handle.metadata() or {})
                for key in handle.keys():  # noqa: SIM118 (a handle is no mapping)
                    if key in entries:
                        raise WeightsError(f"{path}: two files have '{key}'; name one of them")
                    entries[key] = _entry(handle, file, key)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: cannot be read as safetensors ({error})") from error
    return WeightsFile(_unwrapped(entries), str(path), metadata)


def _unwrapped(entries: dict[str, Entry]) -> dict[str, Entry]:
    """The transformer alone of ComfyUI's file of all parts, and any other file as it is."""
    if any(_LORA.search(key) for key in entries):
        return entries
    inner = (key for key in entries if key.startswith(_WRAPPED))
    found = {key.removeprefix(_WRAPPED): entries[key] for key in inner}
    return {key: replace(entry, name=key) for key, entry in found.items()} or entries


def _entry(handle: Any, file: Path, key: str) -> Entry:
    head = handle.get_slice(key)
    code = head.get_dtype()
    if code not in DTYPES:
        raise WeightsError(f"{file}: '{key}' has dtype {code}, which is not supported")
    shape, dtype = tuple(head.get_shape()), DTYPES[code]
    rows = partial(_read_rows, file, key, shape, dtype)
    return Entry(key, shape, dtype, partial(_read, file, key), rows)


def _read(file: Path, key: str) -> Tensor:
    with safe_open(str(file), framework="pt") as handle:
        return handle.get_tensor(key)  # type: ignore[no-any-return]


def _read_rows(
    file: Path, key: str, shape: Shape, dtype: torch.dtype, start: int, stop: int
) -> Tensor:
    if start >= stop:
        return torch.empty(0, *shape[1:], dtype=dtype)
    with safe_open(str(file), framework="pt") as handle:
        return handle.get_slice(key)[start:stop]  # type: ignore[no-any-return]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    index = min(path.glob("*.safetensors.index.json"), default=None)
    files = _indexed(index) if index else sorted(path.glob("*.safetensors"))
    missing = [f.name for f in files if not f.is_file()]
    if not files or missing:
        raise WeightsError(
            f"{path}: no weights here" + (f" (missing {missing})" if missing else "")
        )
    return files


def _indexed(index: Path) -> list[Path]:
    """The shards that an index lists."""
    try:
        names = {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
        return [index.with_name(name) for name in sorted(names)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: not an index of shards ({error})") from error


def bfl_entries(path: Path, model: nn.Module, dtype: torch.dtype | None = None) -> list[Entry]:
    """The tensors of a file or folder of either layout, under our (BFL's) names.

    Args:
        model: what the file should fit; its weights are not used.
        dtype: convert while reading; None keeps the file's.

    Raises:
        WeightsError: as `open_weights`; or one message with all missing, surplus and misshapen
            keys.
    """
    weights, rules = open_weights(path), rules_for(model)
    bfl = weights.layout == "bfl"
    problems = key_problems(weights, rules)
    if problems:
        raise WeightsError(f"{weights.label} does not fit the model; " + "; ".join(problems))
    entries = []
    for rule in rules:
        names = (rule.bfl,) if bfl else rule.parts
        kind = dtype or weights.entries[names[0]].dtype
        read, rows = (partial(how, weights, rule, bfl, kind) for how in (_join, _join_rows))
        entries.append(Entry(rule.bfl, rule.shape, kind, read, rows))
    return entries


def _join(weights: WeightsFile, rule: Rule, bfl: bool, dtype: torch.dtype) -> Tensor:
    tensor = weights[rule.bfl] if bfl else rule.join([weights[part] for part in rule.parts])
    return tensor.to(dtype)


def _join_rows(
    weights: WeightsFile, rule: Rule, bfl: bool, dtype: torch.dtype, start: int, stop: int
) -> Tensor:
    """Some rows of a BFL tensor; of parts that have none of them nothing is read."""
    if bfl:
        return weights.entries[rule.bfl].rows(start, stop).to(dtype)
    if rule.swap_halves or rule.matrix:
        return _join(weights, rule, bfl, dtype)[start:stop]
    pieces, first = [], 0
    for name, count in zip(rule.parts, rule.rows, strict=True):
        low, high = max(start - first, 0), min(stop - first, count)
        if low < high or not first:
            pieces.append(weights.entries[name].rows(low, max(low, high)))
        first += count
    return torch.cat(pieces).to(dtype)


def diffusers_entries(entries: Iterable[Entry], rules: Iterable[Rule]) -> list[Entry]:
    """Our tensors under diffusers' names."""
    ours = {entry.name: entry for entry in entries}
    return [
        Entry(name, shape, ours[rule.bfl].dtype, partial(_part, ours[rule.bfl], rule, name))
        for rule in rules
        for name, shape in rule.part_shapes().items()
    ]


def _part(entry: Entry, rule: Rule, name: str) -> Tensor:
    return rule.split(entry.read())[name]


Model = TypeVar("Model", bound=nn.Module)


def load_weights(model: Model, path: Path, dtype: torch.dtype | None = None) -> Model:
    """Fill `model` (which may be on the meta device) from a file of either layout.

    Args:
        dtype: convert while reading; None keeps the file's.

    Raises:
        WeightsError: one message with all missing, surplus and misshapen keys.
    """
    entries = bfl_entries(path, model, dtype)
    model.load_state_dict({e.name: e.read() for e in entries}, strict=True, assign=True)
    return model


def in_stored_dtypes(model: Model, entries: Iterable[Entry]) -> Model:
    """A model on the meta device with its parameters in the dtypes of all its entries."""
    kinds = {e.name: torch.empty(e.shape, dtype=e.dtype, device="meta") for e in entries}
    model.load_state_dict(kinds, strict=True, assign=True)
    return model


def key_problems(weights: WeightsFile, rules: Iterable[Rule]) -> list[str]:
    """Why the file does not fit: missing, surplus and misshapen keys; empty where it fits."""
    expected: dict[str, Shape] = {}
    bfl = weights.layout == "bfl"
    for rule in rules:
        expected.update({rule.bfl: rule.shape} if bfl else rule.part_shapes())
    missing = sorted(set(expected) - set(weights))
    surplus = sorted(set(weights) - set(expected))
    wrong = [
        f"{key} {list(weights.shape(key))} for {list(expected[key])}"
        for key in sorted(set(weights) & set(expected))
        if weights.shape(key) != expected[key]
    ]
    lists = (("missing", missing), ("surplus", surplus), ("misshapen", wrong))
    return [f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in lists if keys]


def write_weights(path: Path, entries: Sequence[Entry], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, holding one tensor at a time. Same input, same bytes.

    The library's own writer wants all tensors in memory at once. Format: u64 length of the header,
    JSON header padded with spaces to 8 bytes, data (github.com/huggingface/safetensors, Format).
    """
    ordered = sorted(entries, key=lambda e: (-e.dtype.itemsize, e.name))  # keeps data aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for entry in ordered:
        offsets = [end, end + entry.bytes]
        end = offsets[1]
        header[entry.name] = {
            "dtype": _CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": offsets,
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial_path = path.with_name(path.name + ".partial")
    with partial_path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in ordered:
            tensor = entry.read()
            assert tuple(tensor.shape) == entry.shape and tensor.dtype == entry.dtype, entry.name
            flat = tensor.contiguous().view(-1).view(torch.uint8)
            file.write(flat.numpy().data)
            del tensor, flat  # before the next one is read
    partial_path.replace(path)


def write_sharded(
    folder: Path, stem: str, entries: Sequence[Entry], limit: int = _SHARD_BYTES
) -> None:
    """Write `stem.safetensors`, or shards of at most `limit` bytes with an index beside them."""
    shards: list[list[Entry]] = [[]]
    for entry in entries:
        if shards[-1] and sum(e.bytes for e in shards[-1]) + entry.bytes > limit:
            shards.append([])
        shards[-1].append(entry)
    folder.mkdir(parents=True, exist_ok=True)
    if len(shards) == 1:
        write_weights(folder / f"{stem}.safetensors", entries, {})
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_weights(folder / name, shard, {})
        places.update({entry.name: name for entry in shard})
    index = {"metadata": {"total_size": sum(e.bytes for e in entries)}, "weight_map": places}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / f"{stem}.safetensors.index.json").write_text(text)


def state_entries(state: Mapping[str, Tensor]) -> list[Entry]:
    """Tensors in memory as entries."""
    return [Entry(name, tuple(t.shape), t.dtype, t.detach().cpu) for name, t in state.items()]
