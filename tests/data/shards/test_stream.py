"""The streaming loader over real shards: exact, elastic, complete, and told when it is not."""

import gc
import hashlib
import itertools
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.stream import Batches, PairStream, Place, StreamBatch, StreamPlan
from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.errors import ArtifactError, NumericsError
from kontext.parallel.world import World
from kontext.store.objects import ObjectStore, open_store
from tests.data.pictures import scene

SIDES = (32, 48)
IMAGES = {s: [scene(n, s) for n in range(6)] for s in SIDES}
PNGS = {pixel_id(rgb): encode_png(rgb) for found in IMAGES.values() for rgb in found}
PLAN = StreamPlan(budget=120, text=4, seed=3)


def sample(number: int) -> ShardSample:
    """Sizes, categories and numbers of contexts all mixed; images shared by many pairs."""
    side = SIDES[number % 7 == 0]
    names = [pixel_id(rgb) for rgb in IMAGES[side]]
    contexts = tuple(names[(number + k) % 6] for k in range(number % 3))
    target = names[(number * 5 + 3) % 6]
    pair_id = hashlib.sha256(str(number).encode()).hexdigest()
    record = {
        "pair_id": pair_id,
        "relation_class": ("t2i", "local", "style")[number % 3],
        "context_ids": list(contexts),
        "target_id": target,
        "number": number,
    }
    return ShardSample(pair_id, contexts, target, record)


def fill(store: ObjectStore, folder: Path, count: int = 60) -> None:
    written = ShardSet()
    write_shards([sample(n) for n in range(count)], "train", folder, 13, PNGS.__getitem__, written)
    for path in written.paths:
        store.put_file(f"data/{path.name}", path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    found = open_store(f"file://{tmp_path_factory.mktemp('stream')}")
    fill(found, tmp_path_factory.mktemp("tars"))
    return found


def stream(
    store: ObjectStore, plan: StreamPlan = PLAN, world: World | None = None, **options: int
) -> PairStream:
    return PairStream(store, "data/", plan, world, **options)


def take(batches: Batches, count: int) -> list[StreamBatch]:
    """The next `count`; then nothing reads the files any more."""
    with closing(batches):
        return list(itertools.islice(batches, count))


def numbers(batches: list[StreamBatch]) -> list[list[int]]:
    return [[s.record["number"] for s in batch.samples] for batch in batches]


def flat(parts: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(parts))


def test_samples_are_what_was_packed_and_batches_are_of_one_shape(store: ObjectStore) -> None:
    streamed = stream(store)
    for batch in take(streamed.batches(), len(streamed.epoch(0))):
        assert batch.tokens <= PLAN.budget and batch.total == len(batch.samples)
        for found in batch.samples:
            wanted = sample(found.record["number"])
            assert found.record == wanted.record and wanted.key == found.key
            assert pixel_id(found.target) == wanted.target_id
            assert tuple(map(pixel_id, found.contexts)) == wanted.context_ids
        assert batch.targets().shape[0] == batch.total
        if batch.samples[0].contexts:
            assert batch.contexts().shape[:2] == (batch.total, len(batch.samples[0].contexts))


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 70), world=st.integers(1, 4), other=st.integers(1, 4))
def test_resumed_anywhere_on_any_number_of_ranks_nothing_is_lost_or_seen_twice(
    store: ObjectStore, cut: int, world: int, other: int
) -> None:
    def run(ranks: int, place: Place | None, count: int) -> tuple[list[list[int]], Place]:
        parts = [
            take(stream(store, world=World(rank, ranks)).batches(place), count)
            for rank in range(ranks)
        ]
        joined = [flat(rows) for rows in zip(*map(numbers, parts), strict=True)]
        return joined, parts[0][-1].place if count else Place()

    whole, _ = run(1, None, 80)
    before, place = run(world, None, cut)
    after, _ = run(other, place, 80 - cut) if cut < 80 else ([], place)
    assert before + after == whole
    length = len(stream(store).epoch(0))
    assert Counter(flat(whole[:length])) == Counter(range(60))


