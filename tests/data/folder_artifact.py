"""An artifact that is written and read in a plain folder, for the codecs of its files."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class FolderArtifact:
    def __init__(self, folder: Path) -> None:
        self.folder, self.scratch = folder / "files", folder / "scratch"
        self.folder.mkdir()
        self.scratch.mkdir()

    def add_file(self, name: str, path: Path) -> None:
        shutil.copy(path, self.folder / name)

    def add_table(self, name: str, table: pa.Table) -> None:
        pq.write_table(table, self.folder / name)

    def names(self, prefix: str = "") -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name.startswith(prefix))

    def path(self, name: str) -> Path:
        return self.folder / name

    def table(self, name: str) -> pa.Table:
        return pq.read_table(self.folder / name)
