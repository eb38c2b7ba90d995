"""Chunk work on a local Ray cluster of two nodes, beside the process pool."""

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kontext.engine.chunks import map_chunks
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.errors import ChunkError, EngineError
from kontext.stages import STAGES
from kontext.store.objects import ObjectStore, open_store
from schemas.recipes import load_recipe
from tests.store import chunk_work

ray = pytest.importorskip("ray")

RECIPE = (
    'ingest.sources=[{"kind":"dicebear","styles":["toon-head"],"seeds":4,"values_per_attribute":2},'
    '{"kind":"signs","scenes":8,"words_per_scene":3}]',
    "ingest.chunk_size=16",
    "ingest.canaries=3",
    "ingest.processes=2",
    "mine.pairs_per_category=20",
    "mine.t2i_singles=10",
    'screen.classifiers=["open-nsfw"]',
    "screen.policy=no-nudenet",
    "screen.processes=2",
    "screen.clip_steps=1",
    "shard.test_fraction=0.2",
    "shard.val_fraction=0.2",
    'autoencoder.shape={"ch": 8, "norm_groups": 4}',
    "autoencoder.steps=2",
    "autoencoder.batch=4",
    "autoencoder.warmup=1",
    "autoencoder.perceptual_start=1",
    "autoencoder.disc_start=1",
    "encode.shard_rows=16",
)
ON_RAY = ("ingest", "screen", "encode")


@pytest.fixture
def on_ray(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_ENGINE", ray_cluster)


@contextmanager
def one_killed(title: bytes) -> Iterator[list[int]]:
    """SIGKILL to the first process of that title; its id is in the list then."""
    killed: list[int] = []
    over = threading.Event()

    def hunt() -> None:
        while not killed and not over.is_set():
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    found = (folder / "cmdline").read_bytes().startswith(title)
                except OSError:
                    continue
                if found:
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed.append(int(folder.name))
                    return
            time.sleep(0.01)

    hunter = threading.Thread(target=hunt, daemon=True)
    hunter.start()
    try:
        yield killed
    finally:
        over.set()
        hunter.join()


def engine_in(home: Path) -> Engine:
    return Engine(load_recipe("ci", RECIPE), f"file://{home}/store", "", home, stages=STAGES)


def made(home: Path, names: tuple[str, ...]) -> dict[str, tuple[str, dict[str, str]]]:
    """Stage -> its artifact's digest, and the SHA-256 of each of its files."""
    engine, found = engine_in(home), {}
    for name in names:
        manifest = engine.artifact(name).manifest
        found[name] = (manifest.digest, {file.name: file.sha256 for file in manifest.files})
    return found


def test_ingest_screen_and_encode_give_what_the_process_pool_gives(
    ray_cluster: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    report = Reporter(logging.getLogger("kontext"))
    pool, home = tmp_path / "pool", tmp_path / "ray"
    for name in list(STAGES)[: list(STAGES).index("encode") + 1]:
        if name != "index":  # which has no catalog here
            engine_in(pool).run_stage(name, report)
    shutil.copytree(pool, home)
    for name in ON_RAY:  # they are to be made again, of the same inputs
        shutil.rmtree(home / "store/runs" / name)

    monkeypatch.setenv("KONTEXT_ENGINE", "ray")
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    with caplog.at_level("INFO", "kontext"):
        with one_killed(b"ray::ingest_chunk") as killed:
            engine_in(home).run_stage("ingest", report)
        for name in ON_RAY[1:]:
            assert not engine_in(home).run_stage(name, report).reused
    assert killed and "its worker was lost: " in caplog.text
    # ingest and encode: screen has no picture to score
    assert caplog.text.count("chunks run on Ray: 2 nodes, 2 processors") == 2
    assert made(home, ON_RAY) == made(pool, ON_RAY)


def test_a_lost_worker_s_chunk_is_done_again_and_its_log_comes_back(
    on_ray: None, objects: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chunks = [chunk_work.Items((n, n + 1), once=2, folder=str(tmp_path)) for n in (0, 2, 4)]
    with caplog.at_level("INFO", "kontext"):
        results = map_chunks(chunk_work.counted, chunks, objects=objects, prefix="w")
    assert [r["rows"]["n"].to_pylist() for r in results] == [[0, 1], [2, 3], [4, 5]]
    assert (tmp_path / "died-2").exists() and "chunk 1: its worker was lost" in caplog.text
    assert "chunk 2: numbers from 4 on" in caplog.messages


def test_an_item_that_costs_workers_costs_only_itself(on_ray: None, objects: ObjectStore) -> None:
    chunks = [chunk_work.Items((1, 2), deadly=2)]
    (result,) = map_chunks(chunk_work.counted, chunks, objects=objects, prefix="w")
    assert result["rows"]["n"].to_pylist() == [1, -2]


@pytest.mark.s3
def test_workers_store_in_a_bucket_themselves(on_ray: None, s3_url: str) -> None:
    """They are told the keys of this process, which the cluster was not started with."""
    objects = open_store(s3_url)
    results = map_chunks(
        chunk_work.counted, [chunk_work.Items((n,)) for n in (1, 2)], objects=objects, prefix="w"
    )
    assert [r["rows"]["n"].to_pylist() for r in results] == [[1], [2]]


def test_what_a_node_cannot_read_is_an_error(on_ray: None, objects: ObjectStore) -> None:
    with pytest.raises(ChunkError, match=r"cannot read /nowhere/a\.png: what is in folders must"):
        map_chunks(
            chunk_work.counted,
            [chunk_work.Items((1,), wanted="/nowhere/a.png")],
            objects=objects,
            prefix="w",
        )


@pytest.mark.filterwarnings("ignore:Ray Client connection timed out")
def test_a_cluster_that_is_not_there_is_an_error(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_ENGINE", "ray://127.0.0.1:1")
    monkeypatch.setattr("ray.util.client.worker.INITIAL_TIMEOUT_SEC", 0.1)  # 5, six times
    monkeypatch.setattr("ray.util.client.worker.MAX_TIMEOUT_SEC", 0.1)
    with pytest.raises(EngineError, match=r"the Ray cluster ray://127\.0\.0\.1:1 is not reached"):
        map_chunks(chunk_work.table_of, [{"seed": 1}], objects=objects, prefix="w")
    # else no Ray of any kind starts in this process any more
    assert not ray._private.client_mode_hook.is_client_mode_enabled
