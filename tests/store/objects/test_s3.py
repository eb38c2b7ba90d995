"""S3 in trouble: refusals in one clear line, faults survived, servers that do not keep promises."""

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from kontext.errors import ObjectExists, StoreError
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.objects import folder_url, open_store, s3, s3_errors
from tests.faults.proxy import FaultProxy
from tests.store.artifacts.test_transfer import make


class Canned:
    """A server that gives the same answer to everything."""

    def __init__(self, status: int, headers: dict[str, str], code: str = "") -> None:
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_DELETE = do_HEAD

            def log_message(self, format: str, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def refusal(monkeypatch: pytest.MonkeyPatch, server: Canned) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError) as refused:
        open_store("s3://bucket/prefix")
    server.server.shutdown()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_wrong_region_says_which_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, Canned(400, {"x-amz-bucket-region": "eu-west-1"}))
    assert "is not in region 'us-east-1': set AWS_REGION=eu-west-1" in said


def test_a_wrong_clock_is_told_from_wrong_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    then = datetime.now(UTC) - timedelta(minutes=42)
    late = {"Date": then.strftime("%a, %d %b %Y %H:%M:%S GMT")}
    assert "clocks differ by 42 minutes" in refusal(monkeypatch, Canned(403, late))
    today = {"Date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")}
    assert "refuses the credentials" in refusal(monkeypatch, Canned(403, today))


def test_a_missing_bucket_and_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, Canned(404, {}, "AccessDenied"))
    assert "bucket 'bucket' does not exist and may not be created" in said
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store("s3://bucket")


