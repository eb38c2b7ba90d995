"""PDQ hashes of a reduced picture, as the hash gate makes them, beside those of the full one.

    python -m benchmarks.pdq [PICTURE ...] [--megapixels 12] [--images 8] [--save]

Both give eight orientations. Full: `pdqhash.compute_dihedral` of four turned copies of the picture
as decoded. Without PICTURES it makes photographs: smooth noise of all scales, as in nature.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pdqhash
import torch

from benchmarks.timing import ratio, save, take_turns
from kontext.data.decode import decode_image
from kontext.safety.pdq import MAX_DISTANCE, MIN_QUALITY, Bytes, distances, pdq_dihedral

_TRANSPOSED = 6  # of compute_dihedral: exact, unlike the turned ones


def full(rgb: Bytes) -> Bytes:
    """Hashes of the picture as it is, uint8 [8, 32], in no particular order but the first."""
    found = []
    for view in (rgb, rgb[:, ::-1], rgb[::-1], rgb[::-1, ::-1]):
        vectors, _ = pdqhash.compute_dihedral(np.ascontiguousarray(view))
        found += [vectors[0], vectors[_TRANSPOSED]]
    return np.packbits(np.stack(found).astype(bool), axis=1)


def photographs(count: int, megapixels: float) -> Iterator[Bytes]:
    """Noise whose power falls with the square of the frequency."""
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = round(width * 3 / 4)
    for seed in range(count):
        random, image = np.random.default_rng(seed), np.zeros((height, width, 3), np.float32)
        for octave in range(2, int(np.log2(height))):
            grid = random.standard_normal((2**octave * 3 // 4, 2**octave, 3)).astype(np.float32)
            grid = 0.6 * grid + grid.mean(2, keepdims=True)
            wide = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
            image += wide * 2.0 ** (-octave)
        image = (image - image.mean()) / image.std()
        yield np.clip(127 + 55 * image, 0, 255).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the ratio and the distances."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args(arguments)
    given: Iterator[Bytes] = (
        decode_image(path.read_bytes(), resolution=None, background="#ffffff").rgb
        for path in args.pictures
    )
    apart: list[int] = []
    ratios, times = [], []
    device = torch.device("cpu")
    for rgb in given if args.pictures else photographs(args.images, args.megapixels):
        hashes, quality = pdq_dihedral(rgb)
        if quality < MIN_QUALITY:
            continue  # the gate matches no such picture
        original = full(rgb)
        apart += [int(distances(original, own).min()) for own in hashes]
        runs: dict[str, Callable[[], object]] = {
            "reduced": partial(pdq_dihedral, rgb),
            "full": partial(full, rgb),
        }
        taken = take_turns(runs, device, repeats=1, warmup=0)
        ratios.append(ratio(taken, "reduced", "full"))
        times.append((taken["reduced"][0], taken["full"][0]))
    ours, theirs = (1000 * float(np.median(column)) for column in zip(*times, strict=True))
    record = {
        "images": len(times),
        "ratio": float(np.median(ratios)),
        "ms_reduced": ours,
        "ms_full": theirs,
        "mean_distance": float(np.mean(apart)),
        "max_distance": max(apart),
    }
    print(
        f"{len(times)} pictures in 8 orientations: {ours:.0f} ms reduced, {theirs:.0f} ms full, "
        f"{record['ratio']:.1f} x; distance {record['mean_distance']:.1f} bits on average, "
        f"{max(apart)} at most, of {MAX_DISTANCE} that match"
    )
    if args.save:
        save("pdq", device, record)


if __name__ == "__main__":
    main()
