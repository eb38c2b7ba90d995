"""What the three training stages share: device, progress, history, weights out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import Tensor

from kontext.parallel.attention import active_kernel
from kontext.stage import StageContext
from kontext.train.clock import medians, stretches
from kontext.train.loop import Progress
from kontext.train.state import TrainState


def device_for(ctx: StageContext) -> torch.device:
    """The device to train on, recorded in the manifest with the attention kernel."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ctx.output.kernel("device", device.type)
    ctx.output.kernel("attention", str(active_kernel()))
    return device


def report_progress(ctx: StageContext, label: str, every: int = 10) -> Progress:
    """Progress callback for `kontext.train.loop.fit`, with a log line every tenth."""

    def report(done: int, total: int, losses: Mapping[str, float]) -> None:
        if done % every == 0 or done == total:
            text = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
            ctx.report.progress(done, total, f"{label} step {done}: {text}")

    return report


def report_speed(ctx: StageContext, label: str, state: TrainState) -> str:
    """Publish what the steps cost, as metrics, as a table, and as the sentence returned.

    Not a file of the artifact: files have the same bytes on every run, and these do not.
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
    )


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
