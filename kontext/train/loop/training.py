"""The one way to train: a method is built, taken to its last step, and saved on the way.

A stage calls the function `build(config, inputs, world)` of a method's file with a world of one and
trains what it returns with `train`. Where the recipe asks for ranks, each calls the same function
with its own world. If the stage's world `launches` them, its method never holds weights: ranks read
or draw them. Otherwise ranks go on from a checkpoint of step 0, which has the stage's weights: they
need to know only the model's shape, and the stage lets go of its own. Either way the averages come
back from the ranks' last checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from kontext.parallel.flops import peak_flops
from kontext.parallel.memory import give_back_memory
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.ranks.launch import LaunchSection, on_ranks
from kontext.parallel.ranks.rank import Rank, StepProgress, function_name
from kontext.parallel.ranks.watchdog import Watchdog
from kontext.parallel.world import World
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.clock import Clock, Work
from kontext.train.loop.fit import Measure, Method, fit
from kontext.train.loop.state import let_go
from schemas.sections.training import GuardConfig

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext


class TrainingSection(LaunchSection, Protocol):
    """What the recipe sections of all stages that train have in common."""

    @property
    def guard(self) -> GuardConfig:
        """What to do with a step whose loss is not finite, or spikes."""

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""


class BuiltMethod(Method, Protocol):
    """A training method as its file's `build(config, inputs, world)` returns it."""

    world: World  # this process among the ranks
    products: torch.dtype  # what matrix products are computed in
    measure: Measure | None  # validation that every rank takes part in, where the recipe asks

    def work(self, index: int) -> Work:
        """What step `index` costs, over all ranks."""


Build = Callable[[Any, Inputs, World], BuiltMethod]  # of the section, its inputs and the ranks


def train(
    ctx: StageContext,
    build: Build,
    method: BuiltMethod,
    inputs: Inputs,
    *,
    progress: StepProgress,
    stage: str,
    name: str = "",
    measure: Measure | None = None,
) -> list[dict[str, float]]:
    """Take a method to its last step, on ranks where the recipe asks for them.

    Args:
        build: what built `method`; ranks call it too. A module's function.
        method: built in this process, its starting weights and ledger in place.
        inputs: what ranks build it from.
        stage: whose checkpoints these are, where they lie in the store.
        name: of this training among several of one stage; empty for the stage's first.
        measure: validation in this process; by default the method's own.

    Returns:
        The history: one row per step that counts.

    Raises:
        Stopped: the time is up; every step so far is saved.
        DivergedError: losses are not finite, and the recipe says to stop.
        NumericsError: a checkpoint was made with other numerics than the method's ledger.
        RanksError: ranks died too often, or could not be started.
        StallError: no step for too long.
    """
    config: Any = ctx.config
    checkpoints = checkpoints_of(ctx, config, stage, name or "checkpoints")
    finished = checkpoints.finished()
    if finished and finished[-1]:
        ctx.report.continued(f"step {finished[-1]} of {method.total_steps}")
    if config.launch.launcher != "in-process":
        if not finished and not method.world.launches:
            checkpoints.save(method.state)
            checkpoints.wait()
        if not finished or finished[-1] != method.total_steps:
            _let_go(method)
            on_ranks(
                train_on_rank,
                config,
                inputs,
                progress,
                name=name or "ranks",
                stop=ctx.stop,
                build=function_name(build),
                ledger=method.state.ledger,
                checkpoints=checkpoints.url,
            )
        checkpoints.receive(method.state, method.world.device)
        return method.state.history
    watchdog = Watchdog(config.launch.stall_seconds, ctx.scratch / "stacks.txt")
    return take_steps(
        method, config, checkpoints, progress, watchdog, measure or method.measure, ctx.stop
    )


def _let_go(method: BuiltMethod) -> None:
    """Hold no weights while ranks train: they need the memory."""
    let_go(method.state)
    teacher = getattr(method, "teacher", None)
    if isinstance(teacher, nn.Module):
        teacher.to_empty(device=torch.device("meta"))
    give_back_memory()


def train_on_rank(
    rank: Rank,
    config: TrainingSection,
    inputs: Inputs,
    *,
    build: str,
    ledger: dict[str, str],
    checkpoints: str,
) -> None:
    """A rank's part of `train`: `build` names the function, `checkpoints` is their URL."""
    method: BuiltMethod = resolve_name(build)(config, inputs, rank.world)
    method.state.ledger = ledger
    saved = Checkpoints(checkpoints, config.checkpoint_every, config.launch.keep, rank.world)
    take_steps(method, config, saved, rank.progress, rank.watchdog, method.measure, rank.stop)


def take_steps(
    method: BuiltMethod,
    config: TrainingSection,
    checkpoints: Checkpoints,
    progress: StepProgress,
    watchdog: Watchdog,
    measure: Measure | None,
    stop: Callable[[], bool],
) -> list[dict[str, float]]:
    """The loop with a method's clock and a section's guard; see `kontext.train.loop.fit`."""
    world = method.world
    peak = peak_flops(world.device, method.products)
    return fit(
        method,
        checkpoints=checkpoints,
        progress=progress,
        policy=config.guard,
        clock=Clock(method.work, None if peak is None else peak * world.size, world.device),
        watchdog=watchdog,
        measure=measure,
        stop=stop,
    )


def checkpoints_of(
    ctx: StageContext, config: TrainingSection, stage: str, name: str
) -> Checkpoints:
    """Where a stage's checkpoints lie: with its scratch files, or among its work in the store.

    Both are cleared when the stage is done.
    """
    url = str(ctx.scratch / name)
    if config.launch.checkpoints == "store":
        from kontext.store.artifacts.artifact_store import work_prefix

        place, *options = ctx.store_url.split("?")
        folder = f"{place.rstrip('/')}/{work_prefix(stage, ctx.digest)}/{name}"
        url = "?".join([folder, *options])
    return Checkpoints(url, config.checkpoint_every, config.launch.keep)
