"""Kills of the stages that encode and train: `python -m tests.faults.kills --training`.

Encode, finetune (all weights, and adapters) and distill of a tiny run get SIGKILL at points drawn
from the seed, by turns on one rank and on two, where the launcher and all ranks die with the stage.
Then the stage is run anew in a process of its own, once on as many ranks and once on the other
number. On the same number all files must be an undisturbed run's, bit for bit. On the other, sums
have another order: the tensors of no file may be further off than TOLERANCE.

A point is a beat: every step's begin and end, every report of progress, and every file that is
about to reach the disk or to get its name. Every run is a process of its own, forked from this one,
which has imported the stages and runs none: a start costs milliseconds.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._dynamo  # the first optimiser imports it: once here rather than in every process
from safetensors.torch import load_file, save_file

import kontext.stages.distill
import kontext.stages.encode
import kontext.stages.finetune  # noqa: F401 - once here, too
from kontext.models.files.recognise_autoencoder import SHAPE_KEY
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.ranks import launch
from kontext.parallel.ranks.rank import Job, Rank, run_stage_work
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.methods.flow import FlowMethod
from kontext.train.methods.ladd import LaddMethod
from schemas.recipes import Recipe
from schemas.sections.training import EncodeConfig, FinetuneConfig, LaunchConfig, ParallelConfig
from schemas.sections.weights import WeightsConfig
from tests.faults.lab import Trouble
from tests.stages import encoded_run, finished_run
from tests.stages.stage_harness import Harness
from tests.stages.test_encode import sharded

TOLERANCE = 1e-3  # of the norm of a file's tensors, on another number of ranks
STAGE = "stage"  # the process that is not a rank
_FP32 = ParallelConfig(precision="fp32")
_STEPS = {"t2i_steps": 2, "joint_steps": 8, "checkpoint_every": 3}
_TIME = 3600  # seconds that one attempt may take: two ranks on a busy machine need many


class Point(NamedTuple):
    """What is killed: at which beat of which process."""

    work: str  # `stage`, or the name of a work of ranks
    rank: int
    beat: int


@dataclass(frozen=True)
class Case:
    """A stage, with inputs that are made once and a recipe for a number of ranks."""

    name: str
    stage: str
    make: Callable[[Path], object]  # the inputs, in a folder
    recipe: Callable[[Path, LaunchConfig], Recipe]  # `given.safetensors` is in the path's folder


def _flow(folder: Path, launch: LaunchConfig, **changes: object) -> Recipe:
    base = encoded_run.toy_recipe()
    section = {**base.finetune.model_dump(), "optimizer": "adamw", "parallel": _FP32, **_STEPS}
    config = FinetuneConfig.model_validate({**section, "launch": launch, **changes})
    return base.model_copy(update={"finetune": config})


def _adapters(folder: Path, launch: LaunchConfig) -> Recipe:
    given = WeightsConfig(transformer=str(folder / "given.safetensors"))
    return _flow(folder, launch, lora_rank=2).model_copy(update={"weights": given})


def _given(folder: Path) -> None:
    """Inputs of the flow, and weights that adapters are beside."""
    encoded_run.encoded_run(folder)
    torch.manual_seed(7)
    model = FluxTransformer(encoded_run.SHAPE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    said = {SHAPE_KEY: encoded_run.SHAPE.model_dump_json()}
    save_file(model.state_dict(), folder.parent / "given.safetensors", said)


def _student(folder: Path, launch: LaunchConfig) -> Recipe:
    base = encoded_run.toy_recipe(launch=launch, parallel=_FP32, checkpoint_every=2)
    return base.model_copy(update={"finetune": _flow(folder, LaunchConfig()).finetune})


def _taught(folder: Path) -> None:
    harness = encoded_run.encoded_run(folder)
    harness.recipe = _student(folder, LaunchConfig())
    harness.run("finetune")


def _encoded(folder: Path, launch: LaunchConfig) -> Recipe:
    config = EncodeConfig(text_length=20, batch=16, shard_rows=40, launch=launch)
    return finished_run.recipe().model_copy(update={"encode": config})


CASES = {
    case.name: case
    for case in (
        Case("encode", "encode", sharded, _encoded),
        Case("finetune, all weights", "finetune", encoded_run.encoded_run, _flow),
        Case("finetune, adapters", "finetune", _given, _adapters),
        Case("distill", "distill", _taught, _student),
    )
}


class Beats:
    """Counts the beats of this process, and ends it, and all that belongs to it, at one."""

    def __init__(self, at: int = 0, stage: int = 0) -> None:
        self.count, self._at, self._stage = 0, at, stage or os.getpid()
        self._lock = threading.Lock()
        for owner, name, twice in (
            (os, "replace", False),
            (os, "fsync", False),
            (FlowMethod, "step", True),
            (LaddMethod, "step", True),
        ):
            setattr(owner, name, self.around(getattr(owner, name), twice))

    def around(self, real: Callable[..., Any], twice: bool = False) -> Callable[..., Any]:
        """A function with a beat before it, and one after it where it is to have two."""

        def beating(*args: Any, **kwargs: Any) -> Any:
            self.beat()
            made = real(*args, **kwargs)
            if twice:
                self.beat()
            return made

        return beating

    def beat(self) -> None:
        """Count one."""
        with self._lock:
            self.count += 1
            if self.count == self._at:
                _end(self._stage)


def _end(stage: int) -> None:
    """SIGKILL for the launcher and the ranks of a stage, for the stage, and for this process."""
    own = os.getpid()
    for pid in [*(pid for pid in _children(stage) if pid != own), stage, own]:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, signal.SIGKILL)


def _children(parent: int) -> list[int]:
    """The processes that a process has started, and theirs: those that could start others first."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(") ")[2].split()[1]
            )
        except OSError:
            continue  # it has ended
    wanted = [parent]
    for one in wanted:  # it grows
        wanted += [pid for pid, its in parents.items() if its == one]
    return wanted[1:]


