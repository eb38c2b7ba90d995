import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kontext.data.ingest import ingest_chunk
from kontext.data.ingest_chunk import IngestChunk
from kontext.data.sources.base import SourceItem
from kontext.engine.chunks import map_chunks
from kontext.errors import GateError
from kontext.store.objects import ObjectStore
from schemas.sections.data import IngestConfig
from tests.data.pictures import scene_png

CONFIG = IngestConfig(allow_unlisted=True)


@dataclass(frozen=True)
class Deadly:
    """Bytes that end the process that reads them, as a library with a fault does."""

    path: Path

    def read(self, limit: int) -> bytes:
        os.kill(os.getpid(), signal.SIGSEGV)
        return b""


def item(number: int, part: Deadly | None = None) -> SourceItem:
    return SourceItem(
        source="folder:pictures",
        ref=f"{number}.png",
        group_key="pictures",
        concept="a scene",
        license_spdx="CC0-1.0",
        author="kontext",
        payload=None if part else scene_png(number),
        part=part,
    )


def test_a_picture_that_its_readers_die_of_is_rejected_and_the_others_are_kept(
    objects: ObjectStore, tmp_path: Path
) -> None:
    deadly = Deadly(tmp_path / "deadly.png")
    one = IngestChunk.of([item(1), item(2, deadly), item(3)], CONFIG, tmp_path)
    other = IngestChunk.of([item(4)], CONFIG, tmp_path)
    first, second = map_chunks(ingest_chunk, [one, other], 2, objects=objects, prefix="w")
    assert first["images"]["source_ref"].to_pylist() == ["1.png", "3.png"]
    assert first["outcomes"]["outcome"].to_pylist() == ["kept", "worker_lost", "kept"]
    (reject,) = first["rejects"].to_pylist()
    assert reject["source_ref"] == "2.png" and reject["reason"] == "worker_lost"
    assert reject["detail"] == "3 workers were lost at it: it crashed: SIGSEGV"
    assert second["images"]["source_ref"].to_pylist() == ["4.png"]
    whole = ingest_chunk(IngestChunk.of([item(1), item(3)], CONFIG, tmp_path))
    for name in ("images", "pixels", "decisions", "moments"):
        assert first[name].equals(whole[name])


def test_a_home_with_another_key_or_other_opt_outs_is_an_error(tmp_path: Path) -> None:
    """On another machine there may be a home at the same path that is no copy of ours."""
    chunk = IngestChunk.of([item(1)], CONFIG, tmp_path / "ours")
    for name in ("empty", "theirs"):
        (tmp_path / name).mkdir()
    IngestChunk.of([], CONFIG, tmp_path / "theirs")  # makes a key
    for name in ("empty", "theirs"):
        with pytest.raises(GateError, match="another safety key than the home of this run"):
            ingest_chunk(replace(chunk, home=str(tmp_path / name)))
    assert not list((tmp_path / "empty").iterdir())  # and none is made there
    ingest_chunk(chunk)
    (tmp_path / "ours/opt-outs.txt").write_text("*.png\n")
    with pytest.raises(GateError, match="other opt-outs"):
        ingest_chunk(chunk)


def test_a_chunk_names_the_files_that_it_reads(tmp_path: Path) -> None:
    deadly = Deadly(tmp_path / "a.tar")
    chunk = IngestChunk.of([item(1), item(2, deadly), item(3, deadly)], CONFIG, tmp_path)
    assert chunk.files() == {tmp_path / "a.tar"}
