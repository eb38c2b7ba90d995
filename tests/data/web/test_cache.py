"""What was fetched is asked for once, and what the hash gate stops is nowhere."""

import hashlib
from pathlib import Path

import pytest

from kontext.data.web.ahead import in_order
from kontext.data.web.cache import WebCache
from kontext.data.web.problems import FetchError

KEY = b"k" * 32


def test_bytes_come_back_until_they_are_dropped_or_damaged(tmp_path: Path) -> None:
    cache = WebCache(tmp_path, KEY)
    cache.put("http://a/1", b"one")
    cache.put("http://a/2", b"one")
    assert cache.get("http://a/1") == cache.get("http://a/2") == b"one"
    assert (
        cache.get("http://a/3") is None and WebCache(tmp_path, b"x" * 32).get("http://a/1") is None
    )
    cache.drop("http://a/1", hashlib.sha256(b"one").hexdigest())
    assert cache.get("http://a/1") is None and cache.get("http://a/2") is None
    cache.put("http://a/2", b"two")
    (damaged,) = (
        path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"two"
    )
    damaged.write_bytes(b"tow")
    assert cache.get("http://a/2") is None
    cache.put("http://a/2", b"two")
    assert cache.get("http://a/2") == b"two"


def test_no_address_can_be_read_from_it(tmp_path: Path) -> None:
    WebCache(tmp_path, KEY).put("http://secret.example/name", b"x")
    names = " ".join(str(path) for path in tmp_path.rglob("*"))
    assert "secret" not in names
    assert all(b"secret" not in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_answers_are_in_order_and_few_are_held(tmp_path: Path) -> None:
    started: list[str] = []

    def get(url: str) -> bytes:
        started.append(url)
        if url == "3":
            raise FetchError("http_404", "no")
        return url.encode()

    found = in_order([str(n) for n in range(20)], get, parallel=4)
    assert next(found) == b"0" and len(started) <= 4
    rest = list(found)
    assert isinstance(rest[2], FetchError) and rest[2].reason == "http_404"
    assert [one for one in rest if isinstance(one, bytes)] == [
        str(n).encode() for n in range(1, 20) if n != 3
    ]


def test_other_errors_are_ours(tmp_path: Path) -> None:
    def get(url: str) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(in_order(["a", "b"], get, 2))
