"""Ten kills: `python -m tests.faults.kills [--kills 10] [--seed 0] [--until index]`.

`kontext run --direct` on a small source, with two chunk workers. Each time one of them, or the
whole run, gets SIGKILL at a point drawn from the seed: when so many files have been seen in the
store. The same command is given again and must end with the artifacts, the dataset and the ledger
of a run that nobody disturbed: every file the same, nothing lost, nothing twice. Exit 1 otherwise.

With `--training` the stages that encode and train are killed instead: `tests.faults.stage_kills`.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kontext.safety.ledger import Ledger
from tests.faults.lab import RECIPE, Trouble, clean, engine_of, environment, outputs

TWO_WORKERS = (*RECIPE, "ingest.chunk_size=8", "ingest.processes=2", "screen.processes=2")
TABLES = ("images", "pairs", "safety_decisions", "shard_members")
_POLL = 0.05  # seconds: looking costs the run time, too


@dataclass(frozen=True)
class Point:
    """When and what is killed: `worker` or `run`, once `seen` files have been in the store."""

    victim: str
    seen: int


@dataclass(frozen=True)
class Result:
    """What a finished run has left: equal for all of them."""

    files: dict[str, dict[str, str]]  # stage -> file -> SHA-256
    digests: dict[str, str]  # of the artifacts
    ledger: list[tuple[str, int]]  # artifact and decisions of each segment
    tables: dict[str, int]  # rows in the catalog


def points(seed: int, kills: int, files: int, busy: Sequence[int]) -> list[Point]:
    """Points of `kills` runs, alternately of workers and of the run.

    Args:
        files: that an undisturbed run has in all.
        busy: numbers of files at which it had workers.
    """
    draw = random.Random(seed)
    return [
        Point("run", draw.randrange(1, files)) if n % 2 else Point("worker", draw.choice(busy))
        for n in range(kills)
    ]


def start(home: Path, until: str) -> subprocess.Popen[bytes]:
    """The command; what it says is in `home/log.txt`."""
    sets = [word for change in TWO_WORKERS for word in ("--set", change)]
    words = ["run", "--direct", "--recipe", "ci", *sets, "--until", until]
    with (home / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words],
            env=environment(home),
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(home: Path, flow: subprocess.Popen[bytes]) -> None:
    """Wait for its end. Raises Trouble where it failed."""
    if flow.wait(timeout=900):
        last = (home / "log.txt").read_text(errors="replace").strip().splitlines()[-1:]
        raise Trouble(f"exit {flow.returncode}: {last}")


def followed(home: Path, flow: subprocess.Popen[bytes]) -> Iterator[tuple[int, list[int]]]:
    """How many different files have been in the store so far, and the workers; until it ends."""
    seen: set[str] = set()
    while flow.poll() is None:
        for folder, _, names in os.walk(home / "store"):
            if ".kontext-tmp" not in folder:
                seen.update(f"{folder}/{name}" for name in names)
        yield len(seen), _workers(flow.pid)
        time.sleep(_POLL)


def disturbed(home: Path, until: str, point: Point) -> str:
    """Kill at a point, and end the work. What was killed; nothing where the run was faster."""
    flow, killed = start(home, until), "nothing"
    for seen, workers in followed(home, flow):
        if seen < point.seen or (point.victim == "worker" and not workers):
            continue
        os.kill(workers[0] if point.victim == "worker" else flow.pid, signal.SIGKILL)
        killed = f"{point.victim} at {seen} files"
        break
    if point.victim == "worker" or killed == "nothing":
        finish(home, flow)  # without help
    else:
        flow.wait()
        finish(home, start(home, until))
    return killed


def _workers(parent: int) -> list[int]:
    """The chunk workers of a run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(") ")[2].split()
            command = (folder / "cmdline").read_bytes() if int(status[1]) == parent else b""
        except OSError:
            continue
        if b"spawn_main" in command and status[0] != "Z":
            found.append(int(folder.name))
    return sorted(found)


def result(home: Path, until: str) -> Result:
    """What is there after a run. Raises Trouble where store or ledger are not clean."""
    clean(home)
    engine = engine_of(home, recipe=TWO_WORKERS)
    files = outputs(home, until, recipe=TWO_WORKERS)
    digests = {name: digest for name, digest in engine.digests().items() if name in files}
    ledger = [(one.artifact, one.rows) for one in Ledger(engine.objects, home).segments()]
    tables = {}
    for name in TABLES if "index" in files else ():
        table = engine.catalog.query(f"select count(*) as n from {name}")
        tables[name] = table["n"][0].as_py()
    return Result(files, digests, sorted(ledger), tables)


def new_home(root: Path, name: str, like: Path | None = None) -> Path:
    """An empty home, with the safety key of another one: ids in records depend on it."""
    home = root / name
    home.mkdir(parents=True)
    if like is not None:
        shutil.copy(like / "safety.key", home / "safety.key")
    return home


def undisturbed(home: Path, until: str) -> tuple[Result, int, list[int]]:
    """What a run leaves, how many files it has, and at which numbers of them it had workers."""
    flow, samples = start(home, until), []
    for seen, workers in followed(home, flow):
        samples.append((seen, bool(workers)))
    finish(home, flow)
    return result(home, until), samples[-1][0], [seen for seen, busy in samples if busy]


def run_pipeline(root: Path, kills: int, seed: int, until: str) -> int:
    """Kill workers and the run by turns; how many times the end was another one."""
    whole = new_home(root, "undisturbed")
    expected, files, busy = undisturbed(whole, until)
    decisions = sum(rows for _, rows in expected.ledger)
    print(f"undisturbed: {files} files seen, {decisions} decisions, {expected.tables}")
    wrong = 0
    for number, point in enumerate(points(seed, kills, files, busy), 1):
        home = new_home(root, f"killed-{number}", whole)
        began = time.monotonic()
        try:
            killed = disturbed(home, until, point)
            same = result(home, until) == expected
            said = "same digests, files, dataset and ledger" if same else "DIFFERENT"
        except Trouble as trouble:
            killed, same, said = str(point), False, f"FAILED: {trouble}"
        wrong += not same
        print(f"{number:2} {killed:22} {said}  {time.monotonic() - began:.0f} s", flush=True)
        shutil.rmtree(home, ignore_errors=True)
    print(f"{kills - wrong} of {kills} as if undisturbed")
    return wrong


def main() -> int:
    """Kill, and say of each time what was killed and whether all is as it would have been."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, help="10; of each stage with --training 5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until", default="index")
    parser.add_argument("--training", action="store_true", help="encode, finetune and distill")
    parser.add_argument("--only", default="", help="of --training: a regular expression")
    parser.add_argument("--alone", action="store_true", help="of --training: on one rank only")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kontext-kills-") as folder:
        if chosen.training:
            from tests.faults import stage_kills  # imports the stages

            where = (chosen.only, chosen.alone)
            wrong = stage_kills.run(Path(folder), chosen.kills or 5, chosen.seed, *where)
        else:
            wrong = run_pipeline(Path(folder), chosen.kills or 10, chosen.seed, chosen.until)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
