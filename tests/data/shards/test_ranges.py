"""Ranges of shards: alone at first, then from whole shards; on this disk mapped."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import pytest

from kontext.data.shards.ranges import ShardRanges
from kontext.errors import StoreError
from kontext.store.objects import ObjectStore, open_store

DATA = {f"{n}.tar": bytes([n]) * 1000 + bytes(range(256)) for n in range(4)}
SIZES = {key: len(data) for key, data in DATA.items()}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    made = open_store(f"file://{tmp_path}/store")
    for key, data in DATA.items():
        made.put(key, data)
    return made


class Far:
    """A store as if it were on another machine, counting what is asked."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self.asked = store, Counter[str]()

    def local_path(self, key: str) -> None:
        return None

    def get(self, key: str, offset: int, length: int) -> bytes:
        self.asked["range"] += 1
        return self._store.get(key, offset, length)

    def download(self, key: str, path: Path) -> None:
        self.asked["whole"] += 1
        self._store.download(key, path)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_shard_of_which_more_is_asked_is_fetched_once(store: ObjectStore) -> None:
    far = Far(store)
    ranges = ShardRanges(far, dict(SIZES), 1 << 20)  # type: ignore[arg-type]
    assert bytes(ranges.read("1.tar", 998, 4)) == DATA["1.tar"][998:1002]
    assert far.asked == {"range": 1}
    for _ in range(4):
        ranges.read("2.tar", 0, 10)
    until(lambda: isinstance(ranges.read("2.tar", 0, 10), memoryview))
    before = far.asked["range"]
    for start in range(0, 1200, 7):
        assert bytes(ranges.read("2.tar", start, 20)) == DATA["2.tar"][start : start + 20]
    assert far.asked == {"range": before, "whole": 1}


def test_no_more_bytes_are_kept_than_may_be(store: ObjectStore) -> None:
    far = Far(store)
    ranges = ShardRanges(far, dict(SIZES), SIZES["0.tar"])  # type: ignore[arg-type]
    for turn in range(50):
        for key in DATA:
            assert bytes(ranges.read(key, 5, 5)) == DATA[key][5:10]
        if turn == 25:  # it is fetched in the background
            until(lambda: far.asked["whole"] > 0)
    assert far.asked["whole"] == 1


def test_where_whole_shards_cannot_be_had_ranges_go_on(
    store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    far = Far(store)

    def broken(key: str, path: Path) -> None:
        far.asked["whole"] += 1
        raise StoreError("no room")

    far.download = broken  # type: ignore[method-assign]
    ranges = ShardRanges(far, dict(SIZES), 1 << 20)  # type: ignore[arg-type]
    for _ in range(5):
        ranges.read("3.tar", 0, 10)
    until(lambda: "by ranges" in caplog.text)
    for _ in range(20):
        assert bytes(ranges.read("3.tar", 0, 10)) == DATA["3.tar"][:10]
    assert far.asked["whole"] == 1


def test_requests_do_not_wait_for_each_other(store: ObjectStore) -> None:
    far, both = Far(store), Barrier(2)

    def met(key: str, offset: int, length: int) -> bytes:
        both.wait(30)  # passes where two requests are under way at once
        return b""

    far.get = met  # type: ignore[method-assign]
    ranges = ShardRanges(far, dict(SIZES), 0)  # type: ignore[arg-type]
    threads = [Thread(target=ranges.read, args=("0.tar", 0, 1)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken


def test_shards_on_this_disk_are_mapped(store: ObjectStore) -> None:
    ranges = ShardRanges(store, dict(SIZES), 0)
    assert isinstance(ranges.read("0.tar", 0, 10), memoryview)
