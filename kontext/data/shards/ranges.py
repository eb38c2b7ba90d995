"""Byte ranges of shards: mapped where they are on this disk, else fetched."""

import logging
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from kontext.data.shards.write import map_file
from kontext.errors import StoreError
from kontext.store.objects import ObjectStore

_WHOLE_AFTER = 3  # ranges of a shard
_AT_A_TIME = 2  # shards that are fetched whole
_NEVER = 1 << 62  # as if a shard were larger than any disk

_log = logging.getLogger(__name__)


class ShardRanges:
    """Reads ranges of shards. Threads read side by side.

    From a store on another machine the first ranges of a shard are fetched alone, so that the first
    batch is there soon. A shard of which more is asked is fetched whole meanwhile, into a temporary
    file that goes with this object: an epoch reads all of it anyway, and a request for each sample
    takes twenty times as long (`python -m benchmarks.loader --s3`).

    Args:
        sizes: bytes of each shard, by key.
        most: bytes of whole shards that are kept on this disk.
    """

    def __init__(self, store: ObjectStore, sizes: dict[str, int], most: int) -> None:
        self._store, self._sizes, self._left = store, sizes, most
        self._maps: dict[str, memoryview] = {}
        self._asked: Counter[str] = Counter()
        self._lock = Lock()
        self._running: set[str] = set()
        self._pool = ThreadPoolExecutor(_AT_A_TIME, "whole-shards")  # starts no thread unasked

    def read(self, key: str, offset: int, length: int) -> bytes | memoryview:
        """Bytes of one shard. Raises StoreError, or what the store raises."""
        with self._lock:
            if key not in self._maps and (path := self._store.local_path(key)) is not None:
                self._maps[key] = map_file(path)
            shard = self._maps.get(key)
            if shard is None:
                self._fetch_if_wanted(key)
        if shard is not None:
            return shard[offset : offset + length]
        return self._store.get(key, offset, length)

    def _fetch_if_wanted(self, key: str) -> None:
        self._asked[key] += 1
        # none waits: what is begun when the process ends is finished first
        busy = len(self._running) >= _AT_A_TIME or key in self._running
        if busy or self._asked[key] < _WHOLE_AFTER or self._sizes[key] > self._left:
            return
        self._left -= self._sizes[key]
        self._running.add(key)
        self._pool.submit(self._fetch, key)

    def _fetch(self, key: str) -> None:
        whole = None
        try:
            with tempfile.TemporaryDirectory(prefix="kontext-shard-") as folder:
                path = Path(folder, "shard.tar")
                self._store.download(key, path)
                whole = map_file(path)  # the file is gone then, its bytes are not
        except (StoreError, OSError) as error:
            _log.warning("shard %s is read by ranges, and slowly: %s", key, error)
        with self._lock:
            self._running.discard(key)
            if whole is None:
                self._sizes[key] = _NEVER
            else:
                self._maps[key] = whole
