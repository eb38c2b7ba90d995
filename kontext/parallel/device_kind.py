"""For which kind of device code takes its paths: that of the tensors, save in a rehearsal.

`kontext.train.plan` rehearses a step for GPUs where there is none, on tensors that hold no numbers
and say that they are on the CPU. What a GPU's path is, and what of it is the host's, is asked here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_acting: ContextVar[str | None] = ContextVar("acting", default=None)
_host: ContextVar[bool] = ContextVar("host", default=False)


def kind_of(device: torch.device | str) -> str:
    """`cpu`, `cuda`, …: the device's own kind, or the kind that is rehearsed for."""
    return _acting.get() or torch.device(device).type


def rehearsed_for() -> str | None:
    """The kind of device that is rehearsed for; None outside of rehearsals."""
    return _acting.get()


@contextmanager
def acting_for(kind: str) -> Iterator[None]:
    """Inside the block all devices are taken for one of `kind`."""
    token = _acting.set(kind)
    try:
        yield
    finally:
        _acting.reset(token)


@contextmanager
def on_the_host() -> Iterator[None]:
    """Inside the block memory is the host's, for whatever device the work is."""
    token = _host.set(True)
    try:
        yield
    finally:
        _host.reset(token)


def is_host_memory() -> bool:
    """Whether memory that is taken now is the host's beside a device of its own."""
    return _host.get()
