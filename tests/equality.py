"""Whether two versions of the code make the same bytes: a recipe in a fresh store, compared.

    python -m tests.equality make before.json [--recipe ci] [--ranks 2] [--s3] [--set key=value]
    python -m tests.equality compare before.json after.json

`make` runs every stage in a new folder, with the code fingerprint fixed so that a change of code
alone gives no other digest, and writes the SHA-256 of every artifact file. Run it in a checkout of
each version, on one machine with one OMP_NUM_THREADS (kernels differ between processors, and sums
between numbers of threads), then compare. Use it before and after a change that must not change
results: a move, a rename, another way to launch ranks, another store.

A few files hold times or digests of other artifacts and are compared by name only: see `TIMED`.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.seaweed import KEYS, seaweed
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.stages import STAGES
from schemas.recipes import load_recipe
from tests.safety_key import put_key

# What names code, and the constant that stands for it here.
CODE, EDITS = "0" * 64, ("kontext.edit.teacher_edits._version", "0" * 24)
# Files that hold seconds, digests of other artifacts or the day: compared by name only.
TIMED: tuple[tuple[str, str], ...] = (
    ("distill", "teacher_edits.json"),
    ("evaluate", "latency.json"),
    ("evaluate", "report/index.html"),
    ("index", "index.json"),
    ("publish", "dataset_card.md"),
    ("publish", "lineage.json"),
    ("publish", "lineage.mmd"),
    ("publish", "model/README.md"),
)
_TRAINING = ("autoencoder", "encode", "finetune", "distill")


def overrides(ranks: int) -> tuple[str, ...]:
    """Recipe overrides: every launching stage works on `ranks` ranks; 1: in process."""
    if ranks == 1:
        return ()
    settings = (("launcher", "torchrun"), ("ranks", ranks))
    return tuple(f"{s}.launch.{key}={value}" for s in _TRAINING for key, value in settings)


def make(url: str, home: Path, changes: tuple[str, ...], recipe: str = "ci") -> dict[str, Any]:
    """Run a recipe with overrides; stage -> digest and SHA-256 per file of its artifact."""
    put_key(home)  # else the ids in decisions differ from run to run
    with ExitStack() as stack:
        for module in [m for name, m in sys.modules.items() if name.startswith("kontext.engine.")]:
            if hasattr(module, "code_digest"):
                stack.enter_context(patch.object(module, "code_digest", lambda _: CODE))
        stack.enter_context(patch(EDITS[0], lambda *_: EDITS[1]))
        engine = Engine(
            load_recipe(recipe, changes), url, str(home / "catalog.sqlite"), home, stages=STAGES
        )
        reporter = Reporter(logging.getLogger("kontext"))
        made = {name: engine.run_stage(name, reporter).manifest for name in engine.digests()}
    return {
        name: {
            "digest": manifest.digest,
            "config": manifest.config,
            "files": {file.name: file.sha256 for file in manifest.files},
        }
        for name, manifest in made.items()
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """One line for each stage, setting or file that differs."""
    for stage in sorted(set(before) | set(after)):
        one, other = before.get(stage), after.get(stage)
        if one is None or other is None:
            yield f"{stage}: only {'after' if one is None else 'before'}"
            continue
        for key in sorted(set(one["config"]) | set(other["config"])):
            if one["config"].get(key) != other["config"].get(key):
                yield f"{stage}: setting {key} differs"
        for name in sorted(set(one["files"]) | set(other["files"])):
            if one["files"].get(name) == other["files"].get(name):
                continue
            there = "" if name in one["files"] else " only after"
            there = there if name in other["files"] else " only before"
            if there or (stage, name) not in TIMED:
                yield f"{stage}/{name}:{there or ' bytes differ'}"


@contextmanager
def fresh_store(folder: Path, s3: bool) -> Iterator[str]:
    """URL of an empty store: a folder, or a bucket of a SeaweedFS started for it."""
    if not s3:
        yield f"file://{folder}/store"
        return
    with seaweed(folder / "weed") as endpoint, patch.dict(os.environ, KEYS):
        os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
        yield "s3://equality/ci"


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns 1 where `compare` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("file", type=Path)
    making.add_argument("--recipe", default="ci")
    making.add_argument("--ranks", type=int, default=1)
    making.add_argument("--s3", action="store_true")
    making.add_argument("--set", action="append", default=[])
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    asked = parser.parse_args(argv)
    if asked.command == "make":
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        with tempfile.TemporaryDirectory(prefix="equality-") as name:
            folder = Path(name)
            with fresh_store(folder, asked.s3) as url:
                changes = (*overrides(asked.ranks), *asked.set)
                found = make(url, folder / "home", changes, asked.recipe)
        asked.file.write_text(json.dumps(found, indent=1, sort_keys=True))
        return 0
    before, after = (json.loads(path.read_text()) for path in (asked.before, asked.after))
    lines = list(differences(before, after))
    print(
        "\n".join(lines) or f"same bytes in {sum(len(s['files']) for s in before.values())} files"
    )
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
