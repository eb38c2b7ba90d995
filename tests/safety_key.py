"""A safety key that is the same in every run: the ids in records depend on it."""

import hashlib
import shutil
from pathlib import Path

from kontext.safety.keys import KEY_FILE

HEX = hashlib.sha256(b"a key for tests").hexdigest()


def put_key(home: Path) -> Path:
    """Give a home the key, as `run_key` would have made it."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / KEY_FILE
    path.touch(0o600)
    path.write_text(HEX)
    return path


def share_key(owner: Path, home: Path) -> None:
    """Give a home the key of another."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(owner / KEY_FILE, home / KEY_FILE)
