"""What people see of a training run: progress, TensorBoard, and what its steps cost.

Nothing here changes a file of an artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from kontext.parallel.ranks.launch import ranks
from kontext.parallel.ranks.rank import StepProgress
from kontext.train.capacity import Estimate, Machine, compared
from kontext.train.loop.clock import COLUMNS, downsampled, format_numbers, medians
from kontext.train.loop.state import TrainState
from kontext.train.record.board import Board
from schemas.sections.training import LaunchConfig

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext

CHANGES_RESULTS = False  # for people


def tensorboard(ctx: StageContext, label: str) -> Board:
    """The run's TensorBoard, `tensorboard --logdir <home>/tensorboard`."""
    return Board(ctx.home / "tensorboard" / f"{label}-{ctx.digest}")


def report_progress(ctx: StageContext, label: str) -> StepProgress:
    """A line and a TensorBoard row every tenth step, and for everything measured on the way."""
    board = tensorboard(ctx, label)

    def report(done: int, total: int, numbers: Mapping[str, float | None]) -> None:
        if done % 10 == 0 or done == total or COLUMNS[0] not in numbers:
            line = f"{label} step {done}: {format_numbers(numbers)}"
            ctx.report.progress(done, total, line)
            board.scalars(done, {f"{label}/{name}": value for name, value in numbers.items()})

    return report


def report_speed(
    ctx: StageContext, label: str, state: TrainState, estimate: Callable[[Machine], Estimate]
) -> str:
    """Publish what the steps cost, as metrics, as a table, and as the sentence returned.

    Not a file of the artifact: files have the same bytes on every run, and these do not.

    Args:
        estimate: what the stage was expected to take on a machine; it is compared with what was
            measured where this machine has a GPU.
    """
    steady = state.clock[1:] or state.clock  # the first step allocates and tunes
    found = medians(steady)
    for name, value in found.items():
        ctx.output.metric(f"step_{name}", None if value is None else float(f"{value:.4g}"))
    ctx.report.table(f"{label}-speed", downsampled(steady))
    said = (
        f"A step took **{_shown(found['seconds'], '.3g')} s**, "
        f"{_shown(found['tokens_per_second'], ',.0f')} tokens/s, model FLOPs utilisation "
        f"{_shown(found['utilisation'], '.1%')}, {_shown(found['data_wait'], '.2g')} s of it "
        f"waiting for data; memory {_shown(found['memory_mib'], ',.0f')} MiB."
    )
    machine = this_machine(ctx)
    if machine is None:
        return said
    row = compared(estimate(machine), {f"step_{name}": value for name, value in found.items()})
    ctx.report.table(f"{label}-plan", [row])
    return (
        f"{said} Predicted: {_shown(row['predicted_step_seconds'], '.3g')} s, "
        f"{1024 * row['predicted_memory_gib']:,.0f} MiB."
    )


def this_machine(ctx: StageContext) -> Machine | None:
    """The GPUs that this stage trained on; None without one."""
    if not torch.cuda.is_available():
        return None
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    launched = getattr(ctx.config, "launch", LaunchConfig())
    count = 1 if launched.launcher == "in-process" else ranks(launched)
    return Machine(count, memory, torch.cuda.get_device_name(0))


def _shown(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)
