"""What the three training stages share: device, progress, history, weights out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import Tensor

from kontext.launch import ranks
from kontext.models.batch import PairTensors
from kontext.parallel.attention import active_kernel
from kontext.parallel.flops import Tokens
from kontext.plan import Machine, StagePlan, beside
from kontext.stage import StageContext
from kontext.train.board import Board
from kontext.train.clock import COLUMNS, medians, stretches, told
from kontext.train.loop import Progress
from kontext.train.state import TrainState
from schemas.train_config import LaunchConfig


def device_for(ctx: StageContext) -> torch.device:
    """The device to train on, recorded in the manifest with the attention kernel."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ctx.output.kernel("device", device.type)
    ctx.output.kernel("attention", active_kernel(device))
    return device


def board_of(ctx: StageContext, label: str) -> Board:
    """The run's TensorBoard, `tensorboard --logdir <home>/tensorboard`."""
    return Board(ctx.home / "tensorboard" / f"{label}-{ctx.digest}")


def report_progress(ctx: StageContext, label: str, every: int = 10) -> Progress:
    """Progress callback for `kontext.train.loop.fit`: a line and a TensorBoard row every tenth.

    What is measured while the run goes on, which comes without losses' cost, is always told.
    """
    board = board_of(ctx, label)

    def report(done: int, total: int, numbers: Mapping[str, float | None]) -> None:
        if done % every == 0 or done == total or COLUMNS[0] not in numbers:
            ctx.report.progress(done, total, f"{label} step {done}: {told(numbers)}")
            board.scalars(done, {f"{label}/{name}": value for name, value in numbers.items()})

    return report


def report_speed(
    ctx: StageContext,
    label: str,
    state: TrainState,
    predict: Callable[[Machine], StagePlan],
    machine: Machine | None = None,
) -> str:
    """Publish what the steps cost, as metrics, as a table, and as the sentence returned.

    Not a file of the artifact: files have the same bytes on every run, and these do not.

    Args:
        predict: what `kontext plan` says about this stage on a machine.
        machine: what `kontext plan`'s prediction is made for, to be told beside what was measured;
            this machine where it has a GPU, and no prediction elsewhere.
    """
    steady = state.clock[1:] or state.clock  # the first step allocates and tunes
    found = medians(steady)
    for name, value in found.items():
        ctx.output.metric(f"step_{name}", None if value is None else float(f"{value:.4g}"))
    ctx.report.table(f"{label}-speed", stretches(steady))
    return (
        f"A step took **{_shown(found['seconds'], '.3g')} s**, "
        f"{_shown(found['tokens_per_second'], ',.0f')} tokens/s, model FLOPs utilisation "
        f"{_shown(found['utilisation'], '.1%')}, {_shown(found['data_wait'], '.2g')} s of it "
        f"waiting for data; memory {_shown(found['memory_mib'], ',.0f')} MiB."
        f"{_predicted(ctx, label, found, predict, machine or this_machine(ctx))}"
    )


def pair_tokens(data: PairTensors) -> Tokens:
    """Token counts of one edit of `data`, as the planner takes them."""
    return Tokens(data.text_tokens.shape[1], data.target_tokens, data.target_tokens)


def this_machine(ctx: StageContext) -> Machine | None:
    """The GPUs that this stage trained on; None without one."""
    if not torch.cuda.is_available():
        return None
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    launched = getattr(ctx.config, "launch", LaunchConfig())
    count = 1 if launched.launcher == "in-process" else ranks(launched)
    return Machine(count, memory, torch.cuda.get_device_name(0))


def _predicted(
    ctx: StageContext,
    label: str,
    found: Mapping[str, float | None],
    predict: Callable[[Machine], StagePlan],
    machine: Machine | None,
) -> str:
    """What the planner said about this stage, as a sentence, and as a table beside the measured."""
    if machine is None:
        return ""
    row = beside(predict(machine), {f"step_{name}": value for name, value in found.items()})
    ctx.report.table(f"{label}-plan", [row])
    return (
        f" Predicted: {_shown(row['predicted_step_seconds'], '.3g')} s, "
        f"{1024 * row['predicted_memory_gib']:,.0f} MiB."
    )


def report_measured(ctx: StageContext, state: TrainState) -> None:
    """Store what was measured while the run went on, where the recipe asks for it."""
    if state.measured:
        ctx.output.add_table("measured.parquet", history_table(state.measured))


def report_incidents(ctx: StageContext, state: TrainState) -> None:
    """Note every step that was left out."""
    for incident in state.incidents:
        ctx.note(
            f"{incident['line']}: {incident['action']}, on with the weights of step "
            f"{incident['weights_of_step']}"
        )
    ctx.output.metric("steps_left_out", len(state.incidents))


def _shown(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def history_table(history: Sequence[Mapping[str, float]]) -> pa.Table:
    """History rows with the union of their keys as columns; absent values are null."""
    names = list(dict.fromkeys(name for row in history for name in row))
    kinds = {name: pa.int64() if name == "step" else pa.float64() for name in names}
    columns = {name: pa.array([row.get(name) for row in history], kinds[name]) for name in names}
    return pa.table(columns)


def save_weights(ctx: StageContext, name: str, state: Mapping[str, Tensor]) -> None:
    """Store a state dict as `name`, in the dtype it has."""
    path = ctx.scratch / name
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, path)
    ctx.output.add_file(name, path)