@pytest.mark.s3
def test_a_real_server_refuses_a_clock_an_hour_ahead(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr(
        "botocore.auth.get_current_datetime",
        lambda remove_tzinfo=True: ahead.replace(tzinfo=None) if remove_tzinfo else ahead,
    )
    monkeypatch.setattr(s3_errors, "now", lambda: ahead)
    with pytest.raises(StoreError, match="clocks differ by 60 minutes"):
        open_store(s3_url)


@pytest.mark.s3
def test_a_bucket_that_vanishes_is_named(s3_server: str) -> None:
    store = open_store("s3://kontext-vanishing")
    boto3.client("s3", endpoint_url=s3_server).delete_bucket(Bucket="kontext-vanishing")
    with pytest.raises(StoreError, match="bucket 'kontext-vanishing' does not exist at http"):
        store.list()
    with pytest.raises(StoreError, match="unknown option 'writers=many'"):
        open_store("s3://bucket/prefix?writers=many")


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    found = FaultProxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
    yield found
    found.close()


@pytest.mark.s3
@pytest.mark.parametrize("mode", ["error", "reset", "cut", "slow"])
def test_what_was_acknowledged_is_there_after_faults(
    mode: str, proxy: FaultProxy, s3_url: str, tmp_path: Path
) -> None:
    store = open_store(s3_url)
    proxy.mode, proxy.share, proxy.seconds = mode, 0.25, 0.05
    data = {f"key/{n}": random.Random(n).randbytes(50 + 3000 * n) for n in range(12)}
    big = random.Random(99).randbytes((17 << 20) + 5)
    (tmp_path / "big").write_bytes(big)

    def write(key: str) -> None:
        store.put(key, data[key], if_absent=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, data))
    store.put_file("big", tmp_path / "big", if_absent=True)
    for key, value in data.items():
        assert store.get(key) == value and store.get(key, 20, 25) == value[20:45]
    assert b"".join(store.stream("big", part=1 << 20)) == big
    store.download("big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big
    proxy.mode = "ok"
    assert proxy.hits > 0 and store.list() == sorted([*data, "big"])


@pytest.mark.s3
def test_a_stream_goes_on_where_it_broke_and_refuses_another_object(
    proxy: FaultProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_url)
    data = random.Random(5).randbytes(4 << 20)
    store.put("key", data)
    proxy.mode, proxy.share = "cut", 1.0
    parts = store.stream("key", part=1 << 16)
    first = next(parts)
    proxy.mode = "ok"
    assert first + b"".join(parts) == data and proxy.hits == 1
    proxy.mode = "cut"
    parts = store.stream("key", part=1 << 16)
    next(parts)
    proxy.mode = "ok"
    store.put("key", data[::-1])
    with pytest.raises(StoreError, match="changed while it was read"):
        b"".join(parts)


@pytest.mark.s3
def test_an_upload_that_was_cut_off_leaves_nothing_and_is_cleared(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_url)
    assert isinstance(store, s3.S3Store)
    target = {"Bucket": store.bucket, "Key": store.prefix + "half"}
    upload = store._client.create_multipart_upload(**target)["UploadId"]
    store._client.upload_part(**target, UploadId=upload, PartNumber=1, Body=b"half")
    assert not store.exists("half") and store.list() == []
    now = datetime.now(UTC)
    assert store.clear_unfinished(now - timedelta(days=1), dry_run=False) == 0
    later = now + timedelta(days=1)
    assert store.clear_unfinished(later, dry_run=True) == 1
    assert store.clear_unfinished(later, dry_run=False) == 1
    assert store.clear_unfinished(later, dry_run=True) == 0


@pytest.fixture
def careless(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server as it would be if it did not know If-None-Match and If-Match on puts."""
    connect = s3.S3Store._connect

    def forget(request: Any, **_: object) -> None:
        for name in ("If-None-Match", "If-Match"):
            del request.headers[name]

    def without(self: s3.S3Store) -> Any:
        client = connect(self)
        client.meta.events.register("before-sign.s3.PutObject", forget)
        client.meta.events.register("before-sign.s3.CompleteMultipartUpload", forget)
        return client

    monkeypatch.setattr(s3.S3Store, "_connect", without)
    monkeypatch.setattr(s3, "_CONDITIONAL", {})
    yield s3_url


@pytest.mark.s3
def test_a_server_without_conditional_puts_is_refused_when_it_is_opened(careless: str) -> None:
    with pytest.raises(StoreError, match=r"ignores If-None-Match.*add \?writers=one-host"):
        open_store(careless)


@pytest.mark.s3
def test_one_host_may_use_it_and_still_writes_once(
    careless: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(f"{careless}?writers=one-host")
    assert "safe for writers on this machine only" in caplog.text
    assert open_store(store.url).url == store.url == f"{careless}?writers=one-host"
    assert folder_url(store.url, "catalog") == f"{careless}/catalog/"
    first = store.put("key", b"first", if_absent=True)
    with pytest.raises(ObjectExists):
        store.put("key", b"second", if_absent=True)
    (tmp_path / "big").write_bytes(os.urandom(9 << 20))
    with pytest.raises(ObjectExists):
        store.put_file("key", tmp_path / "big", if_absent=True)
    assert store.replace_if("key", b"third", first)
    with pytest.raises(ObjectExists):
        store.replace_if("key", b"fourth", first)

    def write(number: int) -> int | None:
        try:
            open_store(store.url).put("contested", str(number).encode(), if_absent=True)
        except ObjectExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [n for n in pool.map(write, range(8)) if n is not None]
    assert len(winners) == 1 and store.get("contested") == str(winners[0]).encode()


@pytest.mark.s3
def test_the_aws_command_lists_and_downloads_what_was_written(
    s3_url: str, s3_server: str, tmp_path: Path
) -> None:
    aws = os.environ.get("KONTEXT_AWS") or shutil.which("aws")
    if aws is None:
        pytest.skip("no aws command (pip install awscli in an environment of its own)")
    store = ArtifactStore(open_store(s3_url), tmp_path / "cache")
    manifest = make(store, "shard", "s1")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env["PATH"] = env["PATH"].replace(f"{Path(sys.executable).parent}:", "")
    command = [aws, "--endpoint-url", s3_server, "s3"]
    listed = subprocess.run(
        [*command, "ls", "--recursive", f"{s3_url}/"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "/runs/shard/s1/manifest.json" in listed
    assert all(file.sha256 in listed for file in manifest.files)
    copy = [*command, "cp", "--recursive", f"{s3_url}/", str(tmp_path / "copy")]
    subprocess.run(copy, env=env, capture_output=True, check=True)
    there = ArtifactStore(open_store(f"file://{tmp_path}/copy"), tmp_path / "c")
    assert there.verify().problems == () and there.verify().files == 2
