from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel import attention
from kontext.parallel.flops import PEAKS, Tokens, peak_flops, peak_of, step_flops
from kontext.train.ladd.formulas import ladd_flops
from kontext.train.loop import clock as module
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.clock import COLUMNS, Clock, Work, downsampled, medians, waiting
from kontext.train.loop.fit import fit
from kontext.train.methods.flow import FlowMethod
from schemas.sections.training import ParallelConfig
from tests.train.broken_ladd import wired
from tests.train.toy import SHAPE, toy_config, toy_model, toy_pairs


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock's time, set by hand."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_a_row_is_time_work_and_memory(hours: list[float]) -> None:
    clock = Clock(lambda step: Work(tokens=100 * step, flops=4_000), peak=2_000.0)
    clock.start()
    with waiting():
        hours[0] += 1
    with waiting():
        hours[0] += 2
    hours[0] += 5
    row = clock.lap(4)
    assert tuple(row) == ("step", *COLUMNS)
    assert (row["seconds"], row["data_wait"]) == (8.0, 3.0)
    assert row["tokens_per_second"] == 50.0
    assert row["utilisation"] == 4_000 / 8 / 2_000
    assert row["memory_mib"] > 10


def test_what_is_not_known_is_null_and_no_guess(hours: list[float]) -> None:
    for clock in (Clock(lambda step: Work(10, 10)), Clock(lambda step: Work(10), peak=1.0)):
        clock.start()
        hours[0] += 1
        row = clock.lap(0)
        assert row["utilisation"] is None and row["data_wait"] is None
        assert row["tokens_per_second"] == 10
    assert Clock().lap(0)["tokens_per_second"] is None


def test_peaks_are_of_named_devices_and_of_bf16() -> None:
    assert peak_of("NVIDIA H200", torch.bfloat16) == 989e12
    assert peak_of("NVIDIA GB200", torch.bfloat16) == PEAKS["GB200"] != PEAKS["B200"]
    assert peak_of("NVIDIA H200", torch.float32) is None
    assert peak_of("Somebody's Card", torch.bfloat16) is None
    assert peak_flops(torch.device("cpu"), torch.bfloat16) is None


@pytest.mark.parametrize("index", [0, 3])
def test_the_work_of_a_flow_step_is_what_its_model_does(
    index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(t2i_share=0.25, parallel=ParallelConfig(precision="fp32"))
    method = FlowMethod(config, toy_pairs(), toy_model())
    seen: list[int] = []
    real = FluxTransformer.forward

    def counting(self: Any, tokens: Any, ids: Any, text: Any, *more: Any, **named: Any) -> Any:
        seen.append(tokens.shape[0] * (tokens.shape[1] + text.shape[1]))
        return real(self, tokens, ids, text, *more, **named)

    monkeypatch.setattr(FluxTransformer, "forward", counting)
    monkeypatch.setattr(attention._choice, "name", "math")  # plain products: all are counted
    with FlopCounterMode(display=False) as counter:
        method._backward(index, _parts(method, index))
    work = method.work(index)
    assert work.tokens == sum(seen)
    assert work.flops == counter.get_total_flops()


def _parts(method: FlowMethod, index: int) -> Any:
    edits = 0 if index < method.config.t2i_steps else 6
    parts = [("edit", method._edits[:edits])] if edits else []
    return [*parts, ("t2i", method._singles[torch.arange(8 - edits) % 4])]


def test_the_work_of_a_ladd_step_is_its_batch() -> None:
    method, _ = wired(batch=6)
    flops = ladd_flops(method.config, SHAPE, Tokens(5, 4, 4))
    assert method.work(0) == Work(6 * (5 + 4 + 4), flops)


@pytest.mark.parametrize("r1_weight", [0.0, 0.1])
def test_the_passes_that_are_counted_of_ladd_are_those_it_makes(
    r1_weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, _ = wired(r1_weight=r1_weight)
    passes: list[str] = []
    real = method.teacher.features
    method.student.register_forward_hook(lambda *_: passes.append("student"))
    monkeypatch.setattr(
        method.teacher, "features", lambda *a, **k: passes.append("teacher") or real(*a, **k)
    )
    method.step(0)
    tokens = Tokens(5, 4, 4)
    one = step_flops(SHAPE, tokens, method.config.batch)  # the deepest tap is the last block
    assert passes.count("student") == 1
    behind = passes.count("teacher") + 1  # the student's goes backward to the inputs too
    assert ladd_flops(method.config, SHAPE, tokens) == one.training + behind * one.total


def test_every_step_of_a_run_is_measured_also_over_a_resume(tmp_path: Path) -> None:
    method = FlowMethod(toy_config(), toy_pairs(), toy_model())
    method.total_steps = 3
    fit(method, checkpoints=Checkpoints(tmp_path / "checkpoints", every=2))
    again = FlowMethod(toy_config(), toy_pairs(), toy_model())
    fit(
        again,
        checkpoints=Checkpoints(tmp_path / "checkpoints"),
        clock=Clock(again.work),
    )
    rows = again.state.clock
    assert [row["step"] for row in rows] == list(range(6))
    assert all(0 < row["data_wait"] < row["seconds"] for row in rows)
    assert [row["tokens_per_second"] is None for row in rows] == [True] * 3 + [False] * 3


def test_medians_and_stretches_of_a_long_run() -> None:
    rows = [{"step": i, **dict.fromkeys(COLUMNS, float(i)), "utilisation": None} for i in range(45)]
    assert medians(rows)["seconds"] == 22 and medians(rows)["utilisation"] is None
    table = downsampled(rows)
    assert len(table) == 15 and [row["step"] for row in table] == list(range(0, 45, 3))
    assert table[1]["seconds"] == 4.0
    assert medians([]) == dict.fromkeys(COLUMNS)
