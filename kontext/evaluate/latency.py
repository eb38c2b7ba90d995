"""Warm latency of each part of an edit, one image at a time."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kontext.evaluate.bench import Bench
from kontext.evaluate.models import TrainedModels

RUNS, WARM_UP = 10, 2


@dataclass(frozen=True)
class Timing:
    """Milliseconds of `runs` warm runs. `nfe` counts evaluations of the transformer."""

    name: str
    title: str
    median_ms: float
    p90_ms: float
    runs: int
    nfe: int = 0


def measure(
    name: str,
    title: str,
    work: Callable[[], object],
    nfe: int = 0,
    *,
    runs: int = RUNS,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time `work` after a warm-up. On a GPU each run waits for the device."""
    for _ in range(WARM_UP):
        work()
    taken = []
    for _ in range(runs):
        _wait()
        started = clock()
        work()
        _wait()
        taken.append(1000 * (clock() - started))
    median, p90 = np.percentile(taken, [50, 90])
    return Timing(name, title, round(float(median), 3), round(float(p90), 3), runs, nfe)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_edit(models: TrainedModels, bench: Bench) -> dict[str, Any]:
    """Latency of the parts of one edit (the bench's first item), as `latency.json` holds it."""
    item, image = bench.items[0], bench.context[:1]
    side = (image.shape[1], image.shape[2])
    context, prompt = models.encode(image), models.prompt([item.instruction])
    start = models.start([item.pair_id], side)
    guided = models.teacher_guidance != 1.0 and not models.teacher.shape.guidance_embed
    evaluations = models.teacher_steps * (2 if guided else 1)

    def denoise(student: bool, steps: int) -> Callable[[], object]:
        model = models.student if student else models.teacher
        guidance = 1.0 if student else models.teacher_guidance
        return lambda: models.denoise(model, [context], prompt, start, steps, guidance)

    few, many = models.student_steps, models.teacher_steps
    parts = [
        measure("text_encode", "text encoding", lambda: models.prompt([item.instruction])),
        measure("context_encode", "context encoding", lambda: models.encode(image)),
        measure("student", f"denoising, student, {few} steps", denoise(True, few), few),
        measure("decode", "decoding", lambda: models.finish(start, image, context)),
        measure("step", "one denoising step", denoise(True, 1), 1),
        measure("teacher", f"denoising, teacher, {many} steps", denoise(False, many), evaluations),
    ]
    by_name = {part.name: part.median_ms for part in parts}
    fixed = by_name["text_encode"] + by_name["context_encode"] + by_name["decode"]
    return {
        "device": device_name(),
        "batch": 1,
        "image": list(side),
        "student_steps": few,
        "teacher_steps": many,
        "student_ms": round(fixed + by_name["student"], 3),
        "teacher_ms": round(fixed + by_name["teacher"], 3),
        "parts": [asdict(part) for part in parts],
    }


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
