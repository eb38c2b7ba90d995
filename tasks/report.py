"""Puts the report of an evaluate artifact where people find it: KONTEXT_HOME/report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from kontext.errors import ArtifactError

PREFIX = "report/"


class Files(Protocol):
    """The part of an artifact that is needed here."""

    digest: str

    def names(self, prefix: str = "") -> list[str]: ...

    def path(self, name: str) -> Path: ...


def export_report(artifact: Files, home: Path) -> Path:
    """Copy the report into `home/report`, replacing an older one; return its index.html.

    Raises:
        ArtifactError: the artifact has no report.
    """
    folder, marker = home / "report", home / "report" / ".artifact"
    index = folder / "index.html"
    if index.exists() and marker.exists() and marker.read_text() == artifact.digest:
        return index
    names = artifact.names(PREFIX)
    if PREFIX + "index.html" not in names:
        raise ArtifactError(f"evaluate/{artifact.digest} has no report")
    fresh = home / f"report.{artifact.digest}"
    shutil.rmtree(fresh, ignore_errors=True)
    for name in names:
        target = fresh / name.removeprefix(PREFIX)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path(name), target)
    (fresh / ".artifact").write_text(artifact.digest)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return index
