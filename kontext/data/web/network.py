"""Connections whose address was looked at, and whose every byte has a deadline."""

import ssl
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore

from kontext.data.web.addresses import resolved


class Deadline(threading.local):
    """When the thread's request ends, whatever the server does. A pool's streams ask it."""

    at: float = 0.0

    @contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        """The request inside must end within so many seconds."""
        self.at = time.monotonic() + seconds
        yield

    def left(self, wanted: float | None) -> float:
        """Seconds that one step may take. Raises httpcore.ReadTimeout where there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the whole request took too long")
        return left if wanted is None else min(wanted, left)


class GuardedBackend(httpcore.NetworkBackend):
    """Connects to none but the addresses that `resolved` has looked at."""

    def __init__(self, allowed: Collection[str], deadline: Deadline) -> None:
        self._plain, self._allowed, self._deadline = httpcore.SyncBackend(), allowed, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address of the host that answers.

        Raises:
            FetchError: the host has no address, or one that is not asked.
        """
        last: Exception = httpcore.ConnectError("no address")
        for number in resolved(host, port, self._allowed):
            try:
                left = self._deadline.left(timeout)
                return _Timed(
                    self._plain.connect_tcp(number, port, left, local_address, socket_options),
                    self._deadline,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last


class _Timed(httpcore.NetworkStream):
    """A stream that asks the deadline before it waits."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout)
        return _Timed(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
