"""Small picture files in the layouts that people have."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(number: int, width: int = 24, height: int = 16) -> bytes:
    """A PNG of its own for every number."""
    rgb = np.random.default_rng(number).integers(0, 255, (4, 6, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(rgb).resize((width, height)).save(sink, "PNG")
    return sink.getvalue()


def put(root: Path, files: Mapping[str, bytes | str | int]) -> Path:
    """Write files; a number is the picture of that number."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = png(content) if isinstance(content, int) else content
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def picture(number: int | None) -> dict[str, Any] | None:
    """A cell as Hugging Face writes it."""
    return None if number is None else {"bytes": png(number), "path": f"{number}.png"}


def parquet(path: Path, rows: Sequence[Mapping[str, Any]], pictures: Sequence[str]) -> Path:
    """A Parquet file with picture columns (structs, or lists of them where a row has a list)."""
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in pictures:
            listed = any(isinstance(value, list) for value in values)
            columns[name] = pa.array(values, pa.list_(PICTURE) if listed else PICTURE)
        else:
            columns[name] = pa.array(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)
