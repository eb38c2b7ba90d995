"""Banks: encoded rows in safetensors shards, keyed by what was encoded and by what encoded it.

A bank named `latents` is the files `latents-00000.safetensors`, … and the table `latents.parquet`,
whose row K says which content and which encoder gave row K, and where it lies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kontext.errors import WeightsError
from kontext.stage import ArtifactOutput, ArtifactReader

BANK_ROWS = pa.schema(
    [
        ("key", pa.string()),
        ("text", pa.string()),
        ("encoder", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
    ],
    metadata={
        "comment": "Row K of a bank: key = pixel id of the image or sha256 of the text, encoder = "
        "digest of the weights that encoded it, and the shard and row it is stored in."
    },
)


class Bank(NamedTuple):
    """K encoded rows.

    Attributes:
        keys: pixel ids of images, or sha256 of texts.
        encoder: digest of the weights that encoded them.
        tensors: each [K, …].
        texts: the texts themselves, where it is text that was encoded.
    """

    keys: list[str]
    encoder: str
    tensors: dict[str, Tensor]
    texts: list[str] | None = None


def write_bank(output: ArtifactOutput, scratch: Path, name: str, bank: Bank, rows: int) -> int:
    """Write a bank in shards of at most `rows` rows; returns how many shards there are."""
    entries: list[dict[str, Any]] = []
    starts = range(0, len(bank.keys), rows)
    for number, start in enumerate(starts):
        shard = f"{name}-{number:05d}.safetensors"
        part = {
            key: value[start : start + rows].contiguous() for key, value in bank.tensors.items()
        }
        save_file(part, scratch / shard, metadata={"encoder": bank.encoder})
        output.add_file(shard, scratch / shard)
        (scratch / shard).unlink()
        for row, index in enumerate(range(start, min(start + rows, len(bank.keys)))):
            entries.append(
                {
                    "key": bank.keys[index],
                    "text": None if bank.texts is None else bank.texts[index],
                    "encoder": bank.encoder,
                    "shard": shard,
                    "row": row,
                }
            )
    output.add_table(f"{name}.parquet", pa.Table.from_pylist(entries, BANK_ROWS))
    return len(starts)


def read_bank(artifact: ArtifactReader, name: str) -> Bank:
    """A whole bank in the order of its table.

    Raises:
        WeightsError: shards and table do not agree, or the rows are of several encoders.
    """
    table = artifact.table(f"{name}.parquet")
    shards, rows = table["shard"].to_pylist(), table["row"].to_pylist()
    encoders = sorted(set(table["encoder"].to_pylist()))
    if len(encoders) != 1:
        raise WeightsError(f"the bank '{name}' is of {len(encoders)} encoders, not of one")
    parts: dict[str, list[Tensor]] = {}
    for shard in dict.fromkeys(shards):
        wanted = [row for name_, row in zip(shards, rows, strict=True) if name_ == shard]
        for key, value in load_file(artifact.path(shard)).items():
            if len(value) != len(wanted) or wanted != list(range(len(value))):
                raise WeightsError(f"{shard} has {len(value)} rows, its table {len(wanted)}")
            parts.setdefault(key, []).append(value)
    tensors = {key: torch.cat(values) for key, values in parts.items()}
    texts = table["text"].to_pylist()
    return Bank(table["key"].to_pylist(), encoders[0], tensors, None if None in texts else texts)
