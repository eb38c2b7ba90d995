"""Retention: what nothing needs goes after a grace period: artifacts, scratch, snapshots."""

import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.forms import RetentionForm
from flows.names import own_name
from flows.overlap import refuse_overlap
from kontext.store.artifacts.garbage import Collection, collect_garbage
from kontext.store.catalog.compaction import Compaction
from tasks.markdown import size, table
from tasks.workspace import open_artifacts, open_catalog, places

RETENTION_KEY = "retention"


@flow(
    name="retention",
    flow_run_name=lambda: own_name(lambda: "retention"),
    persist_result=False,
)
def retention(options: RetentionForm = RetentionForm()) -> Any:  # noqa: B008
    """Remove artifacts that no tag needs, unused blobs, old scratch, and compact the catalog.

    Args:
        options: How much
    """
    if other := refuse_overlap():
        return other
    at = places(options.store)
    grace = timedelta(days=options.grace_days)
    catalog = open_catalog(at)
    keep = catalog.referenced()  # what dataset versions were made from
    found = collect_garbage(open_artifacts(at), dry_run=not options.delete, grace=grace, keep=keep)
    folders = stale_scratch(at.home, grace)
    for folder in folders if options.delete else ():
        shutil.rmtree(folder, ignore_errors=True)
    lake = catalog.compact(grace, dry_run=not options.delete)
    word = "removed" if options.delete else "would be removed"
    create_markdown_artifact(_page(found, folders, lake, word), RETENTION_KEY, word)
    counts = {
        "artifacts": len(found.artifacts),
        "objects": len(found.objects),
        "bytes": found.bytes,
        "scratch": len(folders),
        "snapshots": lake.snapshots,
        "lake_files": lake.files,
        "deleted": options.delete,
    }
    return Completed(message=_line(counts), data=counts)


def _line(counts: dict[str, Any]) -> str:
    """What was or would be removed, for the run's state."""
    what = (
        f"{counts['artifacts']} artifacts, {counts['objects']} objects ({size(counts['bytes'])})",
        f"{counts['scratch']} scratch folders",
        f"{counts['snapshots']} catalog snapshots and {counts['lake_files']} files of the catalog",
    )
    if counts["deleted"]:
        return f"removed: {', '.join(what)}"
    return f"would be removed: {', '.join(what)}; remove with: kontext retention --delete"


def stale_scratch(home: Path, grace: timedelta) -> list[Path]:
    """Scratch folders (one per artifact) in which nothing was touched for `grace`."""
    limit = time.time() - grace.total_seconds()
    found = []
    for folder in sorted((home / "scratch").glob("*/*")):
        times = [path.stat().st_mtime for path in (folder, *folder.rglob("*"))]
        if max(times) < limit:
            found.append(folder)
    return found


def _page(found: Collection, folders: list[Path], lake: Compaction, word: str) -> str:
    rows = [("artifacts", len(found.artifacts)), ("objects", len(found.objects))]
    rows += [("scratch folders", len(folders)), ("catalog snapshots", lake.snapshots)]
    rows += [("catalog files, merged", lake.merged), ("catalog files, unused", lake.files)]
    listed = "\n".join(f"- `{stage}/{digest}`" for stage, digest in found.artifacts[:200])
    head = f"# Retention: {size(found.bytes)} {word}\n\n{table(('what', 'count'), rows)}"
    return f"{head}\n\n{listed}\n"
