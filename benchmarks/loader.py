"""Our streaming loader beside webdataset's, mosaicml-streaming's and LitData's: same samples.

    python -m benchmarks.loader [--samples 3000] [--side 64] [--batch 32] [--peers FOLDER] [--s3]
        [--save]

Every loader shuffles, decodes the same PNGs with the same decoder, and hands over the same batches
of stacked contexts and targets with their records. They take turns, an epoch each; a peer is
measured without workers and with two, and its better figure counts. Ours runs with exact resume
on, which is then checked. Data comes in two kinds: every image in one pair only, and images shared
by pairs as mining leaves them, where decoding an image once pays.

With --s3 all of them read the same samples from an S3 server of our own on this machine too
(SeaweedFS), and every epoch begins with nothing of it on disk.

mosaicml-streaming 0.13.0 asks for numpy < 2.2 and so does not install beside our pins; without its
declared dependencies it runs, and so does LitData:

    pip install --no-deps --target FOLDER mosaicml-streaming==0.13.0 python-snappy cramjam zstd \\
        brotli xxhash catalogue litdata==0.2.76 lightning-utilities tifffile
"""

import argparse
import hashlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loader_peers import Batches, Where, on_s3, peers, write_as_peers_do
from benchmarks.timing import save
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.stream import PairStream, Place, StreamPlan
from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.store.objects import open_store

GOAL = 1.2
OURS = "kontext"


@dataclass(frozen=True)
class Lap:
    """One epoch of one loader: seconds to the first batch, and for all of it."""

    first: float
    whole: float
    samples: int


def make_data(folder: Path, count: int, side: int, sharing: int) -> None:
    """Shards in `folder/data`, and the same samples as the peers that are there have them.

    Args:
        sharing: pairs that an image takes part in; 1: every pair has two images of its own.
    """
    rng = np.random.default_rng(0)
    images = max(2, 2 * count // sharing)
    pngs = {}
    for _ in range(images):
        rgb = _picture(rng, side)
        pngs[pixel_id(rgb)] = encode_png(rgb)
    names = list(pngs)
    samples = []
    for number in range(count):
        context, target = names[2 * number % images], names[(2 * number + 1) % images]
        pair_id = hashlib.sha256(f"{number}".encode()).hexdigest()
        record = {
            "pair_id": pair_id,
            "relation_class": "local",
            "instruction": "turn the red circle into a blue one",
            "context_ids": [context],
            "target_id": target,
        }
        samples.append(ShardSample(pair_id, (context,), target, record))
    (folder / "data").mkdir(parents=True)
    write_shards(samples, "train", folder / "data", 250, pngs.__getitem__, ShardSet())
    found = (sample.members(pngs.__getitem__) for sample in samples)
    write_as_peers_do(folder, [{n.split(".")[0]: data for n, data in one.items()} for one in found])


def _picture(rng: np.random.Generator, side: int) -> Any:
    """Flat shapes on a plain ground: as large as a rendered emoji's PNG, about 2 KB at 64 px."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (4 * side, 4 * side), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(8):
        x, y, r = (int(v) for v in rng.integers(0, 4 * side, 3))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        pen.ellipse((x - r // 4, y - r // 4, x + r // 4, y + r // 4), fill=colour)
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), np.uint8)


def ours(store: str, batch: int, side: int, threads: int = 2) -> Batches:
    """One epoch of the streaming loader; every batch brings the place to resume from."""
    plan = StreamPlan(batch * 2 * (side // 16) ** 2)

    def run() -> Iterator[Any]:
        stream = PairStream(open_store(store), "data/", plan, threads=threads)
        for found in itertools.islice(stream.batches(), len(stream.epoch(0))):
            records = [sample.record for sample in found.samples]
            arrays = found.contexts(), found.targets()
            yield *map(torch.from_numpy, arrays), records, found.place

    return run


def lap(run: Batches) -> Lap:
    """One epoch, from opening the loader to its last batch."""
    start = time.perf_counter()
    first, count = 0.0, 0
    for batch in run():
        first = first or time.perf_counter() - start
        count += len(batch[1])
    return Lap(first, time.perf_counter() - start, count)


def measure(loaders: Mapping[str, Batches], repeats: int, count: int) -> dict[str, list[Lap]]:
    """Laps of every loader, round by round, after one that is not counted."""
    found: dict[str, list[Lap]] = {name: [] for name in loaders}
    for turn in range(repeats + 1):
        for name, run in loaders.items():
            done = lap(run)
            assert done.samples == count, f"{name} gave {done.samples} of {count} samples"
            if turn:
                found[name].append(done)
    return found


def resumes_exactly(folder: Path, batch: int, side: int) -> bool:
    """Whether a second loader, started at a noted place, goes on exactly as the first did."""
    plan = StreamPlan(batch * 2 * (side // 16) ** 2)

    def ids(place: Place | None, count: int) -> tuple[list[list[str]], Place]:
        stream = PairStream(open_store(f"file://{folder}"), "data/", plan)
        found = list(itertools.islice(stream.batches(place), count))
        return [[s.key for s in b.samples] for b in found], found[-1].place

    whole, _ = ids(None, 40)
    before, place = ids(None, 13)
    return before + ids(place, 27)[0] == whole


def verdict(laps: Mapping[str, list[Lap]], what: str) -> float:
    """Print every loader's medians; the ratio of ours to the best peer, round by round."""
    rates = {name: statistics.median(x.samples / x.whole for x in v) for name, v in laps.items()}
    firsts = {name: statistics.median(x.first for x in v) for name, v in laps.items()}
    for name in laps:
        print(f"{what:22s} {name:28s} {rates[name]:8.0f} samples/s  first {firsts[name]:6.3f} s")
    peer = max((name for name in laps if name != OURS), key=lambda name: rates[name])
    soonest = min((name for name in laps if name != OURS), key=lambda name: firsts[name])
    ratio = statistics.median(
        p.whole / o.whole for p, o in zip(laps[peer], laps[OURS], strict=True)
    )
    earlier = firsts[soonest] / firsts[OURS]
    word = "reached" if ratio >= GOAL else "NOT reached"
    print(
        f"{what:22s} {ratio:.2f} x {peer} (goal {GOAL} x, {word}); "
        f"first batch {earlier:.2f} x as soon as {soonest}"
    )
    return ratio


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--side", type=int, default=64, help="pixels, a multiple of 16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sharing", type=int, default=6, help="pairs an image is in, as mined")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", default="0,2", help="of the peers; the better one counts")
    parser.add_argument("--peers", default="", help="folder of pip install --target")
    parser.add_argument("--s3", action="store_true", help="from an S3 server of our own too")
    parser.add_argument("--save", action="store_true", help="write results/*.json")
    return parser.parse_args(argv)


