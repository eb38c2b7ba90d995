"""What a step costs: seconds, tokens per second, model FLOPs utilisation, data wait, memory.

These numbers differ from run to run, so they are kept apart from the losses, which do not.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from kontext.parallel.flops import utilisation

CHANGES_RESULTS = False  # measures time and memory

COLUMNS = ("seconds", "tokens_per_second", "utilisation", "data_wait", "memory_mib")
_waited: ContextVar[float | None] = ContextVar("waited", default=None)


@dataclass(frozen=True)
class Work:
    """One step's work over all ranks: tokens that pass the model, and operations if counted."""

    tokens: int
    flops: int | None = None  # forward and backward, nothing recomputed


@contextmanager
def waiting() -> Iterator[None]:
    """Time inside the block is time that the step waited for its data."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _waited.set((_waited.get() or 0.0) + time.perf_counter() - began)


class Clock:
    """Measures steps.

    Args:
        work: the work of a step, by its number; None where nobody counted it.
        peak: operations per second that all ranks' devices can do; None where it is not known.
        device: whose memory is reported.
    """

    def __init__(
        self,
        work: Callable[[int], Work] | None = None,
        peak: float | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._work, self._peak = work, peak
        self._device = device or torch.device("cpu")
        self._began = 0.0

    def start(self) -> None:
        """A step begins."""
        _waited.set(None)
        self._began = time.perf_counter()

    def lap(self, step: int) -> dict[str, float | None]:
        """The row of the step that ends: `step` and `COLUMNS`; null is what is not known.

        Losses have been read as numbers by now, so an accelerator has done the step's work.
        """
        seconds = time.perf_counter() - self._began
        work = self._work(step) if self._work else None
        used = None
        if work is not None and work.flops is not None and self._peak is not None:
            used = utilisation(work.flops, seconds, self._peak)
        return {
            "step": step,
            "seconds": seconds,
            "tokens_per_second": None if work is None else work.tokens / seconds,
            "utilisation": used,
            "data_wait": _waited.get(),
            "memory_mib": memory_mib(self._device),
        }


def memory_mib(device: torch.device) -> float:
    """The most memory so far: of a GPU's tensors, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10  # bytes there, KiB here


def format_numbers(values: Mapping[str, float | None]) -> str:
    """Numbers of a step in one line: `loss 0.3120, tokens_per_second 6190, utilisation unknown`."""
    return ", ".join(f"{name} {_format(value)}" for name, value in values.items())


def _format(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.0f}"


def medians(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """The median of each of `COLUMNS` over rows; None where no row knows it."""
    found: dict[str, float | None] = {}
    for name in COLUMNS:
        known = [value for row in rows if (value := row[name]) is not None]
        found[name] = statistics.median(known) if known else None
    return found


def downsampled(
    rows: Sequence[dict[str, float | None]], most: int = 20
) -> list[dict[str, float | None]]:
    """At most `most` rows {step, *COLUMNS} for a whole run: medians of stretches of equal size."""
    size = max(1, -(-len(rows) // most))
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [{"step": part[0]["step"], **medians(part)} for part in parts]
