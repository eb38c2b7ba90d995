"""Searching PDQ hashes: what `kontext.safety` uses, beside the same search in numpy.

    python -m benchmarks.hashes [--entries 100000] [--images 10] [--pairs 7000] [--save]

Both search the same random hashes on one thread and must find the same. `list` looks up images, in
eight orientations each, in a list of known hashes within 31 bits; `pairs` compares hashes with each
other within 10 bits, which finds near-duplicates. `look-ups` are single hashes, as many at a time
as `--batch` says, and of one image (eight hashes) at a time: how many a second of one core's time,
with how long the index took to build and to open, and its size.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import faiss
import numpy as np
import torch

from benchmarks.timing import ratio, save, take_turns
from kontext.safety.pdq import MAX_DISTANCE, Bytes, distances, pairs_within
from kontext.safety.pdq_index import Match, PdqIndex

_NEAR = 10  # bits
_BLOCK = 512  # rows compared at a time


def scan_list(bank: Bytes, queries: Bytes) -> Match | None:
    """The nearest entry by comparing with all of them."""
    found = [distances(bank, query) for query in queries]
    best = min(range(len(queries)), key=lambda index: int(found[index].min()))
    row = int(found[best].argmin())
    nearest = int(found[best][row])
    return Match(row, nearest) if nearest <= MAX_DISTANCE else None


def scan_pairs(hashes: Bytes) -> list[tuple[int, int]]:
    """All near pairs by comparing every hash with every later one, in blocks."""
    words, found = hashes.view(np.uint64), []
    for start in range(0, len(words), _BLOCK):
        block, rest = words[start : start + _BLOCK], words[start:]
        apart = np.zeros((len(block), len(rest)), np.uint16)
        for word in range(4):
            apart += np.bitwise_count(block[:, None, word] ^ rest[None, :, word])
        rows, columns = np.nonzero(apart <= _NEAR)
        found += [(i, j) for i, j in zip(rows + start, columns + start, strict=True) if i < j]
    return found


def look_ups(bank: Bytes, batch: int, repeats: int) -> dict[str, float]:
    """Look-ups a second of processor time, and what the index costs."""
    random = np.random.default_rng(1)
    found: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        for name in ("build_s", "open_s"):
            began = time.perf_counter()
            index = PdqIndex(bank, Path(folder))
            found[name] = time.perf_counter() - began
        kept = [path.stat().st_size for path in Path(folder).rglob("*")]
        found["index_mb"] = (sum(kept) or bank.nbytes) / 1e6
        for name, size in (("batched", batch), ("one_image", 8)):
            rates = []
            for _ in range(repeats + 1):  # the first one reads the files
                queries = random.integers(0, 256, (size, 32), np.uint8)
                began = time.process_time()
                for start in range(0, size, batch):
                    index.within(queries[start : start + batch])
                rates.append(size / (time.process_time() - began))
            found[f"{name}_per_s"] = statistics.median(rates[1:])
    return {name: round(value, 1) for name, value in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=7_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args(arguments)
    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(0)
    bank, hashes = (random.integers(0, 256, (n, 32), np.uint8) for n in (args.entries, args.pairs))
    images = random.integers(0, 256, (args.images, 8, 32), np.uint8)
    images[0, 3], hashes[-1] = bank[args.entries // 2], hashes[0]  # something to find
    index = PdqIndex(bank)
    searches: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "list": (
            lambda: [index.nearest(queries) for queries in images],
            lambda: [scan_list(bank, queries) for queries in images],
        ),
        "pairs": (lambda: pairs_within(hashes, _NEAR), lambda: scan_pairs(hashes)),
    }
    record: dict[str, object] = {"entries": args.entries, "hashes": args.pairs}
    device = torch.device("cpu")
    for name, (ours, peer) in searches.items():
        assert ours() == peer(), f"{name}: they do not find the same"
        times = take_turns({"ours": ours, "numpy": peer}, device, args.repeats, warmup=0)
        record[name] = ratio(times, "ours", "numpy")
        print(f"{name}: ours is {record[name]:.2f} x as fast as numpy, with the same result")
    record["look-ups"] = found = look_ups(bank, args.batch, args.repeats)
    print(f"look-ups among {args.entries:,} hashes, one core:", found)
    if args.save:
        save("hashes", device, record)


if __name__ == "__main__":
    main()
