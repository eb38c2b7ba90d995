"""Where things live, and the environment of the server and the workers.

Everything comes from the environment (`KONTEXT_*`, `AWS_*`, `PREFECT_*`) with defaults inside
`KONTEXT_HOME`. Nothing here imports prefect: the command line must answer fast.
"""

import hashlib
import math
import os
import random
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.server.password import CLIENT, NAMES, SERVER, kept
from flows.server.processes import address, port_free
from kontext.errors import KontextError
from tasks.report import REPORT_URL
from tasks.workspace import Places

DEFAULT_PORT = 4200
OTHER_PORTS = range(DEFAULT_PORT + 1, DEFAULT_PORT + 100)
SERVER_SECONDS = 300.0  # the first start migrates the database; minutes on a busy machine
HEARTBEAT_SECONDS = 30  # a run silent for `zombie_seconds()` is marked Crashed
_LEAST_SILENCE = 10.0  # seconds that Prefect's proactive triggers can watch for
FORWARDED = ("KONTEXT_", "AWS_", "OMP_", "CUDA_", "PYTHONPATH", "PREFECT_API_")


def gpu_runs() -> int:
    """Trainings that may run at once (KONTEXT_GPU_RUNS, 1: each takes every GPU it finds)."""
    return int(_number("KONTEXT_GPU_RUNS", 1, 1, "a number of runs from 1 on", whole=True))


def zombie_seconds() -> float:
    """Seconds of silence after which a run counts as dead (KONTEXT_ZOMBIE_SECONDS, 120).

    Runs give a sign of life every 30 s: below 90 a busy machine's runs are taken for dead.
    """
    return _number("KONTEXT_ZOMBIE_SECONDS", 120, _LEAST_SILENCE, "10 seconds or more")


def fresh_days() -> float:
    """Days without a refresh before the warning (KONTEXT_FRESH_DAYS, 7)."""
    return _number("KONTEXT_FRESH_DAYS", 7, 1e-9, "a positive number of days")


def _number(name: str, default: float, least: float, wanted: str, whole: bool = False) -> float:
    """An environment variable as a number. Raises KontextError below `least`."""
    text = os.environ.get(name, str(default))
    try:
        number = float(text)
    except ValueError:
        number = -math.inf
    if not least <= number < math.inf or (whole and number % 1):
        raise KontextError(f"{name} is '{text}', not {wanted}")
    return number


def choose_port(host: str, wanted: int | None, fixed: bool, say: Callable[[str], None]) -> int:
    """`wanted`, by default 4200; where it is taken another one, unless it is `fixed`.

    Raises KontextError where there is none.
    """
    first = wanted or DEFAULT_PORT
    if port_free(host, first):
        return first
    if fixed:
        raise KontextError(f"port {first} is in use by another program; choose another --port")
    for port in OTHER_PORTS:
        if port_free(host, port):
            say(f"port {first} is in use by another program: using {port}")
            return port
    raise KontextError(f"no free port between {DEFAULT_PORT} and {OTHER_PORTS[-1]}")


def random_port() -> int:
    """One of the ports that are tried where the default one is taken."""
    return random.choice(OTHER_PORTS)


def prefect_settings(at: Places, host: str, port: int) -> dict[str, str]:
    """Prefect settings for server, workers, flow runs and our own calls."""
    database = os.environ.get("KONTEXT_PREFECT_DB") or (
        f"sqlite+aiosqlite:///{at.prefect / 'prefect.db'}"
    )
    password = kept(at) or ""
    return {
        "PREFECT_HOME": str(at.prefect),
        "PREFECT_PROFILES_PATH": str(at.prefect / "profiles.toml"),
        "PREFECT_API_URL": f"{address(host, port)}/api",
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(at.prefect / "results"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "30d",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "true",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_UI_API_URL": "/api",  # under whichever name a browser has opened the UI
        REPORT_URL: "/report",
        **dict.fromkeys((SERVER, CLIENT) if password else (), password),
    }


def child_environment(at: Places, settings: Mapping[str, str]) -> dict[str, str]:
    """Environment of a server or worker process: ours on top of what the user has."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT__") and k != SERVER},
        **settings,
        "KONTEXT_HOME": str(at.home),
        "KONTEXT_STORE": at.store,
        "KONTEXT_CATALOG": at.catalog,
        "PYTHONUNBUFFERED": "1",
    }


def inherited(at: Places, settings: Mapping[str, str], cwd: Path) -> dict[str, str]:
    """What a worker inherits, as name -> short digest: when it changes, workers are restarted."""
    env = {"working directory": str(cwd), **child_environment(at, settings)}
    return {
        name: hashlib.sha256(value.encode()).hexdigest()[:8]
        for name, value in env.items()
        if name.startswith((*FORWARDED, "working directory")) and name != NAMES
    }


def write_profile(at: Places, settings: Mapping[str, str]) -> Path:
    """Write the settings as a Prefect profile and as a file for `source`; return the latter.

    They hold the server's password, and perhaps the database's: mode 0600.
    """
    at.prefect.mkdir(parents=True, exist_ok=True)
    lines = [f"export {key}={shlex.quote(value)}" for key, value in settings.items()]
    skip = {"DO_NOT_TRACK", "PREFECT_PROFILES_PATH", "PREFECT_HOME", REPORT_URL}
    body = [f'{key} = "{value}"' for key, value in settings.items() if key not in skip]
    profile = 'active = "kontext"\n\n[profiles.kontext]\n' + "\n".join(body) + "\n"
    env_file = at.prefect / "env"
    for path, text in (
        (env_file, "\n".join(lines) + "\n"),
        (at.prefect / "profiles.toml", profile),
    ):
        path.touch(0o600)
        path.write_text(text)
    return env_file
