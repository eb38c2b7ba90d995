"""Warm latency of each part of an edit, one image at a time."""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from kontext.edit.edit_model import EditModel
from kontext.edit.request import Options
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.gates import gates
from kontext.evaluate.models import TrainedModels

RUNS, WARM_UP = 10, 2
MOST, SECONDS = 100, 0.8  # runs of a part go on until there are so many, or have taken so long


@dataclass(frozen=True)
class Timing:
    """Milliseconds of `runs` warm runs. `nfe` counts evaluations of the transformer.

    With fewer than 100 runs p99 lies near the slowest of them.
    """

    name: str
    title: str
    median_ms: float
    p90_ms: float
    p99_ms: float
    runs: int
    nfe: int = 0


def measure(name: str, title: str, work: Callable[[], object], nfe: int = 0) -> Timing:
    """Time RUNS to MOST runs of `work` after a warm-up. On a GPU each run waits for the device."""
    for _ in range(WARM_UP):
        work()
    taken: list[float] = []
    while len(taken) < RUNS or (len(taken) < MOST and sum(taken) < 1000 * SECONDS):
        _wait()
        started = perf_counter()
        work()
        _wait()
        taken.append(1000 * (perf_counter() - started))
    median, p90, p99 = (round(float(share), 3) for share in np.percentile(taken, [50, 90, 99]))
    return Timing(name, title, median, p90, p99, len(taken), nfe)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_edit(models: TrainedModels, bench: Bench, home: Path) -> dict[str, Any]:
    """Latency of the parts of one edit (the bench's first item), as `latency.json` holds it.

    Args:
        home: whose safety lists the checks of an edit look into.
    """
    item, image, student, teacher = bench.items[0], bench.context[0], models.student, models.teacher
    own, one = Options(), Options(steps=1)
    edit = models.edit_of([image], item.instruction, item.pair_id)
    jobs = student.prepare([edit])
    latents = student.denoise(jobs, one)
    few, many = student.settings.steps, teacher.settings.steps
    fast, slow = (partial(editor.denoise, jobs, own) for editor in (student, teacher))
    evaluations = many * each_step(teacher)
    text, length = [item.instruction], student.settings.text_length
    parts = [
        measure("text_encode", "text encoding", lambda: student.text.encode(text, length)),
        measure("context_encode", "context encoding", lambda: student.prepare([edit])),
        measure("student", f"denoising, student, {few} steps", fast, few),
        measure("decode", "decoding", lambda: student.finish(jobs, latents, own)),
        measure("step", "one denoising step", lambda: student.denoise(jobs, one), 1),
        measure("teacher", f"denoising, teacher, {many} steps", slow, evaluations),
    ]
    checks, why = gates(home, item.instruction, image, student.finish(jobs, latents, own)[0])
    if checks is not None:
        title = "safety checks of instruction, context and result"
        parts.append(measure("gates", title, checks))
    by_name = {part.name: part.median_ms for part in parts}
    fixed = by_name["text_encode"] + by_name["context_encode"] + by_name["decode"]
    return {
        "device": device_name(),
        "batch": 1,
        "image": list(image.shape[:2]),
        "student_steps": few,
        "teacher_steps": many,
        "fixed_ms": round(fixed, 3),
        "student_ms": round(fixed + by_name["student"], 3),
        "teacher_ms": round(fixed + by_name["teacher"], 3),
        "gates_missing": why,
        "parts": [asdict(part) for part in parts],
    }


def each_step(editor: EditModel) -> int:
    """Evaluations of the transformer for one step, by the editor's own guidance."""
    return 2 if editor.guidance(Options()).text != 1.0 else 1


def device_name() -> str:
    """The device in words, for example "2 CPU cores (AMD EPYC 9B45)"."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU core{'' if cores == 1 else 's'} ({_cpu_model()})"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
