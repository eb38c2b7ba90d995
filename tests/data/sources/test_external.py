from __future__ import annotations

from pathlib import Path

from kontext.data.sources.external import fingerprint
from schemas.recipes import FolderSource, IngestConfig, SignSource


def test_it_changes_with_a_folders_files_and_with_a_hash_list(tmp_path: Path) -> None:
    folder, listed = tmp_path / "pictures", tmp_path / "list.csv"
    folder.mkdir()
    config = IngestConfig(
        sources=(FolderSource(path=str(folder)), SignSource()), hash_lists=(str(listed),)
    )
    seen = [fingerprint(config)]
    (folder / "a.png").write_bytes(b"one")
    seen.append(fingerprint(config))
    (folder / "a.png").write_bytes(b"other")
    seen.append(fingerprint(config))
    listed.write_text("sha256,00")
    seen.append(fingerprint(config))
    assert len(set(seen)) == 4
    assert fingerprint(config) == seen[-1]
