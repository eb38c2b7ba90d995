"""What ingest's recipe section points to on disk: image folders and hash lists.

Their contents belong to the artifact's identity: a picture added to a folder, or a new hash list,
must not meet a finished manifest and be called "reused".
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from schemas.recipes import FolderSource, IngestConfig


def fingerprint(config: IngestConfig) -> str:
    """SHA-256 over folder listings (name, size, modification time) and hash lists' bytes.

    Packaged art is pinned by version and needs no look. A missing folder or list counts as empty:
    the stage itself refuses it with a clear message.
    """
    digest = hashlib.sha256()
    for source in config.sources:
        if isinstance(source, FolderSource):
            root = Path(source.path).expanduser()
            for path in sorted(p for p in root.rglob("*") if p.is_file()):
                status = path.stat()
                name = path.relative_to(root).as_posix()
                digest.update(f"{name}\x1f{status.st_size}\x1f{status.st_mtime_ns}\n".encode())
    for listed in config.hash_lists:
        path = Path(listed).expanduser()
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()
