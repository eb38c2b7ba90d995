"""The bar that a person at a terminal sees while an edit is made. Pipes and files see nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


class EditBar:
    """Shows phases and steps: the callbacks `on_phase` and `on_step` of `edit_file`."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._task = None if progress is None else progress.add_task("checking", total=None)

    def on_phase(self, phase: str) -> None:
        """Name what begins: checking, loading, encoding, sampling, decoding, saving."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=phase)

    def on_step(self, done: int, total: int) -> None:
        """Move the bar: `done` of `total` sampling steps."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)


@contextmanager
def edit_bar() -> Iterator[EditBar]:
    """A bar on stderr while the block runs, wiped at its end; a silent one off a terminal."""
    if not sys.stderr.isatty():
        yield EditBar(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield EditBar(progress)
