import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.server.processes import (
    Process,
    Running,
    last_error,
    port_free,
    port_lost,
    spawn,
    start_time,
)

_SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
_FAMILY = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)",
]


def _wait_for(log: Path) -> str:
    for _ in range(400):
        if log.exists() and log.read_text().strip():
            return log.read_text().strip()
        time.sleep(0.05)
    raise AssertionError("the process printed nothing")


def test_spawned_process_is_detached_and_stops_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "out.log"
    process = spawn(_FAMILY, dict(os.environ), log)
    child = int(_wait_for(log))
    assert process.alive
    assert os.getsid(process.pid) == process.pid
    process.stop()
    assert not process.alive
    for _ in range(100):
        if start_time(child) == "":
            break
        time.sleep(0.05)
    assert start_time(child) == ""


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "out.log"
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('up', flush=True); time.sleep(60)"
    )
    process = spawn([sys.executable, "-c", code], dict(os.environ), log)
    _wait_for(log)
    process.stop(seconds=0.3)
    assert not process.alive


def test_a_reused_pid_is_not_ours() -> None:
    child = subprocess.Popen(_SLEEP, stdout=subprocess.DEVNULL)
    try:
        assert Process(child.pid, start_time(child.pid)).alive
        impostor = Process(child.pid, "1")
        assert not impostor.alive
        impostor.stop()  # must not touch it
        assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not Process(child.pid, "").alive


def test_state_survives_and_damage_means_empty(tmp_path: Path) -> None:
    path = tmp_path / "prefect" / "up.json"
    workers = {"cpu": Process(3, "4")}
    state = Running(
        "127.0.0.1", 4321, "box", Process(1, "2"), workers, {"A": "b"}, Process(5, "6"), "f"
    )
    state.save(path)
    assert Running.load(path) == state
    path.write_text('{"port": ')
    assert Running.load(path) == Running()
    assert Running.load(tmp_path / "none.json") == Running()


def test_a_server_says_that_its_port_was_taken(tmp_path: Path) -> None:
    """Who has the port may have ended by the time that we look."""
    log = tmp_path / "server.log"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        log.touch()
        assert port_lost("127.0.0.1", port, log)
        where = ["--host", "127.0.0.1", "--port", str(port)]
        command = [sys.executable, "-m", "uvicorn", "json:dumps", "--lifespan", "off", *where]
        server = spawn(command, dict(os.environ), log)
        while server.alive:
            time.sleep(0.05)
    assert port_free("127.0.0.1", port) and port_lost("127.0.0.1", port, log)
    log.write_text(log.read_text().replace(str(port), str(port + 1)))
    assert not port_lost("127.0.0.1", port, log)


def test_port_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_free("127.0.0.1", port)
    assert port_free("127.0.0.1", port)


def test_the_last_error_of_a_log_is_its_last_exception_else_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("INFO start\nValueError: first\nsqlite3.OperationalError: second\n  at exit\n\n")
    assert last_error(log) == f"sqlite3.OperationalError: second (see {log})"
    log.write_text("INFO start\nbye\n\n")
    assert last_error(log) == f"bye (see {log})"
    log.write_text("")
    assert last_error(log) == f"no output (see {log})"


@pytest.mark.parametrize(("family", "host"), [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")])
def test_it_is_known_which_process_listens_on_a_port(
    tmp_path: Path, family: str, host: str
) -> None:
    """Another one that answers there is not ours, whatever it says."""
    script = (
        f"import socket, time\nserver = socket.socket(socket.{family})\n"
        f"server.bind(('{host}', 0))\nserver.listen()\n"
        "print(server.getsockname()[1], flush=True)\ntime.sleep(60)"
    )
    listener = spawn([sys.executable, "-c", script], dict(os.environ), tmp_path / "one.log")
    other = spawn(_SLEEP, dict(os.environ), tmp_path / "two.log")
    try:
        port = int(_wait_for(tmp_path / "one.log"))
        assert listener.listens(port) and not listener.listens(port + 1)
        assert not other.listens(port)
    finally:
        listener.stop()
        other.stop()
    assert not listener.listens(port)