def rank_work(rank: Rank, *, point: list[Any] | None, stage: int, **arguments: Any) -> None:
    """A rank's part of a stage, with a bomb where the point is in it; called in its process."""
    folder, own = rank.job.folder, rank.world.rank
    here = point is not None and tuple(point[:2]) == (folder.name, own)
    beats = Beats(point[2] if point is not None and here else 0, stage)
    rank.progress = beats.around(rank.progress)  # type: ignore[method-assign]
    run_stage_work(rank, **arguments)
    (folder / f"beats-{own}.json").write_text(json.dumps([folder.name, own, beats.count]))


def _attempt(name: str, folder: Path, ranks: int, point: Point | None) -> None:
    """One run of the stage, in a process of its own."""
    torch.set_num_threads(1)
    log = (folder / "log.txt").open("a")
    sys.stdout = sys.stderr = log
    logging.basicConfig(stream=log, level=logging.INFO, force=True)
    at = point.beat if point is not None and point.work == STAGE else 0
    harness, beats = opened(CASES[name], folder, ranks), Beats(at)
    harness.report.progress = beats.around(harness.report.progress)  # type: ignore[method-assign]
    real = launch.launch

    def armed(job: Job, *rest: Any) -> None:
        arguments = {**job.arguments, "point": point and list(point), "stage": os.getpid()}
        real(
            job.model_copy(update={"work": f"{__name__}:rank_work", "arguments": arguments}), *rest
        )

    launch.launch = armed
    stage = CASES[name].stage
    if not harness.store.exists(stage, f"digest-of-{stage}"):  # else it is done, as for the engine
        harness.run(stage)
    (folder / "beats-stage.json").write_text(json.dumps([STAGE, 0, beats.count]))


def opened(case: Case, folder: Path, ranks: int) -> Harness:
    """The stage's harness with the inputs that lie in a folder."""
    launched = LaunchConfig(launcher="torchrun", ranks=ranks) if ranks > 1 else LaunchConfig()
    harness = Harness(folder, case.recipe(folder.parent, launched))
    for manifest in sorted((folder / "store" / "runs").glob("*/*/manifest.json")):
        stage, digest = manifest.parts[-3:-1]
        if stage != case.stage:
            harness.inputs[stage] = harness.store.open(stage, digest)
    return harness


