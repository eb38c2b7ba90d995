import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kontext.errors import ObjectExists, ObjectNotFound, StoreError
from kontext.store.objects import ObjectStore, open_store


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "file":
        return open_store(f"file://{tmp_path}/objects")
    return open_store(request.getfixturevalue("s3_url"))


def test_put_get_ranges_size_delete(store: ObjectStore) -> None:
    etag = store.put("a/b.bin", b"0123456789")
    assert store.get("a/b.bin") == b"0123456789"
    assert store.get("a/b.bin", 3, 4) == b"3456"
    assert store.get("a/b.bin", 7) == b"789"
    assert store.get("a/b.bin", 20, 4) == b""
    assert store.get("a/b.bin", 0, 0) == b""
    assert store.size("a/b.bin") == 10
    info = store.info("a/b.bin")
    assert info is not None and info.etag == etag
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert not store.exists("a/b.bin")
    for call in (store.get, store.size, lambda key: store.get(key, 0, 0)):
        with pytest.raises(ObjectNotFound):
            call("a/b.bin")


def test_list_is_sorted_and_by_string_prefix(store: ObjectStore) -> None:
    for key in ("x/b", "x/a", "xy", "z/deep/er/c"):
        store.put(key, key.encode())
    assert store.list("x") == ["x/a", "x/b", "xy"]
    assert store.list("x/") == ["x/a", "x/b"]
    assert store.list("z/de") == ["z/deep/er/c"]
    assert store.list() == ["x/a", "x/b", "xy", "z/deep/er/c"]
    assert store.list("nothing/") == []


def test_if_absent_keeps_the_first(store: ObjectStore, tmp_path: Path) -> None:
    assert store.supports_conditional_puts
    store.put("key", b"first", if_absent=True)
    with pytest.raises(ObjectExists):
        store.put("key", b"second", if_absent=True)
    with pytest.raises(ObjectExists):  # equal bytes are no excuse
        store.put("key", b"first", if_absent=True)
    file = tmp_path / "file"
    file.write_bytes(b"third")
    with pytest.raises(ObjectExists):
        store.put_file("key", file, if_absent=True)
    assert store.get("key") == b"first"
    store.put("key", b"fourth")
    assert store.get("key") == b"fourth"


def test_a_race_of_eight_writers_has_one_winner(store: ObjectStore) -> None:
    def write(number: int) -> int | None:
        try:
            store.put("contested", str(number).encode(), if_absent=True)
        except ObjectExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [n for n in pool.map(write, range(8)) if n is not None]
    assert len(winners) == 1
    assert store.get("contested") == str(winners[0]).encode()


def test_replace_if_is_compare_and_swap(store: ObjectStore) -> None:
    first = store.replace_if("tag", b"1", None)
    with pytest.raises(ObjectExists):
        store.replace_if("tag", b"x", None)
    second = store.replace_if("tag", b"2", first)
    with pytest.raises(ObjectExists):
        store.replace_if("tag", b"x", first)
    assert store.get_with_etag("tag") == (b"2", second)
    with ThreadPoolExecutor(8) as pool:
        swaps = list(pool.map(lambda n: _swap(store, second, n), range(8)))
    assert swaps.count(True) == 1


def _swap(store: ObjectStore, etag: str, number: int) -> bool:
    try:
        store.replace_if("tag", f"new {number}".encode(), etag)
    except ObjectExists:
        return False
    return True


def test_large_files_go_in_parts_and_come_back(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(9 << 20)
    source, target = tmp_path / "source", tmp_path / "there" / "target"
    source.write_bytes(data)
    store.put_file("big/one", source)
    store.put_file("big/two", source, if_absent=True)
    with pytest.raises(ObjectExists):
        store.put_file("big/two", source, if_absent=True)
    for key in ("big/one", "big/two"):
        store.download(key, target)
        assert target.read_bytes() == data
    assert store.get("big/one", 8_388_600, 20) == data[8_388_600:8_388_620]
    assert not list(target.parent.glob("*.partial"))
    with pytest.raises(ObjectNotFound):
        store.download("big/none", target)


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/./b", "a\0b"])
def test_unclean_keys_are_refused(objects: ObjectStore, key: str) -> None:
    with pytest.raises(StoreError, match="not a valid object key"):
        objects.put(key, b"")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), start=st.integers(0, 320), length=st.integers(0, 320))
def test_any_range_equals_the_slice(
    objects: ObjectStore, data: bytes, start: int, length: int
) -> None:
    objects.put("data", data)
    assert objects.get("data") == data
    assert objects.get("data", start, length) == data[start : start + length]


def test_local_writes_leave_nothing_behind_and_are_read_only(
    objects: ObjectStore, tmp_path: Path
) -> None:
    objects.put("a", b"1", if_absent=True)
    with pytest.raises(ObjectExists):
        objects.put("a", b"2", if_absent=True)
    path = objects.local_path("a")
    assert path is not None and path.stat().st_mode & 0o222 == 0
    assert not [p for p in (tmp_path / "store" / ".kontext-tmp").iterdir() if p.suffix != ".lock"]
    assert open_store(objects.url).get("a") == b"1"


def test_local_trouble_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        open_store(f"file://{tmp_path}/file")
    with pytest.raises(StoreError, match="unknown scheme 'gs'"):
        open_store("gs://bucket")
    with pytest.raises(StoreError, match="needs a bucket"):
        open_store("s3://")
    store = open_store(str(tmp_path / "good"))
    with pytest.raises(StoreError):
        store.put_file("key", tmp_path / "absent")


@pytest.mark.s3
def test_wrong_credentials_are_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match="refuses the credentials"):
        open_store(s3_url)


@pytest.mark.s3
def test_a_missing_bucket_is_created(s3_server: str) -> None:
    store = open_store("s3://kontext-another/prefix")
    store.put("key", b"value")
    assert open_store("s3://kontext-another").list() == ["prefix/key"]


def test_an_unreachable_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=endpoint):
        open_store("s3://bucket")