def test_threads_and_look_ahead_change_nothing(store: ObjectStore) -> None:
    one = PairStream(store, "data/", PLAN, threads=1, ahead=1, decoded_bytes=0)
    many = PairStream(store, "data/", PLAN, threads=8, ahead=16)
    assert numbers(take(one.batches(), 40)) == numbers(take(many.batches(), 40))


KILLED = """
import os, signal, sys
from kontext.store.objects import open_store
from kontext.data.shards.stream import PairStream
from tests.data.shards.test_stream import PLAN
batches = PairStream(open_store(sys.argv[1]), "data/", PLAN).batches()
for step in range(1000):
    batch = next(batches)
    print(batch.place.epoch, batch.place.batch, batch.place.stream, flush=True)
    if step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_loader_goes_on_where_its_last_batch_was_noted(store: ObjectStore) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, store.url, "22"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    epoch, batch, name = killed.stdout.split("\n")[22].split()
    resumed = take(stream(store).batches(Place(int(epoch), int(batch), name)), 20)
    assert numbers(resumed) == numbers(take(stream(store).batches(), 43)[23:])


def test_a_place_of_another_stream_is_refused(store: ObjectStore) -> None:
    (batch,) = take(stream(store).batches(), 1)
    other = stream(store, StreamPlan(budget=120, text=4, seed=4))
    with pytest.raises(NumericsError, match="other data or in another order"):
        next(other.batches(batch.place))


def test_damaged_pixels_and_exchanged_shards_are_told(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    (tmp_path / "tars").mkdir()
    fill(store, tmp_path / "tars", 8)
    streamed = stream(store)
    (key,) = [k for k in store.list("data/") if k.endswith(".tar")]
    path = store.local_path(key)
    assert path is not None
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data.replace(sample(0).pair_id.encode(), b"0" * 64))
    with pytest.raises(ArtifactError, match="not the one that was indexed"):
        take(streamed.batches(), 8)
    path.write_bytes(data.replace(sample(0).target_id.encode(), b"0" * 64))
    with pytest.raises(ArtifactError, match="damaged"):
        take(stream(store).batches(), 8)


def test_an_empty_folder_and_foreign_tars_are_refused(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    (tmp_path / "data").mkdir()
    with pytest.raises(ArtifactError, match="no shards below 'data/'"):
        stream(store)
    with tarfile.open(tmp_path / "data/x.tar", "w") as tar:
        tar.add(Path(__file__), "a.txt")
    with pytest.raises(ArtifactError, match=r"sample 'a' of shard 'data/x\.tar' lacks 'json'"):
        stream(store)


@pytest.mark.s3
def test_on_s3_by_byte_ranges_it_is_the_same(
    s3_url: str, store: ObjectStore, tmp_path: Path
) -> None:
    remote = open_store(s3_url)
    (tmp_path / "tars").mkdir()
    fill(remote, tmp_path / "tars")
    wanted = numbers(take(stream(store).batches(), 30))
    assert numbers(take(stream(remote).batches(), 30)) == wanted
    assert numbers(take(stream(remote, shard_bytes=0).batches(), 30)) == wanted
    assert [k for k in remote.list("data/") if "index-" in k], "the index is kept for the next"
    assert np.array_equal(stream(remote).index.offset, stream(store).index.offset)


def test_a_forgotten_stream_ends_its_threads_and_waits_for_none(store: ObjectStore) -> None:
    """The collector may find it in a thread that is only starting, where a wait locks up."""
    batches = stream(store).batches()
    next(batches)
    pool = batches._pool
    threads, waited = list(pool._threads), []
    pool.shutdown = lambda *args, **kwargs: waited.append(args)  # type: ignore[method-assign]
    del batches, pool
    gc.collect()
    for thread in threads:
        thread.join(10)
    assert not waited and not any(thread.is_alive() for thread in threads)


def test_a_closed_stream_has_read_all_that_it_will_read(store: ObjectStore) -> None:
    streamed = stream(store)
    batches = streamed.batches()
    next(batches)
    threads = list(batches._pool._threads)
    batches.close()
    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(RuntimeError):
        next(batches)