def _forked(work: Callable[..., object], *arguments: object) -> int | None:
    """The exit code of a process that does a work; none of one that did not end in time."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join(_TIME)
    if process.exitcode is None:
        process.kill()
    return process.exitcode


def attempt(case: Case, folder: Path, ranks: int, point: Point | None = None) -> None:
    """Run the stage in a folder; with a point it must be killed there.

    Raises Trouble: it failed, or was not killed.
    """
    code = _forked(_attempt, case.name, folder, ranks, point)
    if code != (0 if point is None else -signal.SIGKILL):
        last = (folder / "log.txt").read_text(errors="replace").strip().splitlines()[-1:]
        raise Trouble(f"exit {code} at {point}: {last}")
    if point is not None and point.work != STAGE:
        time.sleep(0.5)  # the rank dies last


def made(case: Case, folder: Path) -> Artifact:
    """What the stage has made. Raises ArtifactError where it has not."""
    return opened(case, folder, 1).store.open(case.stage, f"digest-of-{case.stage}")


def sums(artifact: Artifact) -> dict[str, str]:
    """SHA-256 of its files."""
    return {file.name: file.sha256 for file in artifact.manifest.files}


def deviation(one: Artifact, other: Artifact) -> float:
    """The largest difference of a file's tensors, as a share of their norm.

    Of all together: the heads' last biases shift all logits alike, which no loss sees, so they are
    near zero and wander. Infinite where names differ.
    """
    worst = 0.0
    if one.names() != other.names():
        return float("inf")
    for name in (name for name in one.names() if name.endswith(".safetensors")):
        tensors, others = (load_file(each.path(name)) for each in (one, other))
        if tensors.keys() != others.keys():
            return float("inf")
        first = torch.cat([tensor.double().flatten() for tensor in tensors.values()])
        second = torch.cat([others[key].double().flatten() for key in tensors])
        worst = max(worst, float((first - second).norm() / first.norm()))
    return worst


def points(draw: random.Random, folder: Path, kills: int) -> list[Point]:
    """Points of an undisturbed run: any of its beats, of ranks alone where it had some."""
    counts = [json.loads(path.read_text()) for path in sorted(folder.rglob("beats-*.json"))]
    found = [
        Point(work, rank, beat)
        for work, rank, count in counts
        if work != STAGE or len(counts) == 1
        for beat in range(1, count + 1)
    ]
    return draw.sample(found, kills)


class Kept(NamedTuple):
    """Folders of a case: the inputs, and undisturbed runs on one rank and on two."""

    given: Path
    whole: dict[int, Path]


def undisturbed(case: Case, root: Path, numbers: tuple[int, ...] = (1, 2)) -> Kept:
    """Make a case's inputs, and a run on each number of ranks."""
    root.mkdir(parents=True)
    given = root / "given"
    given.mkdir()
    if _forked(case.make, given):
        raise Trouble(f"{case.name}: its inputs could not be made")
    whole = {}
    for ranks in numbers:
        whole[ranks] = _copy(given, root / f"whole-{ranks}")
        attempt(case, whole[ranks], ranks)
    return Kept(given, whole)


def _copy(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    return to


def resumed(case: Case, kept: Kept, ranks: int, point: Point) -> dict[int, float]:
    """Kill a run on so many ranks at a point and go on: how far off the result then is.

    Returns:
        By the number of ranks that went on, `deviation` from the undisturbed run on as many ranks
        as were killed; on those, infinite where a byte of any file differs.
    """
    root, found = kept.given.parent, {}
    killed = _copy(kept.given, root / "killed")
    attempt(case, killed, ranks, point)
    wanted = made(case, kept.whole[ranks])
    for number in kept.whole:
        folder = _copy(killed, root / f"resumed-{number}")
        attempt(case, folder, number)
        artifact = made(case, folder)
        found[number] = deviation(wanted, artifact)
        if number == ranks and sums(artifact) != sums(wanted):
            found[number] = float("inf")
    return found


def run(root: Path, kills: int, seed: int, only: str = "", alone: bool = False) -> int:
    """All cases, or those that `only` matches; how many kills were not as they should be.

    Args:
        alone: on one rank, and not on two.
    """
    torch.set_num_threads(1)
    wrong, numbers = 0, (1,) if alone else (1, 2)
    for case in (case for name, case in CASES.items() if re.search(only, name)):
        kept = undisturbed(case, root / re.sub(r"\W+", "-", case.name), numbers)
        draw = random.Random(f"{seed} {case.name}")
        drawn = {ranks: points(draw, folder, kills) for ranks, folder in kept.whole.items()}
        for number in range(kills):
            ranks = numbers[number % len(numbers)]
            point, began = drawn[ranks][number], time.monotonic()
            try:
                found = resumed(case, kept, ranks, point)
                good = found[ranks] == 0 and max(found.values()) <= TOLERANCE
                said = ", ".join(f"{_said(off)} on {on}" for on, off in found.items())
            except Trouble as trouble:
                good, said = False, f"FAILED: {trouble}"
            wrong += not good
            print(
                f"{'  ' if good else '! '}{case.name:22} {ranks} rank{'s' * (ranks > 1):1} "
                f"{point.work:10} {point.rank} beat {point.beat:3}: {said}  "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
    return wrong


def _said(off: float) -> str:
    return "the same" if not off else f"off by {off:.1e}"
