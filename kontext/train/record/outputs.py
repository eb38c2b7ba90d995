"""What every training stage writes into its artifact: weights, history, incidents, devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from kontext.parallel.attention import active_kernel
from kontext.train.loop.state import TrainState

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext


def device_for(ctx: StageContext) -> torch.device:
    """The device to train on, recorded in the manifest with the attention kernel."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ctx.output.kernel("device", device.type)
    ctx.output.kernel("attention", active_kernel(device))
    return device


def write_history(
    ctx: StageContext, history: Sequence[Mapping[str, float]], name: str = "history"
) -> None:
    """Store one row per step as `<name>.parquet`; a value that a row lacks is null."""
    import pyarrow as pa

    keys = dict.fromkeys(key for row in history for key in row)
    kinds = {key: pa.int64() if key == "step" else pa.float64() for key in keys}
    columns = {key: pa.array([row.get(key) for row in history], kinds[key]) for key in keys}
    ctx.output.add_table(f"{name}.parquet", pa.table(columns))


def write_incidents(ctx: StageContext, state: TrainState) -> None:
    """Store what was measured while the run went on, and note every step that was left out."""
    if state.measured:
        write_history(ctx, state.measured, "measured")
    for incident in state.incidents:
        ctx.note(
            f"{incident['line']}: {incident['action']}, on with the weights of step "
            f"{incident['weights_of_step']}"
        )
    ctx.output.metric("steps_left_out", len(state.incidents))


def save_weights(ctx: StageContext, name: str, state: Mapping[str, Tensor]) -> None:
    """Store a state dict as `name`, in the dtype it has."""
    path = ctx.scratch / name
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, path)
    ctx.output.add_file(name, path)
