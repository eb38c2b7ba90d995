import socket
import stat
import subprocess
import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flows.server import serve
from flows.server.processes import Running, port_free, spawn
from flows.server.settings import (
    OTHER_PORTS,
    child_environment,
    choose_port,
    inherited,
    prefect_settings,
    write_profile,
)
from kontext.errors import KontextError
from tasks.workspace import Places, places


def _places(home: Path) -> Places:
    return Places(home=home, store=f"file://{home}/store", catalog=f"{home}/catalog.sqlite")


def test_settings_are_a_profile_and_a_source_file(tmp_path: Path) -> None:
    at = _places(tmp_path)
    settings = prefect_settings(at, "127.0.0.1", 4321)
    env_file = write_profile(at, settings)
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert "export PREFECT_API_URL=http://127.0.0.1:4321/api\n" in env_file.read_text()
    profile = (at.prefect / "profiles.toml").read_text()
    assert 'active = "kontext"' in profile
    assert 'PREFECT_FLOWS_HEARTBEAT_FREQUENCY = "30"' in profile


def test_every_setting_is_known_to_prefect(tmp_path: Path) -> None:
    """A misspelt setting would be ignored without a word."""
    from prefect.settings import Settings
    from prefect.settings.models.root import Settings as Root

    known = {name.lower() for name in _environment_names(Root)}
    assert Settings is Root
    ours = prefect_settings(_places(tmp_path), "127.0.0.1", 1)
    assert {name for name in ours if name.startswith("PREFECT_")} <= {n.upper() for n in known}


def _environment_names(model: type, prefix: str = "PREFECT_") -> set[str]:
    from pydantic import AliasChoices, AliasPath
    from pydantic_settings import BaseSettings

    names = set()
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseSettings):
            names |= _environment_names(kind, str(kind.model_config.get("env_prefix", prefix)))
            continue
        names.add(prefix + name)
        if isinstance(field.validation_alias, AliasChoices):
            choices = field.validation_alias.choices
            names |= {str(c) for c in choices if not isinstance(c, AliasPath)}
    return names


def test_postgres_is_one_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+asyncpg://u:p@host/prefect"
    monkeypatch.setenv("KONTEXT_PREFECT_DB", url)
    settings = prefect_settings(_places(tmp_path), "127.0.0.1", 4200)
    assert settings["PREFECT_API_DATABASE_CONNECTION_URL"] == url


def test_workers_inherit_credentials_and_restart_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = _places(tmp_path)
    settings = prefect_settings(at, "127.0.0.1", 4200)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "one")
    first = inherited(at, settings, tmp_path)
    assert child_environment(at, settings)["AWS_SECRET_ACCESS_KEY"] == "one"
    assert child_environment(at, settings)["KONTEXT_HOME"] == str(tmp_path)
    monkeypatch.setenv("EDITOR", "irrelevant")
    assert inherited(at, settings, tmp_path) == first
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "two")
    assert inherited(at, settings, tmp_path) != first


def test_a_restart_of_the_workers_names_what_changed_and_no_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, said = _places(tmp_path), list[str]()
    monkeypatch.setattr(serve, "_unfinished", lambda api: [])
    monkeypatch.setattr(
        serve, "_start_worker", lambda at, pool, *_: spawn(["sleep", "60"], {}, tmp_path / "log")
    )
    running = Running("127.0.0.1", 4200)

    def ensure(env: dict[str, str], cwd: Path = tmp_path) -> None:
        said.clear()
        monkeypatch.chdir(cwd)
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            serve._ensure_workers(at, running, prefect_settings(at, "127.0.0.1", 4200), said.append)

    try:
        ensure({"AWS_REGION": "here", "KONTEXT_GPU_RUNS": "1"})
        ensure({"AWS_REGION": "here", "KONTEXT_GPU_RUNS": "1", "EDITOR": "vi"})
        assert said == []
        ensure({"AWS_REGION": "mars", "AWS_SECRET_ACCESS_KEY": "s3cret"})
        names = "AWS_REGION, AWS_SECRET_ACCESS_KEY, KONTEXT_GPU_RUNS"
        assert said[0] == f"the environment changed ({names}): restarting the workers"
        monkeypatch.setattr(serve, "_unfinished", lambda api: ["a run"])
        ensure({"AWS_REGION": "mars", "AWS_SECRET_ACCESS_KEY": "s3cret"}, tmp_path.parent)
        assert said == [
            "the environment changed (working directory), but runs are in flight: "
            "the workers keep the old one"
        ]
    finally:
        for worker in running.workers.values():
            worker.stop()


