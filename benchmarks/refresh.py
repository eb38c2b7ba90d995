"""What a refresh costs beside the first run: the same pictures, 1 % more, 1 % fewer, none new.

    python -m benchmarks.refresh [--pictures 4000] [--folder FOLDER] [--encode]

Draws small pictures in groups of two (a scene by day and by night) into a folder, then runs the
data stages, ingest to index, four times in processes of their own, as a schedule would: first,
unchanged, with 1 % new pictures spread over the folder, with 1 % deleted. With --encode stage
encode too, with the autoencoder of the first run: another autoencoder makes all latents anew.
Prints seconds by stage, the processors' seconds of each turn, and each goal with its figure; exit 1
where one is not reached. Results go to benchmarks/results/refresh-cpu.json.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.goals import goal
from benchmarks.timing import save

DATA = ("ingest", "mine", "caption", "screen", "shard", "index")
TURNS = ("first", "unchanged", "1 % new", "1 % deleted")


def draw(folder: Path, numbers: range) -> None:
    """Two pictures of every scene, one of them darker: 96 to 160 pixels a side."""
    for number in numbers:
        noise = np.random.default_rng(number)
        side = int(noise.integers(6, 11)) * 16
        small = noise.integers(0, 256, (8, 8, 3), np.uint8)
        scene = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
        pixels = np.asarray(scene, np.int16) + noise.integers(-8, 9, (side, side, 3))
        for name, light in (("day", 1.0), ("night", 0.4)):
            rgb = (np.clip(pixels, 0, 255) * light).astype(np.uint8)
            # the names' order is not the order of making: new ones lie between old ones
            at = folder / f"{number * 7919 % 10_000_000:07d} scene__time={name}.png"
            Image.fromarray(rgb).save(at, compress_level=1)


def one_turn(folder: Path, home: Path, codec: str, encode: bool) -> dict[str, float]:
    """Seconds of every stage, in this process."""
    from kontext.engine.run import Engine
    from kontext.engine.stage import Reporter
    from kontext.stages import STAGES
    from schemas.recipes import Recipe, load_recipe

    began = time.perf_counter()
    recipe = load_recipe("ci").model_dump()
    recipe |= {"name": "refresh"}
    recipe["ingest"] |= {"sources": [{"kind": "folder", "path": str(folder)}]}
    recipe["mine"] |= {"pairs_per_category": 10_000_000, "t2i_singles": 0}
    recipe["shard"] |= {"dataset": "refresh"}
    engine = Engine(
        Recipe.model_validate(recipe),
        f"file://{home}/store",
        home / "catalog.sqlite",
        home,
        stages=STAGES,
        pins={"train-autoencoder": codec} if codec else None,
    )
    engine.digests()
    found = {"start": time.perf_counter() - began}
    for name in (*DATA, *(("train-autoencoder", "encode") if encode else ())):
        outcome = engine.run_stage(name, Reporter(logging.getLogger("refresh")))
        found[name] = outcome.seconds
        if name == "train-autoencoder":
            print(json.dumps({"codec": outcome.digest}), file=sys.stderr)
    return found


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--encode", action="store_true")
    parser.add_argument("--codec", default="")
    parser.add_argument("--turn", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        home = args.folder / "home"
        print(json.dumps(one_turn(args.folder / "pictures", home, args.codec, args.encode)))
        return
    with tempfile.TemporaryDirectory(prefix="kontext-refresh-") as temporary:
        compare(args, args.folder or Path(temporary))


def compare(args: argparse.Namespace, folder: Path) -> None:
    """All four turns in `folder`, printed, judged and saved."""
    pictures, scenes = folder / "pictures", args.pictures // 2
    pictures.mkdir(parents=True, exist_ok=True)
    draw(pictures, range(scenes))
    few = max(1, scenes // 100)
    codec, found = "", {}
    for turn in TURNS:
        if turn == "1 % new":
            draw(pictures, range(scenes, scenes + few))
        if turn == "1 % deleted":
            for path in sorted(pictures.iterdir())[:: max(1, scenes // few)][: 2 * few]:
                path.unlink()
        command = [sys.executable, "-m", "benchmarks.refresh", "--turn", "--folder", str(folder)]
        command += (["--encode"] if args.encode else []) + (["--codec", codec] if codec else [])
        began, used = time.perf_counter(), processor_seconds()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found[turn] = json.loads(done.stdout.splitlines()[-1])
        found[turn]["whole"] = time.perf_counter() - began
        found[turn]["processor"] = processor_seconds() - used
        told = [line for line in done.stderr.splitlines() if line.startswith('{"codec"')]
        codec = json.loads(told[-1])["codec"] if told else codec
    show(args, found)


def processor_seconds() -> float:
    """What the turns that have ended took, with all their processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(args: argparse.Namespace, found: dict[str, dict[str, float]]) -> None:
    """A table of seconds, the goals, the file."""
    print(f"{args.pictures} pictures; seconds\n{'':20}" + "".join(f"{t:>14}" for t in TURNS))
    for stage in found["first"]:
        print(f"{stage:20}" + "".join(f"{found[turn][stage]:14.2f}" for turn in TURNS))
    shares: dict[str, dict[str, float]] = {}
    for what in ("whole", "processor"):
        first = found["first"][what]
        shares[what] = {turn: found[turn][what] / first for turn in TURNS[1:]}
        told = "".join(f"{100 * shares[what].get(t, 1):13.1f}%" for t in TURNS)
        print(f"{f'share, {what}':20}{told}")
    save(
        "refresh",
        torch.device("cpu"),
        {"pictures": args.pictures, "seconds": found, "share_of_first": shares},
    )
    reached = [
        goal("1 % new, share of the first run", shares["whole"]["1 % new"], 0.03),
        goal("unchanged", found["unchanged"]["whole"], 10, "s"),
    ]
    sys.exit(not all(reached))


if __name__ == "__main__":
    main()
