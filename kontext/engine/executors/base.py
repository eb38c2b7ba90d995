"""What executors take and give: tasks and their outcomes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from kontext.engine.stage import ChunkResult


@runtime_checkable
class ReadsFiles(Protocol):
    """A chunk whose work opens files by their path, wherever it runs."""

    def files(self) -> Iterable[Path]:
        """The files, all of which could be read where the chunk was planned."""


@dataclass(frozen=True)
class Task:
    """A chunk on its way to a worker."""

    work: Callable[[Any], ChunkResult]  # a module's function
    chunk: Any
    folder: str  # of its result in the store
    store: str = ""  # URL, where the worker stores the result itself; empty: it hands it back
    memory: int = 0  # bytes that the worker's own data may take; 0: no limit
    log_level: int = 0  # of the lines that come back with the outcome; 0: none, they are logged
    far: bool = False  # it may run on another machine, which may lack files that the chunk names
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets


@dataclass(frozen=True)
class Line:
    """What a worker logged."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True)
class Done:
    """The chunk is done: stored, or `files` (name -> bytes) are to be."""

    files: Mapping[str, bytes]
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Failed:
    """The work raised an error, as it would again."""

    why: str
    trace: str
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Lost:
    """The worker died, or ran out of memory: the same task may go well the next time."""

    why: str
    lines: tuple[Line, ...] = ()


Outcome: TypeAlias = Done | Failed | Lost


class Executor(Protocol):
    """Runs tasks, several at a time. It does not try any again.

    Used by one thread; `close` is called once, whatever has happened.
    """

    def width(self) -> int:
        """How many tasks are to be in flight at most: submit no more."""

    def submit(self, ticket: int, task: Task) -> None:
        """Start a task, which `ticket` names."""

    def next(self) -> tuple[int, Outcome]:
        """Wait until a task has ended; its ticket, and what became of it."""

    def close(self) -> None:
        """End the workers. Tasks that still run are lost."""
