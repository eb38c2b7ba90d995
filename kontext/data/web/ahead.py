"""Many pictures at a time from far away, in their order, a bounded number ahead."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from kontext.errors import SourceError

T = TypeVar("T")
Found = bytes | SourceError


def in_order(wanted: Sequence[T], get: Callable[[T], bytes], parallel: int) -> Iterator[Found]:
    """What `get` gives for every one, or its error; at most `parallel` are held in memory."""
    waiting: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(parallel, "fetch") as pool:
        try:
            for one in wanted:
                waiting.append(pool.submit(_one, get, one))
                if len(waiting) >= parallel:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _one(get: Callable[[T], bytes], wanted: T) -> Found:
    try:
        return get(wanted)
    except SourceError as error:
        return error
