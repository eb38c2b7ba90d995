"""`kontext` with a bomb: `python -m tests.faults.child POINT COUNT -- run --direct …`.

The process kills itself with SIGKILL when it comes to POINT for the COUNT-th time. The points are
functions of the library; patching them here keeps the library free of test switches.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

# name -> (module, attribute path, whether to die before or after the call)
POINTS: dict[str, tuple[str, str, str]] = {
    "chunk-start": ("kontext.engine.executors.here", "perform", "before"),
    "chunk-done": ("kontext.engine.executors.here", "perform", "after"),
    "blob": ("kontext.store.artifacts.artifact_store", "ArtifactWriter._add", "after"),
    "before-publish": ("kontext.store.objects.local", "LocalStore._publish", "before"),
    "before-ledger": ("kontext.safety.ledger", "Ledger.append", "before"),
    "after-ledger": ("kontext.safety.ledger", "Ledger.append", "after"),
    "before-manifest": (
        "kontext.store.artifacts.artifact_store",
        "ArtifactWriter.commit",
        "before",
    ),
    "after-manifest": ("kontext.store.artifacts.artifact_store", "ArtifactWriter.commit", "after"),
    "before-commit": ("kontext.store.catalog.catalog", "Catalog.commit_dataset", "before"),
    "after-commit": ("kontext.store.catalog.catalog", "Catalog.commit_dataset", "after"),
    "in-commit": ("kontext.store.catalog.rows", "insert_dataset", "after"),
    "before-record": ("kontext.store.catalog.catalog", "Catalog.record", "before"),
    "before-tag": ("kontext.store.artifacts.artifact_store", "ArtifactStore.tag", "before"),
    "checkpoint-start": ("kontext.train.loop.checkpoint", "Checkpoints.save", "before"),
    "checkpoint-done": ("kontext.parallel.checkpoint", "finish", "after"),
}


def arm(point: str, count: int, number: int = signal.SIGKILL) -> None:
    """Make this process kill itself at a point."""
    module_name, path, when = POINTS[point]
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real: Callable[..., Any] = getattr(owner, name)
    seen = 0

    def bombed(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == count and when == "before":
            os.kill(os.getpid(), number)
        result = real(*args, **kwargs)
        if seen == count and when == "after":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, bombed)


def main() -> None:
    point, count, dashes, *arguments = sys.argv[1:]
    assert dashes == "--"
    arm(point, int(count))
    from flows.cli import main as kontext

    sys.argv = ["kontext", *arguments]
    kontext()


if __name__ == "__main__":
    main()