def loaders_of(where: Where, args: argparse.Namespace) -> dict[str, Batches]:
    """Ours and every peer that is there, by name."""
    # what comes from afar is waited for, by more threads than there are cores
    loaders = {OURS: ours(where.store, args.batch, args.side, 8 if where.endpoint else 2)}
    for workers in map(int, args.workers.split(",")):
        told = f"{workers} workers" if workers else "in process"
        for name, epoch in peers().items():
            loaders[f"{name}, {told}"] = epoch(where, args.batch, workers)
    return loaders


def compare(what: str, where: Where, args: argparse.Namespace) -> dict[str, Any]:
    """All loaders over the same samples, printed; what is recorded."""
    laps = measure(loaders_of(where, args), args.repeats, args.samples)
    ratio = verdict(laps, what)
    return {"laps": {name: [asdict(x) for x in v] for name, v in laps.items()}, "ratio": ratio}


def main(argv: list[str] | None = None) -> None:
    """Measure all kinds of data, print tables and verdicts, and write JSON where asked."""
    args = parse(argv)
    if args.peers:
        sys.path.append(args.peers)
    print("beside", ", ".join(peers()))
    record: dict[str, Any] = {"arguments": vars(args)}
    for what, sharing in (("own images", 1), (f"shared by {args.sharing}", args.sharing)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_data(folder, args.samples, args.side, sharing)
            record[what] = compare(what, Where(folder), args)
            exact = resumes_exactly(folder, args.batch, args.side)
            record[what]["resume_exact"] = exact
            said = "the same batches" if exact else "OTHER batches"
            print(f"{what:22s} resumed mid-epoch: {said}")
            if args.s3 and sharing == 1:
                with on_s3(folder) as where:
                    record["on S3"] = compare("on S3", where, args)
    if args.save:
        save("loader", torch.device("cpu"), record)


if __name__ == "__main__":
    main()
