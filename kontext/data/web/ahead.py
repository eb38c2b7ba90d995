"""Many addresses at a time, in their order, a bounded number of pictures ahead."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from kontext.data.web.problems import FetchError

Found = bytes | FetchError


def in_order(
    addresses: Sequence[str], get: Callable[[str], bytes], parallel: int
) -> Iterator[Found]:
    """What `get` gives for every address, or its error; at most `parallel` are held in memory."""
    waiting: deque[Future[Found]] = deque()
    left = iter(addresses)
    with ThreadPoolExecutor(parallel, "fetch") as pool:
        try:
            for address in left:
                waiting.append(pool.submit(_one, get, address))
                if len(waiting) >= parallel:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _one(get: Callable[[str], bytes], address: str) -> Found:
    try:
        return get(address)
    except FetchError as error:
        return error
