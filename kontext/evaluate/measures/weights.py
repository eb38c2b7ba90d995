"""Where the weights of measures are: folders below `KONTEXT_MODELS`. Nothing is downloaded."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from kontext.errors import MetricUnavailable
from kontext.models.text.pretrained import folder_digest
from kontext.store.given import VARIABLE

CHANGES_RESULTS = False  # for users; no stage runs a public bench


def weights_folder(name: str, get: str) -> Path:
    """The folder `name` of the user's weights. `get`: what has to be in it, or how to get it.

    Raises MetricUnavailable.
    """
    root = os.environ.get(VARIABLE, "")
    folder = Path(root, name)
    if not root or not folder.is_dir():
        raise MetricUnavailable(f"no weights: {VARIABLE} has no folder '{name}' ({get})")
    return folder


def weights_file(name: str, pattern: str, get: str) -> Path:
    """The one file of a pattern in it. Raises MetricUnavailable."""
    folder = weights_folder(name, get)
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise MetricUnavailable(f"{folder} has {len(files)} files {pattern}, not one ({get})")
    return files[0]


@lru_cache(maxsize=16)
def named(path: Path) -> str:
    """`name (16 hex characters)` of a file or a folder, for a card."""
    if path.is_dir():
        return f"{path.name} ({folder_digest(path.parent, (path.name,))})"
    with path.open("rb") as file:
        return f"{path.name} ({hashlib.file_digest(file, 'sha256').hexdigest()[:16]})"
