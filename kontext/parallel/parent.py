"""Processes that end with the one that has started them, however that one ends."""

import ctypes
import signal
import sys

CHANGES_RESULTS = False  # when a process ends is no result


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent ends (Linux only)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, number)