def test_a_taken_port_is_an_error_when_asked_for_and_avoided_when_not() -> None:
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KontextError, match=f"port {port} is in use"):
            choose_port("127.0.0.1", port, True, said.append)
        other = choose_port("127.0.0.1", port, False, said.append)
    assert other != port
    assert str(other) in said[0]


def test_down_and_status_without_anything_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    at = _places(tmp_path)
    assert not serve.down(at)
    assert {service.state for service in serve.status(at)} == {"down"}
    assert serve.connect(at) is None


def test_a_server_of_ours_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(
        serve,
        "_server_command",
        lambda running: [serve.sys.executable, "-c", "raise RuntimeError('no database')"],
    )
    monkeypatch.setattr(serve, "_registering", lambda *_: nullcontext(False))
    with pytest.raises(KontextError, match="did not start: RuntimeError: no database"):
        serve.up(_places(tmp_path))


OTHERS = """
import http.server, sys
class Answers(http.server.BaseHTTPRequestHandler):
    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text)
    def do_GET(self):
        self.answer(200 if "health" in self.path else int(sys.argv[2]), b"true")
    def do_POST(self):
        self.answer(200, b"[]")
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""


def test_two_that_start_at_once_choose_one_port_and_both_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port was free when it was chosen: a server of another home has it meanwhile."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(serve, "_registering", lambda *_: nullcontext(False))
    for name in ("_ensure_workers", "_ensure_supervisor"):
        monkeypatch.setattr(serve, name, lambda *_: None)

    def command(running: Running, status: int = 200) -> list[str]:
        return [serve.sys.executable, "-c", OTHERS, str(running.port), str(status)]

    monkeypatch.setattr(serve, "_server_command", command)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        ports = [found.getsockname()[1] for found in (one, two)]
    wanted = list[int | None]()

    def choose(host: str, port: int | None, *_: object) -> int:
        wanted.append(port)
        return ports.pop(0)

    monkeypatch.setattr(serve, "choose_port", choose)
    other = Running(port=ports[0])
    other.server = spawn(command(other, 401), {}, tmp_path / "other.log")
    while port_free(other.host, other.port):
        time.sleep(0.05)
    try:
        said = list[str]()
        found = serve.up(_places(tmp_path / "home"), say=said.append)
        assert found.port != other.port and found.server.alive
        assert wanted[0] is None and wanted[1] in OTHER_PORTS
        lost = f"port {other.port} was taken by another program meanwhile: trying another"
        assert lost in said
        found.server.stop()
        ports.append(other.port)
        with pytest.raises(KontextError, match="did not start"):  # a port of one's own choice
            serve.up(_places(tmp_path / "fixed"), port=other.port)
    finally:
        other.server.stop()


class _Refuses(BaseHTTPRequestHandler):
    """A server of another home: it is healthy, and refuses our password."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if "health" in self.path else 401)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        pass


def _cpu(pid: int) -> int:
    """Clock ticks that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_nothing_is_registered_before_the_server_is_known_to_be_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then another home's may have our port: it was asked, and its refusal ended `up`."""
    at, pids, start = _places(tmp_path), list[int](), subprocess.Popen

    def started(*args: Any, **kwargs: Any) -> Any:
        found = start(*args, **kwargs)
        pids.append(found.pid)
        return found

    monkeypatch.setattr(subprocess, "Popen", started)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        settings = prefect_settings(at, "127.0.0.1", other.server_port)
        with (
            pytest.raises(KontextError, match=r"not registered: .*401 Unauthorized"),
            serve._registering(at, Running(), settings, lambda _: None),
        ):
            used = -1
            while not _Refuses.asked and (now := _cpu(pids[0])) != used:  # it has yet to import
                used = now
                time.sleep(1)
            assert _Refuses.asked == []
        assert _Refuses.asked
        other.shutdown()


def test_an_external_server_must_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(KontextError, match="no Prefect server answers"):
        serve.up(_places(tmp_path))


def test_places_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("KONTEXT_HOME", "KONTEXT_STORE", "KONTEXT_CATALOG"):
        monkeypatch.delenv(name, raising=False)
    at = places()
    assert at.home == tmp_path / ".kontext"
    assert at.store == f"file://{tmp_path}/.kontext/store"
    assert places("data").store == f"file://{tmp_path}/data"
    assert places("s3://bucket/x").store == "s3://bucket/x"
