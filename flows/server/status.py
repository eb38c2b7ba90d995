"""What `kontext status` shows: every stage done, stale, missing or running, and why."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flows.names import ACTIVE, artifact_tag
from flows.server.api import Api
from flows.server.pause import deployments
from kontext.engine.run import Engine
from kontext.engine.stage import StageStatus
from tasks.markdown import one_line


def stage_states(engine: Engine, api: Api | None) -> list[StageStatus]:
    """Stages in graph order. What is not done may be running: by a run, or by a process here."""
    return [_with_running(found, engine.home, api) for found in engine.status()]


def _with_running(found: StageStatus, home: Path, api: Api | None) -> StageStatus:
    if found.state == "done":
        return found
    # a run of the server that makes this artifact
    wanted = {"tags": {"all_": [artifact_tag(found.stage, found.digest)]}, "state": ACTIVE}
    if runs := api.runs(wanted, limit=1) if api else []:
        run = runs[0]
        what = "running" if run["state_type"] == "RUNNING" else "waiting to run"
        what += f", attempt {run['run_count']}" if run["run_count"] > 1 else ""
        return replace(found, state="running", why=f"{what}: '{run['name']}' ({found.why})")
    if api is not None and (ended := _last_end(api, found)):
        found = replace(found, why=f"{found.why}; {ended}")
    if _is_locked(home / "locks" / f"{found.stage}-{found.digest}.lock"):
        return replace(found, state="running", why=f"a process of this home ({found.why})")
    return found


def _last_end(api: Api, found: StageStatus) -> str:
    """How the newest run that should have made this artifact ended, where it did not make it."""
    wanted = {
        "tags": {"all_": [artifact_tag(found.stage, found.digest)]},
        "state": {"type": {"any_": ["FAILED", "CRASHED", "CANCELLED"]}},
    }
    if not (runs := api.runs(wanted)):
        return ""
    run = runs[-1]
    message = one_line(run["state"].get("message") or "no cause given")
    return f"the run '{run['name']}' {run['state_name'].lower()}: {message}"


def _is_locked(path: Path) -> bool:
    """Whether somebody holds the stage's lock. A file alone says nothing: kill -9 leaves it."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def schedules(api: Api) -> list[dict[str, Any]]:
    """Every schedule of a deployment: name, whether active or paused, and when it is next due."""
    found = []
    for deployment in deployments(api):
        name = deployment["name"]
        for schedule in deployment["schedules"]:
            active = schedule["active"] and not deployment["paused"]
            found.append(
                {
                    "name": name,
                    "state": "active" if active else "paused",
                    "schedule": _schedule_text(schedule["schedule"]),
                    "next": _next(api, deployment["id"], schedule["id"]) if active else "",
                }
            )
    return found


def _next(api: Api, deployment: str, schedule: str) -> str:
    """When the schedule's next run is due (UTC); empty until the server has planned it."""
    wanted = {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    runs = [run for run in api.runs(wanted) if (run["created_by"] or {}).get("id") == schedule]
    return str(runs[0]["expected_start_time"])[:16].replace("T", " ") if runs else ""


def _schedule_text(schedule: dict[str, Any]) -> str:
    if "cron" in schedule:
        return f"cron {schedule['cron']}"
    if "interval" in schedule:
        return f"every {schedule['interval']:g} s"
    return str(schedule.get("rrule", "unknown"))
