"""The bar that a person at a terminal sees while an edit is made. Pipes and files see nothing."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class EditBar:
    """Shows phases and steps: the callbacks `on_phase` and `on_step` of `edit_file`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("checking", total=None)

    def on_phase(self, phase: str) -> None:
        """Name what begins: checking, loading, encoding, sampling, decoding, saving."""
        self._progress.update(self._task, description=phase)

    def on_step(self, done: int, total: int) -> None:
        """Move the bar: `done` of `total` sampling steps."""
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def edit_bar() -> Iterator[EditBar]:
    """A bar on stderr while the block runs, wiped at its end; a silent one off a terminal."""
    text, silent = TextColumn("{task.description:9}"), not sys.stderr.isatty()
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True, quiet=silent)
    with Progress(*columns, console=console, transient=True, disable=silent) as progress:
        yield EditBar(progress)


@contextmanager
def work_bar() -> Iterator[Callable[[float, float, str], None]]:
    """A bar on stderr as a callback (done, total, what); a silent one off a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    silent = not sys.stderr.isatty()
    console = Console(stderr=True, quiet=silent)
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=silent)
    with bar:
        task = bar.add_task("loading", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )
