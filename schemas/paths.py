"""Paths as people write them."""

from pathlib import Path


def expanded(path: str) -> Path:
    """`~` and `~name` become home folders; a name that nobody here has stays as it is written.

    `path` must hold no NUL character.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # pathlib's, where there is no such user
        return Path(path)
