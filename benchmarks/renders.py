"""Real renders from ingest to shard: what a picture costs, and how much memory each process takes.

    python -m benchmarks.renders [--pictures 200000] [--keep HOME]

Draws emoji of eight sets and DiceBear's characters, figures and landscapes, a tenth of the pictures
first and then all, each in a store of its own. Every stage runs in a process of its own, as a
schedule would run it, with the recipe's two workers. Prints for every stage its seconds, the
processor seconds for a picture, and the largest resident set of the stage's process and of its
workers; then the goals with their figures, exit 1 where one is not reached. With --keep the stores
stay in HOME, and a run that was stopped, or killed, goes on there. What a stage takes is written
down every ten seconds, so what it took before a stop counts; what it had in work then it does
twice, and that counts too. Results go to benchmarks/results/renders-cpu.json.

200,000 pictures take hours: the classifiers alone need about 0.1 s of a core for each.
"""

import argparse
import json
import logging
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.goals import goal
from benchmarks.timing import save

STAGES = ("ingest", "mine", "caption", "screen", "shard")
MEMORY_GB, _GROWTH = 3.0, 1.15
_EMOJI_IN, _PEOPLE_IN = 160, 2000  # one concept for so many pictures, and one of people
_STYLES = ("micah", "toon-head", "dylan", "big-smile", "critters", "moods", "sprouts", "planets",
           "landscape")  # fmt: skip
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
Record = dict[str, Any]


