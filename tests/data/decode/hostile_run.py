"""Ingests a folder in this process, and says how much memory that took."""

import json
import resource
import sys
from pathlib import Path

from kontext.data.decode.process import PROCESS
from kontext.data.sources.folder import FolderSource
from schemas.recipe import Recipe
from schemas.sections.data import IngestConfig
from tests.stages.stage_harness import Harness


def harness(work: Path, pictures: Path) -> Harness:
    source = FolderSource(path=str(pictures), license_spdx="CC0-1.0", author="me")
    config = IngestConfig(sources=(source,), processes=1)
    return Harness(work, Recipe(name="test", ingest=config))


def peaks() -> dict[str, int]:
    """Bytes that this process, and the largest of its children, have taken at most."""
    PROCESS.close()
    return {
        name: resource.getrusage(who).ru_maxrss * 1024
        for name, who in (("self", resource.RUSAGE_SELF), ("child", resource.RUSAGE_CHILDREN))
    }


def main(folder: Path) -> None:
    """Ingest `warm`, then `pictures`, and print the peaks before and after."""
    harness(folder / "first", folder / "warm").run("ingest")
    before = peaks()
    harness(folder, folder / "pictures").run("ingest")
    print(json.dumps({"before": before, "after": peaks()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
