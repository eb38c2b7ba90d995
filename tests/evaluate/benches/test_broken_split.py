"""A split that is broken is named, and nothing of it is scored."""

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kontext.data.pixels import encode_png
from kontext.errors import ArtifactError
from kontext.evaluate.benches.held_out import Bench
from kontext.store.artifacts.artifact_store import ArtifactWriter
from schemas.tables import CATEGORIES, SPLITS
from tests.stages.finished_run import _pairs, recipe
from tests.stages.stage_harness import Harness, rows_table


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows, shards: rows.append(dict(rows[0])), "1 pairs are in the test split twice"),
        (lambda rows, shards: rows.pop(), "the test split names 20 pairs and its shards hold 19"),
        (lambda rows, shards: shards.update(missing="tgt.png"), "has no 'tgt.png' in its shard"),
    ],
)
def test_a_broken_split_is_named_and_nothing_of_it_is_scored(
    tmp_path: Path, change: Callable[..., object], why: str
) -> None:
    harness = Harness(tmp_path, recipe())
    images, pairs = _pairs()
    rows = sorted(
        (row for row in pairs if row["split"] == "test" and row["relation_class"] in CATEGORIES),
        key=lambda row: row["relation_class"],
    )
    splits = [{k: row[k] for k in SPLITS.names} for row in rows]
    shards: dict[str, str] = {}
    change(rows, shards)

    def fill(writer: ArtifactWriter) -> None:
        path = tmp_path / "test-000000.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                record = {k: v for k, v in row.items() if k != "component_id"}
                members = {"json": json.dumps(record).encode()}
                members["ctx0.png"] = encode_png(images[row["context_ids"][0]])
                members["tgt.png"] = encode_png(images[row["target_id"]])
                members.pop(shards.get("missing", ""), None)
                for suffix, data in members.items():
                    info = tarfile.TarInfo(f"{row['pair_id'][:32]}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        writer.add_file(path.name, path)
        writer.add_table("splits.parquet", rows_table(SPLITS, splits))

    made = harness.make("shard", fill)
    with pytest.raises(ArtifactError, match=re.escape(why)):
        Bench.from_shards(made, harness.recipe.evaluate)
