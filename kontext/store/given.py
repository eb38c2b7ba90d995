"""Model files that are given in a folder: below `KONTEXT_MODELS`. They come from packages else."""

import logging
import os
from pathlib import Path

VARIABLE = "KONTEXT_MODELS"
_log = logging.getLogger("kontext")


def given_folder(name: str) -> Path | None:
    """The folder of a model below `KONTEXT_MODELS`, if it is there."""
    root = os.environ.get(VARIABLE)
    if not root:
        return None
    folder = Path(root, name)
    if folder.is_dir():
        return folder
    _log.warning("%s=%s has no folder %s: its Python package is used", VARIABLE, root, name)
    return None
