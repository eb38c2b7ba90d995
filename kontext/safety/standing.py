"""Where a home keeps the hash lists that everything is matched against."""

from pathlib import Path

STANDING, SUFFIXES = "hash-lists", (".csv", ".jsonl")


def standing_lists(home: Path | None) -> tuple[Path, ...]:
    """The list files of a home, which every ingest, edit and import is matched against."""
    folder = None if home is None else home / STANDING
    found = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
    return tuple(path.resolve() for path in found if path.suffix in SUFFIXES)
