"""This process, one chunk after the other: no process to start, and none to lose."""

from kontext.engine.executors.base import Outcome, Task
from kontext.engine.executors.worker import perform
from kontext.store.objects import ObjectStore


class Here:
    """See `Executor`."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._done: list[tuple[int, Outcome]] = []

    def width(self) -> int:
        """See `Executor`."""
        return 1

    def submit(self, ticket: int, task: Task) -> None:
        """See `Executor`."""
        self._done.append((ticket, perform(task, self._objects)))

    def next(self) -> tuple[int, Outcome]:
        """See `Executor`."""
        return self._done.pop()

    def close(self) -> None:
        """See `Executor`."""
