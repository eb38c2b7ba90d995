"""Files that only their owner may read: keys."""

import os
import secrets
from pathlib import Path

from kontext.errors import GateError, KontextError

CHANGES_RESULTS = False  # what is in them counts


def write_once(path: Path, text: str) -> None:
    """Write a file of mode 0600 where there is none, whole or not at all; the first writer wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def refuse_shared(path: Path, error: type[KontextError] = GateError) -> None:
    """Raise `error` where others may read the file."""
    if path.stat().st_mode & 0o077:
        raise error(f"{path} can be read by others: chmod 600 {path}")
