"""What the benchmarks share: taking turns, medians, the device's name, and results as JSON."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def synchronise(device: torch.device) -> None:
    """Wait for the device to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def take_turns(
    runs: Mapping[str, Callable[[], object]], device: torch.device, repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each run, round by round, so that a busy machine slows all of them alike."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + repeats):
        for name, run in runs.items():
            took = seconds(run, device)
            if turn >= warmup:
                found[name].append(took)
    return found


def ratio(times: Mapping[str, list[float]], ours: str, peer: str) -> float:
    """How many times as fast `ours` is: the median of the ratios of the same round."""
    return statistics.median(p / o for p, o in zip(times[peer], times[ours], strict=True))


def device_name(device: torch.device) -> str:
    """What the hardware is called; empty where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if device.type == "cpu" and info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() if device.type == "cpu" else ""


def save(name: str, device: torch.device, record: Mapping[str, Any]) -> Path | None:
    """Write `results/NAME.json`; nothing where the device has no name, for figures need one."""
    found = device_name(device)
    if not found:
        print("the device has no name: nothing is written to results/")
        return None
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{device.type}.json"
    facts = {"device": found, "torch": torch.__version__, "threads": torch.get_num_threads()}
    path.write_text(json.dumps({**facts, **record}, indent=2, sort_keys=True) + "\n")
    return path
