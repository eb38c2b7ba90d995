"""When freed memory stays in the process, and when it goes back.

It stays while a process trains: page faults dominate small CPU training otherwise.
"""

import ctypes
import logging
import sys

import torch

CHANGES_RESULTS = False  # when memory goes back to the system

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc malloc.h
_log = logging.getLogger(__name__)


def keep_freed_memory() -> bool:
    """Tell glibc not to return freed tensors to the kernel; True where it was applied.

    Without this, activations of a few megabytes are mapped and unmapped at every step, and every
    first touch is a page fault. Linux with glibc only; elsewhere nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        _log.info("no glibc mallopt here: the allocator is left alone")
        return False
    return bool(
        mallopt(_M_MMAP_MAX, 0)
        and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        and mallopt(_M_TOP_PAD, 256 << 20)
    )


def give_back_memory() -> None:
    """Give freed memory to the system and to the device: other processes are about to need it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            _log.info("no glibc malloc_trim here: freed memory stays in the process")
