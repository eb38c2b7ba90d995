"""The bytes of a chunk's items: from files as they are asked for, from the web some ahead."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from enum import Enum
from itertools import groupby
from pathlib import Path

from kontext.data.layouts.bucket_object import BucketObject
from kontext.data.layouts.web_picture import WebPicture
from kontext.data.sources.base import SourceItem
from kontext.data.video.frames import frames_at
from kontext.data.video.part import UnreadFrameError, VideoFrame
from kontext.data.web.ahead import in_order
from kontext.data.web.cache import WebCache
from kontext.errors import DecodeError, GateError, SourceError
from schemas.sections.web import WebConfig


class Verdict(Enum):
    """What became of a picture."""

    KEPT = "kept"
    REFUSED = "refused"  # no picture that we take
    STOPPED = "stopped"  # by the hash gate


class Payloads:
    """Items with their bytes, or with the error that there is, in order.

    What was fetched is kept in the home once the hash gate has passed it (`judged`), and asked for
    once. What the gate stops is nowhere, and no longer there if an older list let it in. Where the
    gate itself fails (GateError leaves the `with`), nothing is kept that was fetched in it.
    """

    def __init__(
        self, items: Sequence[SourceItem], config: WebConfig, home: Path, key: bytes
    ) -> None:
        self._items, self._config, self._home = items, config, home
        self._cache, self._open = WebCache(home, key), ExitStack()
        self._cached: set[str] = set()
        self._kept: list[tuple[str, str]] = []  # addresses and digests of what was put there now
        self.moments: dict[str, dict[str, str | int | float]] = {}  # of items by ref, once read

    def __enter__(self) -> "Payloads":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._open.close()
        if isinstance(error, GateError):
            for url, digest in self._kept:
                self._cache.drop(url, digest)

    def __iter__(self) -> Iterator[tuple[SourceItem, bytes | SourceError]]:
        urls = [item.part.url for item in self._items if isinstance(item.part, WebPicture)]
        fetched = in_order(urls, self._getter(), self._config.parallel) if urls else iter(())
        for part, items in groupby(self._items, _Together()):
            if isinstance(part, Path):
                yield from self._frames(part, list(items))
                continue
            if part is BucketObject:
                some = list(items)
                yield from zip(some, in_order(some, _get, self._config.parallel), strict=True)
                continue
            for item in items:
                far = isinstance(item.part, WebPicture)
                yield item, next(fetched) if far else _read(item)

    def _frames(
        self, path: Path, items: list[SourceItem]
    ) -> Iterator[tuple[SourceItem, bytes | SourceError]]:
        """Frames of one video that follow each other in the plan: it is decoded once for all."""
        parts = [item.part for item in items if isinstance(item.part, VideoFrame)]
        found = frames_at(path, [part.at for part in parts], parts[0].cut, parts[0].since)
        for item in items:
            if not isinstance(item.part, VideoFrame):
                yield item, _read(item)
                continue
            frame = next(found)
            if isinstance(frame, DecodeError):
                yield item, UnreadFrameError(frame.reason, str(frame))
                continue
            try:
                item.check_unchanged()
            except SourceError as error:
                yield item, error
                continue
            series = f"{item.source}/{path.name}"
            self.moments[item.ref] = {
                "kind": "frame",
                "series": series,
                "shot": frame.shot,
                "at_s": frame.at,
            }
            yield item, frame.ppm

    def judged(self, item: SourceItem, data: bytes, verdict: Verdict) -> None:
        """Keep or forget what was fetched for an item."""
        if not isinstance(item.part, WebPicture):
            return
        url = item.part.url
        if verdict is Verdict.KEPT and url not in self._cached:
            self._cache.put(url, data)
            self._kept.append((url, hashlib.sha256(data).hexdigest()))
        elif verdict is Verdict.STOPPED:
            self._cache.drop(url, hashlib.sha256(data).hexdigest())

    def _getter(self) -> Callable[[str], bytes]:
        from kontext.data.web.fetch import Fetcher

        fetcher = self._open.enter_context(Fetcher(self._config, self._home))

        def get(url: str) -> bytes:
            known = self._cache.get(url)
            if known is None:
                return fetcher.get(url)
            self._cached.add(url)
            return known

        return get


class _Together:
    """What an item is read with: a video's file, a kind of part, or nothing.

    One whose bytes are here, a canary, goes with those before it: it does not end their run.
    """

    def __init__(self) -> None:
        self._last: object = None

    def __call__(self, item: SourceItem) -> object:
        if item.payload is None:
            video = isinstance(item.part, VideoFrame)
            self._last = item.part.path if video else type(item.part)  # type: ignore[union-attr]
        return self._last


def _get(item: SourceItem) -> bytes:
    return item.read()


def _read(item: SourceItem) -> bytes | SourceError:
    try:
        return item.read()
    except SourceError as error:
        return error
