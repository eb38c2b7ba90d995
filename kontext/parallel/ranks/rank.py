"""One of the processes that work together: what it is asked to do, and how it ends.

The job is a small JSON file, so that torchrun, Ray or a cluster's own scheduler can start ranks on
any machine with `python -m kontext.train JOB`. Nothing here knows who did.
"""

import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pydantic import BaseModel, ConfigDict

from kontext.errors import KontextError, StallError, Stopped
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.parent import die_with_parent
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.ranks.watchdog import Watchdog
from kontext.parallel.world import World, join, leave

CHANGES_RESULTS = False  # what ranks do is in the work they are given

_log = logging.getLogger(__name__)
STOPPED = 128 + signal.SIGTERM  # a failure to whoever restarts ranks: the run is not done
_SAVE_SECONDS = 25  # an orchestrator that cancels kills what is left after 30 s

# (steps done, steps in all, numbers): a step's losses and cost, or what was measured after it
StepProgress = Callable[[int, int, Mapping[str, float | None]], None]


class Job(BaseModel):
    """What ranks are to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    work: str  # "module:function", called as function(rank, **arguments) on every rank
    arguments: dict[str, Any] = {}  # JSON
    folder: Path  # where progress, failures and stacks are written
    replicas: int = 1  # HSDP, see `kontext.parallel.world.join`
    context: int = 1  # ranks that share a sequence, see there too
    stall_seconds: float = 0.0

    @property
    def progress(self) -> Path:
        """Lines {"done", "total", "losses"}, by rank 0."""
        return self.folder / "progress.jsonl"

    @property
    def failure(self) -> Path:
        """{"kind", "message", "more"}: an error that another attempt would only meet again."""
        return self.folder / "failure.json"

    def fail(self, error: KontextError) -> None:
        """Write the failure down, unless another rank was first."""
        kind = function_name(type(error))
        found = {"kind": kind, "message": str(error), "more": vars(error)}
        text = json.dumps(found, default=str)
        partial = self.failure.with_suffix(f".{os.getpid()}")
        partial.write_text(text)
        try:
            os.link(partial, self.failure)
        except FileExistsError:
            _log.info("another rank has failed before")
        partial.unlink()


class Rank:
    """This process among the others, as the job's function sees it; `world` is its place."""

    def __init__(self, job: Job, world: World) -> None:
        self.job, self.world = job, world
        self.watchdog = Watchdog(
            job.stall_seconds,
            job.folder / f"stacks-rank-{world.rank}.txt",
            lambda line: job.fail(StallError(f"rank {world.rank}: {line}")),
        )
        self._ended = threading.Event()

    def progress(self, done: int, total: int, losses: Mapping[str, float | None]) -> None:
        """Tell whoever launched the ranks."""
        if self.world.is_leader:
            with self.job.progress.open("a") as file:
                line = {"done": done, "total": total, "losses": dict(losses)}
                file.write(json.dumps(line) + "\n")

    def end(self, *_: object) -> None:
        """Ask for the end: a signal handler. A rank that cannot save in time is killed."""
        self._ended.set()
        signal.alarm(_SAVE_SECONDS)

    def check(self) -> None:
        """Between two parts of a work that other ranks do not wait for.

        Raises:
            Stopped: this rank was asked to end.
        """
        if self._ended.is_set():
            raise Stopped("asked to end; what is made stays")

    def stop(self) -> bool:
        """Whether any rank was asked to end; a collective, one small sum per step."""
        return self.world.any(self._ended.is_set())


def function_name(what: Callable[..., Any]) -> str:
    """ "module:name" of a module's function or class, for `pkgutil.resolve_name`."""
    return f"{what.__module__}:{what.__name__}"


def run_stage_work(
    rank: Rank,
    *,
    work: str,
    section: str,
    config: dict[str, Any],
    inputs: dict[str, Any],
    arguments: dict[str, Any],
) -> None:
    """A rank's part of what a stage does: `work(rank, config, inputs, **arguments)`.

    Args:
        work, section: names of the function and of the recipe section's class (`function_name`).
        config: the section, as JSON.
        inputs: see `Inputs.description`.
    """
    keep_freed_memory()
    read = resolve_name(section).model_validate(config)
    resolve_name(work)(rank, read, Inputs.opened(inputs), **arguments)


def run(job: Job) -> None:
    """Do a job's work as the rank that the environment describes (RANK, WORLD_SIZE, …).

    Raises:
        KontextError: the job's function did; it is written to `job.failure`.
        Stopped: SIGTERM came, and the run is saved.
    """
    if job.failure.exists():  # whoever restarts ranks cannot know that it is of no use
        raise KontextError(f"failed before: {job.failure.read_text()}")
    job.folder.mkdir(parents=True, exist_ok=True)  # on another machine it is not there yet
    die_with_parent()
    rank = Rank(job, join(job.replicas, job.context))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, rank.end)
    try:
        resolve_name(job.work)(rank, **job.arguments)
    except KontextError as error:
        job.fail(error)
        raise
    leave()


def main(path: str) -> None:
    """The entry point of a process of its own; does not return."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s rank {os.environ.get('RANK', '0')} %(levelname)s %(message)s",
    )
    code = 0
    try:
        run(Job.model_validate_json(Path(path).read_text()))
    except Stopped as stopped:
        _log.info("%s", stopped)
        code = STOPPED
    except BaseException:  # noqa: BLE001 - written down, and the process ends with it
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)  # threads of a checkpoint that wait for a dead rank would hold an ordinary exit
