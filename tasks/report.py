"""Puts the report of an evaluate artifact where people find it: KONTEXT_HOME/report/latest.

The evaluate stage does so itself when it runs; this is for reports that are reused or were made on
another machine.
"""

import os
import shutil
from pathlib import Path

from kontext.errors import ArtifactError
from kontext.store.artifacts.artifact_store import Artifact

PREFIX = "report/"
INDEX = "index.html"
REPORT_URL = "KONTEXT_REPORT_URL"  # set by `kontext up` where its server shows the reports


def report_url() -> str:
    """Where the Prefect server shows the reports, e.g. `/report`; empty where it does not."""
    return os.environ.get(REPORT_URL, "")


def report_link(digest: str) -> str:
    """Path of one evaluation's report on the server; empty where it shows none."""
    return f"{report_url()}/{digest}/{INDEX}" if report_url() else ""


def export_report(artifact: Artifact, home: Path) -> Path:
    """Make `report/<digest>` and `report/latest` hold this report; return the latter's index.

    Raises ArtifactError when the artifact has no report.
    """
    names = artifact.names(PREFIX)
    if PREFIX + INDEX not in names:
        raise ArtifactError(f"evaluate/{artifact.digest} has no report")
    wanted = artifact.path(PREFIX + INDEX).read_bytes()
    for folder in (home / "report" / artifact.digest, home / "report" / "latest"):
        index = folder / INDEX
        if not index.exists() or index.read_bytes() != wanted:
            _copy(artifact, names, folder)
    return home / "report" / "latest" / INDEX


def _copy(artifact: Artifact, names: list[str], folder: Path) -> None:
    fresh = folder.parent / f".{folder.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    for name in names:
        target = fresh / name.removeprefix(PREFIX)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path(name), target)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
