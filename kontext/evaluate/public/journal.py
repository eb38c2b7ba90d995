"""What a run has done so far, in its folder: a process that is killed leaves no half of it.

`run.json` says which run it is; another one may not go on in the same folder. An item is done when
its line is in `edits.jsonl`. Its picture is written before that, by a rename, and only after the
policy has let it pass: a picture without a line is taken as it is.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kontext.errors import BenchError

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_RUN, _LINES, _PICTURES, _LOCK = "run.json", "edits.jsonl", "edits", ".lock"
Row = dict[str, Any]


class Journal:
    """The rows of a run's items, by their ids, and their pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, Row] = {}

    @classmethod
    @contextmanager
    def open(cls, folder: Path, run: Mapping[str, Any]) -> Iterator["Journal"]:
        """Begin a run, or go on with it.

        Raises:
            BenchError: another process works there, the folder has another run, or files that are
                none of a run.
        """
        own = cls(folder)
        lock = FileLock(folder / _LOCK, timeout=0)
        try:
            (folder / _PICTURES).mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise BenchError(f"another process runs a bench in {folder}") from error
        except OSError as error:
            raise BenchError(f"cannot write in {folder}: {error.strerror or error}") from error
        try:
            own._begin(run)
            yield own
        finally:
            lock.release()

    @classmethod
    def finished(cls, folder: Path, items: Sequence[str]) -> "Journal":
        """A run that is only read. Raises BenchError where an item has no row yet."""
        own = cls(folder)
        own.rows = {row["item"]: row for row in whole_lines(folder / _LINES, mend=False)}
        if missing := [item for item in items if item not in own.rows]:
            raise BenchError(f"{folder} is not done: {len(missing)} items have no row yet")
        return own

    def _begin(self, run: Mapping[str, Any]) -> None:
        said = json.loads(json.dumps(run))
        before = read_json(self.folder / _RUN)
        if before is None:
            if (self.folder / _LINES).exists():
                raise BenchError(f"{self.folder} has lines of a run, but no {_RUN}")
            write_whole(self.folder / _RUN, (json.dumps(said, indent=1) + "\n").encode())
        elif before != said:
            names = [name for name in {**before, **said} if before.get(name) != said.get(name)]
            raise BenchError(
                f"{self.folder} has another run (another {', '.join(names)}): give another --out"
            )
        self.rows = {row["item"]: row for row in whole_lines(self.folder / _LINES)}

    def add(self, row: Row) -> None:
        """Enter an item's row: it is on the disk when this returns. The last one counts."""
        add_line(self.folder / _LINES, row)
        self.rows[row["item"]] = row

    def picture(self, item: str) -> Path:
        """Where an item's picture is: its id as a name of a file, with a digest."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", item)[:80]
        digest = hashlib.sha256(item.encode()).hexdigest()[:8]
        return self.folder / _PICTURES / f"{name}-{digest}.png"

    def forget(self, outcomes: tuple[str, ...]) -> int:
        """Make items with these outcomes undone. Returns how many there were."""
        old = [item for item, row in self.rows.items() if row["outcome"] in outcomes]
        for item in old:
            del self.rows[item]
        return len(old)


def whole_lines(path: Path, mend: bool = True) -> Iterator[Row]:
    """All whole lines of a file of JSON, if it is there. What a kill has cut off is taken away
    (`mend`). Raises BenchError."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if mend and len(whole) < len(data):
        write_whole(path, whole)
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise BenchError(f"{path}:{number} is no line of a run") from error


def add_line(path: Path, row: Row) -> None:
    """Append a line of JSON: it is on the disk when this returns."""
    line = json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n"
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file. Raises BenchError."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise BenchError(f"{path} is no JSON object")
    return found


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole, or as it was."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
