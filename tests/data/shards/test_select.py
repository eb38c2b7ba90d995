"""Joining pairs, captions and verdicts as columns gives what dicts of rows give."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kontext.data.shards.dataset import PairRows
from kontext.data.shards.select import select_pairs, ties
from kontext.store.parquet import ParquetRows, parquet_bytes
from schemas.tables import CAPTIONS, PAIRS
from tests.stages.stage_harness import rows_table

Row = dict[str, Any]
VERDICTS = pa.schema(
    [("pair_id", pa.string()), ("accept", pa.bool_()), ("reject_reasons", pa.list_(pa.string()))]
)


def plain(pairs: list[Row], said: list[Row], verdicts: list[Row], ids: list[str]) -> Any:
    """(rows in pair-id order, why others are none), by dicts."""
    captions = {row["pair_id"]: row for row in said}
    judged = {row["pair_id"]: row for row in verdicts}
    kept, dropped = [], Counter[str]()
    for pair in pairs:
        text, verdict = captions.get(pair["pair_id"]), judged.get(pair["pair_id"])
        if text is None:
            dropped["caption_missing"] += 1
        elif text["status"] != "ok":
            dropped[f"caption_{text['status']}"] += 1
        elif verdict is None:
            dropped["not_screened"] += 1
        elif not verdict["accept"]:
            dropped[(verdict["reject_reasons"] or ["unnamed"])[0]] += 1
        elif not {*pair["context_ids"], pair["target_id"]} <= set(ids):
            dropped["image_missing"] += 1
        else:
            kept.append(pair | text)
    return sorted(kept, key=lambda row: str(row["pair_id"])), dropped


def world(seed: int) -> tuple[list[Row], list[Row], list[Row], list[str]]:
    """Pairs, some of them without caption, verdict or pictures, in orders that differ or not."""
    draw = np.random.default_rng(seed)
    ids = [f"i{n}" for n in range(9)]
    names = [f"p{n:03}" for n in draw.permutation(40)[: draw.integers(1, 40)]]
    pairs = [
        {"pair_id": name, "context_ids": draw.choice(ids, draw.integers(0, 3)).tolist(),
         "target_id": str(draw.choice([*ids, "lost"], p=[0.1] * 10)), "relation_class": "local",
         "params": f'{{"of":"{name}"}}'}
        for name in (sorted(names) if seed % 2 else names)
    ]  # fmt: skip
    said = [
        {"pair_id": name, "instruction": f"do {name}",
         "status": str(draw.choice(["ok", "empty"], p=[0.8, 0.2]))}
        for name in names if draw.random() < 0.9 or seed % 3
    ]  # fmt: skip
    verdicts = [
        {"pair_id": name, "accept": bool(draw.random() < 0.8),
         "reject_reasons": [["l1", "ssim"], ["clip"], []][draw.integers(3)]}
        for name in names if draw.random() < 0.9 or seed % 3
    ]  # fmt: skip
    return pairs, said, verdicts, ids


@pytest.mark.parametrize("block", range(2))
def test_columns_select_what_dicts_select(block: int) -> None:
    for seed in range(block, 120, 2):
        pairs, said, verdicts, ids = world(seed)
        tables = rows_table(PAIRS, pairs), rows_table(CAPTIONS, said)
        pairs, said = (table.to_pylist() for table in tables)
        with tempfile.TemporaryDirectory() as name:
            files = Path(name) / "pairs.parquet", Path(name) / "captions.parquet"
            for path, table in zip(files, tables, strict=True):
                path.write_bytes(parquet_bytes(table))
            accepted = pa.Table.from_pylist(verdicts, VERDICTS)
            selected = select_pairs(*files, accepted, pa.array(ids))
            found = list(PairRows(*files).of(selected.table))
        kept, dropped = plain(pairs, said, verdicts, ids)
        assert (found, selected.dropped) == (kept, dropped)
        tied = [(row["context_ids"][0], row["target_id"]) for row in kept if row["context_ids"]]
        assert [(ids[a], ids[b]) for a, b in ties(selected).tolist()] == tied


def test_rows_are_read_by_their_numbers(tmp_path: Path) -> None:
    table = pa.table({"number": list(range(150_000)), "text": [str(n) for n in range(150_000)]})
    path = tmp_path / "table.parquet"
    path.write_bytes(parquet_bytes(table))
    rows, draw = ParquetRows(path), np.random.default_rng(0)
    for wanted in (draw.integers(0, 150_000, 40), np.arange(65_530, 65_540), np.arange(0)):
        assert rows.take(wanted).equals(table.take(wanted))
