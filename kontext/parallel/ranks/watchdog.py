"""Ends a process whose training makes no step any more, and says where it hangs.

A run that waits for a lost peer or a dead server holds its devices until somebody looks. Ranks
wait for each other in every step, so where one stalls, all do, and each writes its own stacks.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

CHANGES_RESULTS = False  # ends processes that hang

_log = logging.getLogger(__name__)
EXIT_CODE = 75  # EX_TEMPFAIL: the same run may succeed later
_GRACE = 2.0  # seconds that the other ranks have to write their stacks before one is gone


class Watchdog:
    """Use as a context; `beat` after every step.

    Args:
        seconds: without a beat for so long, or since it began, the process is ended; 0: never.
        stacks: the file to write stacks to.
        tell: called with one line about what happened, before the end.
    """

    def __init__(
        self, seconds: float, stacks: Path, tell: Callable[[str], None] = lambda line: None
    ) -> None:
        self.seconds, self.stacks, self._tell = seconds, stacks, tell
        self._beats, self._last = 0, time.monotonic()
        self._over = threading.Event()

    def __enter__(self) -> Watchdog:
        self._last = time.monotonic()
        self._over.clear()
        if self.seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def beat(self) -> None:
        """A step was done."""
        self._beats += 1
        self._last = time.monotonic()

    def _watch(self) -> None:
        pause = min(1.0, self.seconds / 4)
        while not self._over.wait(pause):
            if time.monotonic() - self._last > self.seconds:
                self._end()

    def _end(self) -> None:
        line = (
            f"no step for {self.seconds:g} s, after {self._beats} in this process: ended it; "
            f"the stacks of its threads are in {self.stacks}"
        )
        with self.stacks.open("w") as file:
            file.write(f"{line}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        _log.critical(line)
        self._tell(line)
        time.sleep(_GRACE)
        os._exit(EXIT_CODE)  # the thread that hangs can be ended in no other way
