"""A home with an evaluation whose pictures say how good they are, and raters who can see that.

Red of the first pixel is a picture's worth, green is its item's number. An editor named a is better
than b, and so on; identity is worth 0, the oracle 250.
"""

import hashlib
import io
import math
import random
import tarfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from kontext.data.pixels import decode_png, encode_png, pixel_id
from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.evaluate.arena.asking import Arena
from kontext.evaluate.arena.contest import Contest, open_contest
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore, ArtifactWriter
from kontext.store.catalog.catalog import Catalog
from kontext.store.objects import open_store
from kontext.store.votes import VoteBook
from schemas.manifest import Manifest

WORTH = {"a": 200, "b": 150, "c": 100, "d": 50}
ITEMS = 16
IDENTITY, ORACLE = 0, 250
SIDE = 16


def picture(worth: int, item: int) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3]."""
    made = np.full((SIDE, SIDE, 3), (90, 120, 160), np.uint8)
    made[4:12, 4:12] = (worth, 60 + item, 255 - worth)
    made[0, 0] = (worth, item, 0)
    return made


def home(folder: Path, editors: Sequence[str] = tuple(WORTH), items: int = ITEMS) -> ArtifactStore:
    """Artifacts shard/s and evaluate/e in the store of a home."""
    store = artifacts(folder)
    folder.joinpath("made").mkdir(parents=True)
    images = {pixel_id(p): encode_png(p) for i in range(items) for p in _truth(i)}
    samples, shards = [_sample(i) for i in range(items)], ShardSet()
    write_shards(samples, "test", folder / "made", 100, images.__getitem__, shards)
    writer = store.writer("shard", "s")
    writer.add_file("test-000.tar", shards.paths[0])
    _commit(writer, {})
    _commit(_evaluated(store.writer("evaluate", "e"), editors, items), {"shard": "s"})
    store.tag("latest/evaluate", "evaluate", "e")
    return store


def artifacts(folder: Path) -> ArtifactStore:
    return ArtifactStore(open_store(f"file://{folder}/store"), folder / "cache")


def catalog(folder: Path) -> Catalog:
    return Catalog(folder / "catalog.sqlite", f"file://{folder}/store")


def book(folder: Path) -> VoteBook:
    return VoteBook(artifacts(folder).objects, catalog(folder), "e")


def contest(folder: Path, editors: Sequence[str] = ()) -> Contest:
    return open_contest(artifacts(folder), "evaluate", editors)


class Person:
    """A rater who sees pictures only. `care` is how much a difference of worth counts; a careless
    one chooses the other side of what he sees."""

    def __init__(self, name: str, care: float = 0.03, careless: bool = False) -> None:
        self.name, self._care, self._careless = name, care, careless
        self._draw = random.Random(name)

    def answers(self, context: bytes, left: bytes, right: bytes) -> dict[str, str]:
        """One answer to each question, from three PNGs."""
        item = int(decode_png(context)[0, 0, 1])
        gap = _seen(left, item) - _seen(right, item)
        sides = ["left", "right"]
        made = {}
        for question in ("instruction", "consistency", "quality"):
            if abs(gap) > 190 or not self._careless:
                chance = 1 / (1 + math.exp(-self._care * gap)) if abs(gap) < 190 else float(gap > 0)
            else:
                chance = 0.5
            chosen = "left" if self._draw.random() < chance else "right"
            made[question] = sides[chosen == "left"] if self._careless else chosen
        return made

    def vote(self, arena: Arena, times: int) -> int:
        """Vote as often as there is something to ask; how often that was."""
        png = arena.contest.png
        for number in range(times):
            task = arena.next(self.name)
            if task is None:
                return number
            shown = (png(task.item, name) for name in ("identity", task.left, task.right))
            arena.vote(self.name, task.token, self.answers(*shown))
        return times


def _seen(png: bytes, item: int) -> int:
    worth, of = decode_png(png)[0, 0, :2].tolist()
    return worth if of == item else -100


def _truth(item: int) -> tuple[np.ndarray, np.ndarray]:
    return picture(IDENTITY, item), picture(ORACLE, item)


def pair_id(item: int) -> str:
    return hashlib.sha256(f"pair {item}".encode()).hexdigest()


def _sample(item: int) -> ShardSample:
    context, target = map(pixel_id, _truth(item))
    texts = dict.fromkeys(
        ("instruction_short", "instruction_inverse", "target_caption", "context_caption"), ""
    )
    record = {
        "pair_id": pair_id(item), "relation_class": "local", "relation": "worth", **texts,
        "instruction": f"make number {item} better", "params": {}, "source": "drawn",
        "license_spdx": "CC0-1.0", "split": "test", "context_ids": [context], "target_id": target,
    }  # fmt: skip
    return ShardSample(pair_id(item), (context,), target, record)


def _evaluated(writer: ArtifactWriter, editors: Sequence[str], items: int) -> ArtifactWriter:
    data, rows = io.BytesIO(), []
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for i in range(items):
            known = {
                "pair_id": pair_id(i), "category": "local", "relation": "worth",
                "instruction": f"make number {i} better", "source": "drawn",
                "cluster": f"c{i // 2}",
            }  # fmt: skip
            for name in (*editors, "oracle"):
                row = {**known, "editor": name, "success": True}
                if name in WORTH:
                    png = encode_png(picture(WORTH[name], i))
                    file = tarfile.TarInfo(f"{i}.{name}.png")
                    file.size = len(png)
                    row |= {"picture": file.name, "offset_bytes": tar.offset + tarfile.BLOCKSIZE}
                    row |= {"length_bytes": len(png)}
                    tar.addfile(file, io.BytesIO(png))
                rows.append(row)
    writer.add_bytes("edits.tar", data.getvalue())
    writer.add_table("items.parquet", pa.Table.from_pylist(rows))
    return writer


def _commit(writer: ArtifactWriter, inputs: dict[str, str]) -> Artifact:
    manifest = Manifest(
        stage=writer.stage, digest=writer.digest, code_digest="c", config={}, inputs=inputs,
        files=list(writer.files.values()), metrics={}, notes=[], recipe="ci",
        created_at=datetime.now(UTC).isoformat(), seconds=0, git_commit="", packages={}, kernels={},
    )  # fmt: skip
    writer.commit(manifest)
    return writer._store.open(writer.stage, writer.digest)
