"""Detached processes remembered by pid and start time, so that a reused pid is never mistaken."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True)
class Process:
    """A process that we started."""

    pid: int
    started: str  # the kernel's start time: a pid alone may have been reused

    @property
    def alive(self) -> bool:
        """Whether it still runs; another process under its pid does not count."""
        return start_time(self.pid) == self.started != ""

    def listens(self, port: int) -> bool:
        """Whether it is this process that takes connections on a TCP port.

        True where the kernel does not say (no /proc): then an answer is all there is to go by.
        """
        if not Path("/proc/self/net/tcp").exists():
            return True
        tables = [Path(f"/proc/self/net/{name}") for name in ("tcp", "tcp6")]
        rows = (row.split() for path in tables if path.exists() for row in _rows(path))
        sockets = {
            f"socket:[{row[9]}]"
            for row in rows
            if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port
        }
        return not sockets.isdisjoint(_open_files(self.pid))

    def stop(self, seconds: float = 10.0) -> None:
        """SIGTERM to its session's process group, SIGKILL to what is left after `seconds`."""
        if not self.alive:
            return
        _signal_group(self.pid, signal.SIGTERM)
        limit = time.monotonic() + seconds
        while self.alive and time.monotonic() < limit:
            _reap(self.pid)
            time.sleep(0.05)
        if self.alive:
            _signal_group(self.pid, signal.SIGKILL)
            time.sleep(0.1)
        _reap(self.pid)


LOOPBACK = "127.0.0.1"
NOBODY = Process(0, "")  # is never alive


_LISTEN = "0A"  # state of a socket in /proc/net/tcp


def _rows(table: Path) -> list[str]:
    return table.read_text().splitlines()[1:]


def _open_files(pid: int) -> set[str]:
    """What a process has open, as the kernel names it; nothing for one that is gone."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since
                found.add(str(file.readlink()))
    return found


def start_time(pid: int) -> str:
    """Start time of a running process; empty where there is none (zombies count as none)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if fields[0] == "Z" else fields[19]
    found = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return "" if found.startswith("Z") else found.partition(" ")[2].strip()


def spawn(
    command: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    cwd: Path | None = None,
    umask: int = -1,
) -> Process:
    """Start a process in its own session, its output appended to `log`, which only we read."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch(0o600)
    with log.open("ab") as out:
        child = subprocess.Popen(
            list(command),
            env=dict(env),
            cwd=cwd,
            umask=umask,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Process(child.pid, start_time(child.pid))


def last_error(log: Path) -> str:
    """The line of a log that says what went wrong: its last exception, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    said = next((line for line in reversed(lines) if line), "no output")
    return f"{errors[-1] if errors else said} (see {log})"


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # started by another process: init reaps it
        os.waitpid(pid, os.WNOHANG)


def address(host: str, port: int) -> str:
    """URL at which this machine reaches a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def port_free(host: str, port: int) -> bool:
    """Whether we could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


@dataclass
class Running:
    """What `kontext up` started, kept in KONTEXT_HOME/prefect/up.json."""

    host: str = LOOPBACK
    port: int = 0
    names: str = ""  # further ones of the server (KONTEXT_SERVER_NAMES)
    server: Process = NOBODY
    workers: dict[str, Process] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)  # that the workers inherited
    supervisor: Process = NOBODY
    deployed: str = ""  # fingerprint of what was registered

    @property
    def url(self) -> str:
        """Address of the server, without `/api`."""
        return address(self.host, self.port)

    def save(self, path: Path) -> None:
        """Write the file at once or not at all: another process may be reading it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.touch(0o600)
        partial.write_text(json.dumps(asdict(self), indent=1))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Running:
        """The saved state; an empty one where there is none or it is unreadable."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return cls()


def port_lost(host: str, port: int, log: Path) -> bool:
    """Whether another program has the port, or had it when the server of this log started."""
    said = rf"attempting to bind on address \('[^']*', {port}\b[^)]*\): .*in use"  # Uvicorn's
    return not port_free(host, port) or bool(re.search(said, log.read_text(errors="replace")))