def sections(pictures: int) -> dict[str, Any]:
    """Sections of a recipe with about so many pictures, of which emoji are always one in twenty."""
    icons = {
        "kind": "emoji",
        "max_concepts": max(1, pictures // _EMOJI_IN),
        "max_people": pictures // _PEOPLE_IN,
        "families": [],
    }
    drawn = {"kind": "dicebear", "styles": _STYLES, "art_styles": ["line art", "pixel art"]}
    rest, each = pictures - planned(icons), planned(drawn | {"seeds": 1})
    drawn |= {"movement": 5, "seeds": max(1, rest // each)}
    return {
        "name": f"renders-{pictures}",
        "ingest": {"sources": [icons, drawn]},
        "mine": {"pairs_per_category": max(50, pictures // 2), "t2i_singles": pictures // 10},
        "as_default": False,
    }


def planned(source: Mapping[str, Any]) -> int:
    """How many pictures a source plans, or what stands in for it where npm's are missing."""
    from kontext.data.sources.fallback import resolve
    from schemas.sections.data import IngestConfig

    sources, _ = resolve(IngestConfig.model_validate({"sources": [source]}))
    return sum(len(import_module(type(one).__module__).plan(one)) for one in sources)


def one_stage(name: str, pictures: int, folder: Path) -> Record:
    """A stage in this process: seconds, memory, and what it counted."""
    from kontext.engine.run import Engine
    from kontext.engine.stage import Reporter
    from kontext.stages import STAGES as GRAPH
    from schemas.recipes import Recipe

    recipe = Recipe.model_validate(sections(pictures))
    engine = Engine(recipe, f"file://{folder}/store", "", folder / "home", stages=GRAPH)
    began = time.perf_counter()
    outcome = engine.run_stage(name, Reporter(logging.getLogger("renders")))
    seconds = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    numbers = {
        key: value
        for key, value in outcome.manifest.metrics.items()
        if key in ("images_planned", "images_kept", "pairs_screened", "pairs_accepted", "shards")
    }
    return {
        "seconds": seconds,
        "cpu": sum(one.ru_utime + one.ru_stime for one in used),
        "peak_gb": dict(
            zip(("own", "worker"), (one.ru_maxrss / 2**20 for one in used), strict=True)
        ),
        **numbers,
    }


def measured(pictures: int, folder: Path) -> dict[str, Record]:
    """All stages, those that `folder` has no record of in processes of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / "measured.json"
    found: dict[str, Record] = json.loads(notes.read_text()) if notes.exists() else {}
    for name in STAGES:
        if "cpu" not in found.get(name, {}):
            before = found.get(name, {}).get("parts", [])
            command = [sys.executable, "-m", "benchmarks.renders", "--stage", name]
            command += ["--pictures", str(pictures), "--keep", str(folder)]
            note = partial(_noted, notes, found, name, before)
            found[name] = whole(before, watched(command, note))
            _write(notes, found)
        print(line(name, found[name], found["ingest"]["images_planned"]), flush=True)
    return found


def watched(command: Sequence[str], note: Callable[[Record], None], every: float = 10.0) -> Record:
    """The record that a command prints; `note` gets what it has taken so far every few seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while True:
        try:
            said, _ = process.communicate(timeout=every)
        except subprocess.TimeoutExpired:
            note({"seconds": time.perf_counter() - began} | taken(process.pid))
            continue
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        record: Record = json.loads(said.splitlines()[-1])
        return record


def taken(pid: int) -> Record:
    """Processor seconds of a living process and all it started, and the largest memory of each."""
    own = psutil.Process(pid)
    cpu, peaks = 0.0, {"own": 0.0, "worker": 0.0}
    for one in (own, *own.children(recursive=True)):
        try:
            times, status = one.cpu_times(), Path(f"/proc/{one.pid}/status").read_text()
        except (psutil.NoSuchProcess, FileNotFoundError):
            continue  # its parent has its seconds now, or at the next look
        cpu += times.user + times.system + times.children_user + times.children_system
        peak = int(found[1]) / 2**20 if (found := _PEAK.search(status)) else 0.0
        who = "own" if one == own else "worker"
        peaks[who] = max(peaks[who], peak)
    return {"cpu": cpu, "peak_gb": peaks}


def whole(before: Sequence[Record], last: Record) -> Record:
    """A stage's record: its last part, and what the parts before it took."""
    parts = (*before, last)
    both = {key: sum(part[key] for part in parts) for key in ("seconds", "cpu")}
    peaks = {who: max(part["peak_gb"][who] for part in parts) for who in ("own", "worker")}
    return last | both | {"peak_gb": peaks, "stops": len(before)}


def _noted(
    notes: Path, found: Mapping[str, Record], name: str, before: Sequence[Record], part: Record
) -> None:
    _write(notes, {**found, name: {"parts": [*before, part]}})


def _write(notes: Path, found: Mapping[str, Record]) -> None:
    new = notes.with_suffix(".new")
    new.write_text(json.dumps(found))
    new.replace(notes)


def line(name: str, record: Record, pictures: int) -> str:
    """A stage's figures."""
    peak = record["peak_gb"]
    told = f" (stopped {record['stops']} x)" if record["stops"] else ""
    return (
        f"{name:8}{record['seconds']:9.1f} s{1000 * record['cpu'] / pictures:9.2f} ms of CPU a "
        f"picture, own memory {peak['own']:.2f} GiB, a worker's {peak['worker']:.2f} GiB{told}"
    )


def cost(found: Mapping[str, Record]) -> float:
    """Processor seconds for a planned picture."""
    total: float = sum(record["cpu"] for record in found.values())
    return total / found["ingest"]["images_planned"]


def main(arguments: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200_000)
    parser.add_argument("--keep", type=Path, metavar="HOME")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.stage:
        print(json.dumps(one_stage(args.stage, args.pictures, args.keep)))
        return 0
    with tempfile.TemporaryDirectory(prefix="kontext-renders-") as temporary:
        return compare(args.pictures, args.keep or Path(temporary))


def compare(pictures: int, folder: Path) -> int:
    """A tenth and all, printed, judged and saved."""
    found: dict[int, dict[str, Record]] = {}
    for size in (pictures // 10, pictures):
        print(f"{size:,} pictures", flush=True)
        found[size] = measured(size, folder / str(size))
    peak = max(max(r["peak_gb"].values()) for some in found.values() for r in some.values())
    reached = [goal("memory of a process, at most", peak, MEMORY_GB, " GiB")]
    small, large = (cost(some) for some in found.values())
    reached.append(goal("cost of a picture, of all by a tenth", large / small, _GROWTH, " x"))
    save("renders", torch.device("cpu"), {"pictures": pictures, "stages": found})
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())
