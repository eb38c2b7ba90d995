"""Paths as people write them."""

import os
from pathlib import Path


def expanded(path: str) -> Path:
    """`~` and `~name` become home folders; a name that nobody here has stays as it is written.

    `path` must hold no NUL character.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # pathlib's, where there is no such user
        return Path(path)


def seen_from(folder: Path, path: str) -> str:
    """An absolute path for one that is written from `folder`; an address (`s3://…`) as it is."""
    return path if "://" in path else str(folder / expanded(path))


def there(folder: Path, name: str) -> str:
    """An absolute path for one that is written from `folder`, where something is; else the name."""
    if not name or "\0" in name:
        return name
    path = folder / expanded(name)
    return str(path) if path.exists() else name


def file_or_in_home(path: str, home: Path | None) -> Path | None:
    """The file that `path` names, from here or else from the home; None where there is none."""
    places = (expanded(path), *([home / path] if home else ()))
    return next((place.resolve() for place in places if place.is_file()), None)


def node_modules() -> Path:
    """Where npm put its packages: `KONTEXT_NODE_MODULES`, or in the project's folder."""
    override = os.environ.get("KONTEXT_NODE_MODULES")
    if override:
        return Path(override)
    here = Path.cwd() / "node_modules"
    return here if here.is_dir() else Path(__file__).parents[1] / "node_modules"
