"""A whole dataset in one file, for a machine without network, store or image libraries.

A pack is a safetensors file: the pixels of every image once, the states of every text, the pairs,
the feature network's weights, and the recipe. Reading it needs numpy, torch, safetensors and
Python's own lzma. Images are stored exactly: relational pairs differ in few pixels, so side by
side in one xz stream they take far less than as separate lossless files. Text states keep their
real tokens only (MiniLM's padding is zero), as int8 with a scale per token.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kontext.data.pair_tensors import NO_CONTEXT, PairTensors
from kontext.errors import WeightsError

VERSION = 2
SPLITS = ("train", "val", "test")
_DICTIONARY = 192 << 20  # bytes the compressor looks back: as much as any pack's images here


@dataclass(frozen=True)
class Texts:
    """K texts: real tokens of all of them in a row [T, D] int8, a scale each [T], and pooled."""

    lengths: Tensor  # [K] int16: real tokens of each
    tokens: Tensor  # [T, D] int8
    scales: Tensor  # [T] float16
    pooled: Tensor  # [K, P] float16
    length: int  # tokens a sequence is padded to

    @classmethod
    def of(cls, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Texts:
        """From padded states [K, L, D], their mask [K, L] bool and pooled vectors [K, P]."""
        real = tokens[mask].float()
        scales = (real.abs().amax(dim=1) / 127).clamp(min=1e-8).half()
        quantised = (real / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        lengths = mask.sum(dim=1).to(torch.int16)
        return cls(lengths, quantised, scales, pooled.half(), tokens.shape[1])

    def padded(self) -> Tensor:
        """Token states [K, L, D] float16, zero at padding."""
        dim = self.tokens.shape[1]
        out = torch.zeros(len(self.lengths), self.length, dim, dtype=torch.float16)
        mask = torch.arange(self.length)[None] < self.lengths[:, None]
        out[mask] = (self.tokens.float() * self.scales.float()[:, None]).half()
        return out


@dataclass(frozen=True)
class Pairs:
    """P pairs as rows of the banks."""

    target: Tensor  # [P] int64
    context: Tensor  # [P] int64, NO_CONTEXT for text-to-image
    text: Tensor  # [P] int64
    category: Tensor  # [P] int64 into the pack's categories
    split: Tensor  # [P] int64 into SPLITS
    # [P, R] int64: further pictures an edit refers to, the rest NO_CONTEXT; None: there are none
    references: Tensor | None = None


@dataclass(frozen=True)
class Pack:
    """Everything a training run reads."""

    images: NDArray[np.uint8]  # [M, H, W, 3]
    texts: Texts  # row 0 is the empty prompt
    pairs: Pairs
    instructions: list[str]  # of each text row
    categories: tuple[str, ...]
    features: dict[str, Tensor]  # the feature network's state, float16; empty: none
    recipe: dict[str, Any]  # resolved
    digest: str = ""  # of what is inside; set when read or written

    def tensors(self, latents: Tensor, split: str, device: torch.device) -> PairTensors:
        """The pairs of one split, over encoded images [M, C, h, w].

        Raises:
            WeightsError: the pack holds no pair of that split.
        """
        rows = torch.nonzero(self.pairs.split == SPLITS.index(split)).flatten()
        if not len(rows):
            raise WeightsError(f"the pack holds no '{split}' pairs")
        return PairTensors(
            latents=latents.float().to(device),
            text_tokens=self.texts.padded().to(device),
            text_pooled=self.texts.pooled.to(device),
            target=self.pairs.target[rows],
            context=self.pairs.context[rows],
            text=self.pairs.text[rows],
            category=self.pairs.category[rows],
            categories=self.categories,
            empty_text=0,
            references=None if self.pairs.references is None else self.pairs.references[rows],
        )

    def images_of(self, split: str) -> NDArray[np.int64]:
        """Rows of the images that a split's pairs show."""
        mine = self.pairs.split == SPLITS.index(split)
        shown = [self.pairs.target[mine], self.pairs.context[mine]]
        if self.pairs.references is not None:
            shown.append(self.pairs.references[mine].flatten())
        used = np.unique(torch.cat(shown).numpy())
        rows: NDArray[np.int64] = used[used != NO_CONTEXT]
        return rows


