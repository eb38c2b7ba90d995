"""Starts the processes that work together, follows them, and ends them with this one.

    in-process   no other process: the stage works by itself, on one device
    torchrun     torch's elastic launcher on this machine, with a rendezvous of its own
    ray          Ray Train's TorchTrainer, on this machine or a cluster (extra `[ray]`)

A rank that dies is started again with all others, from the last checkpoint. Ending this process
ends the ranks: SIGTERM reaches them through the launcher, they save and go; if this process is
killed, the kernel tells the launcher. Ray's ranks are ended by Ray, from the last checkpoint.

Tried: torchrun and Ray Train 2.60 with two gloo ranks on one machine. Unrun: GPUs, and several
machines.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol

import torch

from kontext import errors
from kontext.errors import RanksError, Stopped
from kontext.parallel.parent import die_with_parent
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.ranks.rank import Job, StepProgress, function_name, run
from schemas.sections.training import LaunchConfig, ParallelConfig

CHANGES_RESULTS = False  # starts and follows processes

_log = logging.getLogger(__name__)
_POLL = 0.2  # seconds
_PATIENCE = 40  # seconds: torchrun itself kills ranks 30 s after SIGTERM
# torch 2.14 otherwise keeps one store over restarts, in which new ranks find the addresses of dead
# ones (elastic/rendezvous/dynamic_rendezvous.py: the shared server is made once)
_FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
_SHOWN = 3  # last lines of the ranks' log in an error


class LaunchSection(Protocol):
    """What the recipe sections of all stages that work on ranks have in common."""

    @property
    def launch(self) -> LaunchConfig:
        """How many ranks, and where they run."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """The section as plain values, as pydantic's models give it."""


def on_ranks(
    work: Callable[..., None],
    config: LaunchSection,
    inputs: Inputs,
    progress: StepProgress,
    *,
    name: str = "ranks",
    stop: Callable[[], bool] = lambda: False,
    **arguments: Any,
) -> None:
    """Call `work(rank, config, inputs, **arguments)` on every rank that the recipe asks for.

    Returns when all are done. Does nothing where the recipe works in this process.

    Args:
        work: a module's function.
        config: the stage's recipe section, which each rank reads again from JSON.
        progress: called in another thread with what rank 0 reports.
        name: of the scratch folder in which ranks write their log; one per work of a stage.
        stop: asked again and again whether to end.
        arguments: JSON.

    Raises:
        Stopped: `stop` said so; what the ranks have made is saved.
        KontextError: what the work refused, as its own class.
        RanksError: ranks died too often, or could not be started.
        StallError: they made no step for too long.
    """
    if config.launch.launcher == "in-process":
        return
    job = Job(
        work="kontext.parallel.ranks.rank:run_stage_work",
        arguments={
            "work": function_name(work),
            "section": function_name(type(config)),
            "config": config.model_dump(mode="json"),
            "inputs": inputs.description(),
            "arguments": arguments,
        },
        folder=inputs.scratch / name,
        replicas=config.launch.replicas,
        context=getattr(config, "parallel", ParallelConfig()).context,
        stall_seconds=config.launch.stall_seconds,
    )
    launch(job, config.launch, progress, stop)


def launch(
    job: Job, config: LaunchConfig, progress: StepProgress, stop: Callable[[], bool] = lambda: False
) -> None:
    """Run a job's ranks to their end, started again from the last checkpoint where one died.

    Arguments and errors are those of `on_ranks`. Ray's ranks go on to the end whatever `stop` says.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    for old in (job.failure, job.progress, *job.folder.glob("stacks-rank-*.txt")):
        old.unlink(missing_ok=True)
    with _followed(job, progress):
        if config.launcher == "ray":
            _ray(job, config)
        else:
            _torchrun(job, config, stop)


def ranks(config: LaunchConfig) -> int:
    """How many ranks a recipe asks for: 0 means one per device of this machine."""
    return config.ranks or max(1, torch.cuda.device_count())


def _torchrun(job: Job, config: LaunchConfig, stop: Callable[[], bool]) -> None:
    path, log = job.folder / "job.json", job.folder / "ranks.log"
    path.write_text(job.model_dump_json())
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(ranks(config)), "--max-restarts", str(config.max_restarts)),
        *("-m", "kontext.train", str(path)),
    ]
    _log.info("%d ranks by torchrun, their log is %s", ranks(config), log)
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            env={**os.environ, **_FRESH_STORE},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            # a session of its own: it hears of a cancelled run from us, and once
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        while (code := child.poll()) is None:
            if stop():
                raise Stopped("the ranks were asked to end, and have saved")
            time.sleep(_POLL)
    finally:
        _end(child)
    if code:
        raise _failure(job, f"torchrun ended with code {code}{_last_lines(log)}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and time for the ranks to save; SIGKILL for what is left."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        _log.warning("torchrun did not end within %d s of SIGTERM: killed", _PATIENCE)
        child.kill()
        child.wait()


def _ray(job: Job, config: LaunchConfig) -> None:
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise RanksError(f"launcher 'ray': {error}; pip install 'kontext[ray]'") from error

    gpu = torch.cuda.is_available()
    trainer = TorchTrainer(
        _ray_rank,
        train_loop_config={"job": job.model_dump_json()},
        scaling_config=ScalingConfig(num_workers=ranks(config), use_gpu=gpu),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name=job.folder.name,
            storage_path=str(job.folder.parent / "ray"),
            failure_config=FailureConfig(max_failures=config.max_restarts),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _failure(job, f"Ray Train: {' '.join(str(error).split())[:300]}") from error


def _ray_rank(config: dict[str, Any]) -> None:
    run(Job.model_validate_json(config["job"]))


def _failure(job: Job, otherwise: str) -> errors.KontextError:
    """The error a rank has met, or that the ranks died."""
    if not job.failure.exists():
        return RanksError(otherwise)
    found = json.loads(job.failure.read_text())
    kind = resolve_name(found["kind"])
    error = kind.__new__(kind, found["message"])  # each class takes arguments of its own
    vars(error).update(found["more"])
    assert isinstance(error, errors.KontextError)
    return error


def _last_lines(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "".join(f"\n  {line}" for line in [f"see {log}", *lines[-_SHOWN:]])


@contextmanager
def _followed(job: Job, progress: StepProgress) -> Iterator[None]:
    """Pass on rank 0's progress until the block ends."""
    over = threading.Event()

    def follow() -> None:
        read, last = 0, False
        while not last:
            last = over.wait(_POLL)
            if job.progress.exists():
                with job.progress.open("rb") as file:
                    file.seek(read)
                    data = file.read()
                whole = data[: data.rfind(b"\n") + 1]
                read += len(whole)
                for line in map(json.loads, whole.splitlines()):
                    progress(line["done"], line["total"], line["losses"])

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()
