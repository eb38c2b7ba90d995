"""The bytes of a chunk's items: from files as they are asked for, from the web some ahead."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from enum import Enum
from pathlib import Path

from kontext.data.layouts.web_picture import WebPicture
from kontext.data.sources.base import SourceItem
from kontext.data.web.ahead import in_order
from kontext.data.web.cache import WebCache
from kontext.errors import SourceError
from schemas.sections.web import WebConfig


class Verdict(Enum):
    """What became of a picture."""

    KEPT = "kept"
    REFUSED = "refused"  # no picture that we take
    STOPPED = "stopped"  # by the hash gate


class Payloads:
    """Items with their bytes, or with the error that there is, in order.

    What was fetched is kept in the home once the hash gate has passed it (`judged`), and asked for
    once. What the gate stops is nowhere, and no longer there if an older list let it in.
    """

    def __init__(
        self, items: Sequence[SourceItem], config: WebConfig, home: Path, key: bytes
    ) -> None:
        self._items, self._config, self._home = items, config, home
        self._cache, self._open = WebCache(home, key), ExitStack()
        self._cached: set[str] = set()

    def __enter__(self) -> "Payloads":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __iter__(self) -> Iterator[tuple[SourceItem, bytes | SourceError]]:
        urls = [item.part.url for item in self._items if isinstance(item.part, WebPicture)]
        fetched = in_order(urls, self._getter(), self._config.parallel) if urls else iter(())
        for item in self._items:
            if isinstance(item.part, WebPicture):
                yield item, next(fetched)
            else:
                yield item, _read(item)

    def judged(self, item: SourceItem, data: bytes, verdict: Verdict) -> None:
        """Keep or forget what was fetched for an item."""
        if not isinstance(item.part, WebPicture):
            return
        url = item.part.url
        if verdict is Verdict.KEPT and url not in self._cached:
            self._cache.put(url, data)
        elif verdict is Verdict.STOPPED:
            self._cache.drop(url, data)

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


def _read(item: SourceItem) -> bytes | SourceError:
    try:
        return item.read()
    except SourceError as error:
        return error