def write_pack(pack: Pack, path: Path, parts: int = 1) -> str:
    """Write a pack, atomically; returns its digest. Images compress best in the order of groups.

    Args:
        parts: independent streams of images: fewer are smaller, more can be packed in parallel.
    """
    tensors = {
        "texts.lengths": pack.texts.lengths,
        "texts.tokens": pack.texts.tokens,
        "texts.scales": pack.texts.scales,
        "texts.pooled": pack.texts.pooled,
        **{f"pairs.{k}": getattr(pack.pairs, k).to(torch.int32) for k in _PAIR_COLUMNS},
        **{f"features.{name}": value for name, value in pack.features.items()},
        "instructions": _bytes(lzma.compress(json.dumps(pack.instructions).encode())),
    }
    if pack.pairs.references is not None:
        tensors[_REFERENCES] = pack.pairs.references.to(torch.int32)
    for number, part in enumerate(np.array_split(pack.images, parts)):
        tensors[f"images.{number:04d}"] = _bytes(compress_images(part))
    about = {
        "version": VERSION,
        "images": list(pack.images.shape),
        "text_length": pack.texts.length,
        "categories": list(pack.categories),
        "recipe": pack.recipe,
    }
    digest = _digest(tensors, about)
    partial = path.with_suffix(".partial")
    # one key: safetensors keeps metadata in a hash map and writes several in any order
    told = {"kontext": json.dumps({**about, "digest": digest}, sort_keys=True)}
    save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata=told)
    partial.replace(path)
    return digest


def read_pack(path: Path) -> Pack:
    """Read a pack whole.

    Raises:
        WeightsError: not a pack, one of another version, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a pack: {error}") from error
    if "kontext" not in told:
        raise WeightsError(f"{path} is not a pack")
    about = json.loads(told["kontext"])
    if about["version"] != VERSION:
        raise WeightsError(f"{path} is a pack of version {about['version']}, not {VERSION}")
    digest = about.pop("digest", "")
    if _digest(tensors, about) != digest:
        raise WeightsError(f"{path} is damaged")
    return Pack(
        images=_images(tensors, about["images"]),
        texts=Texts(
            lengths=tensors["texts.lengths"],
            tokens=tensors["texts.tokens"],
            scales=tensors["texts.scales"],
            pooled=tensors["texts.pooled"],
            length=about["text_length"],
        ),
        pairs=Pairs(
            **{name: tensors[f"pairs.{name}"].long() for name in _PAIR_COLUMNS},
            references=tensors[_REFERENCES].long() if _REFERENCES in tensors else None,
        ),
        instructions=json.loads(lzma.decompress(tensors["instructions"].numpy().tobytes())),
        categories=tuple(about["categories"]),
        features={
            name.removeprefix("features."): value
            for name, value in tensors.items()
            if name.startswith("features.")
        },
        recipe=about["recipe"],
        digest=digest,
    )


_PAIR_COLUMNS = ("target", "context", "text", "category", "split")
_REFERENCES = "pairs.references"  # left out where there are none


def compress_images(images: NDArray[np.uint8]) -> bytes:
    """Images [M, H, W, 3] as one xz stream. Raw rows: what repeats between images stays equal."""
    filters = [
        {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": min(_DICTIONARY, images.nbytes + 4096)}
    ]
    return lzma.compress(np.ascontiguousarray(images).tobytes(), filters=filters)


def _images(tensors: dict[str, Tensor], shape: Sequence[int]) -> NDArray[np.uint8]:
    out = np.empty(int(np.prod(shape)), np.uint8)
    place = 0
    for name in sorted(name for name in tensors if name.startswith("images.")):
        for piece in _decompressed(tensors[name].numpy().tobytes()):
            out[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
            place += len(piece)
    if place != len(out):
        raise WeightsError(f"the pack holds {place} bytes of pixels, not {len(out)}")
    return out.reshape(tuple(shape))


def _decompressed(data: bytes, step: int = 64 << 20) -> Iterator[bytes]:
    stream = lzma.LZMADecompressor()
    while not stream.eof:
        yield stream.decompress(data, max_length=step)
        data = b""


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _digest(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    told = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        told.update(name.encode())
        told.update(tensors[name].contiguous().numpy().tobytes())
    return told.hexdigest()
