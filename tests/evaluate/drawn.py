"""A bench of drawn characters and signs with its training edits, made as the pipeline does."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from kontext.data.decode import decode_image
from kontext.data.mine.attributes import mine
from kontext.data.mine.candidate import Candidate, MinedImage
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.read import PairRow, PairSet
from kontext.data.sources import plan
from kontext.data.sources.base import SourceItem
from kontext.data.sources.dicebear import DiceBearSource
from kontext.data.sources.signs import SignSource
from kontext.data.sources.stable import stable_hash
from kontext.evaluate.benches.held_out import Bench, BenchCandidate, Item, asked, build
from kontext.evaluate.categories import scored_category
from kontext.evaluate.false_editors import TrainingEdits
from kontext.evaluate.pixels import Images
from schemas.sections.data import MineConfig
from schemas.sections.evaluation import EvaluateConfig

SHAPES = ("expression", "glasses", "text")
SEEDS, HELD_OUT = 24, 6  # characters and scenes, and how many of them are held out


@cache
def drawn() -> tuple[Bench, TrainingEdits]:
    """24 items for each of SHAPES: micah's faces and digits on signs, 64 px."""
    sources = (
        DiceBearSource(styles=("micah",), seeds=SEEDS, values_per_attribute=3),
        SignSource(scenes=SEEDS, words=tuple("0123456789"), words_per_scene=4),
    )
    images = [_image(item) for source in sources for item in plan(source)]
    known = {image.pixel_id: image for image in images}
    found = [one for one in mine(list(known.values()), MineConfig()) if one.relation in SHAPES]
    train = [one for one in found if not _held_out(one)]
    pairs = PairSet(
        {name: memoryview(encode_png(known[name].rgb)) for name in sorted(known)},
        [_row(one, sorted(known).index) for one in train],
    )
    bench = _bench([one for one in found if _held_out(one)], known)
    return bench, TrainingEdits.of(bench, pairs)


def codec(images: Images) -> Images:
    """What an autoencoder of about 27 dB does: detail is lost, and colours are a little off."""
    soft = gaussian_filter(images.astype(np.float32), (0, 0.8, 0.8, 0))
    return np.uint8(np.clip(np.rint(0.98 * soft + 3), 0, 255))


def _image(item: SourceItem) -> MinedImage:
    rgb = decode_image(item.read(), resolution=64, background="#ffffff", svg=item.trusted_svg).rgb
    down, right = (stable_hash(way, item.group_key) % 17 - 8 for way in ("down", "right"))
    rgb = np.roll(rgb, (down, right), axis=(0, 1))  # no two subjects in one place
    known = pixel_id(rgb), item.source, item.group_key, item.concept, item.attributes, "CC0-1.0"
    return MinedImage(*known, lambda _: rgb)


def _held_out(one: Candidate) -> bool:
    return int(one.group_key.rpartition("-")[2]) < HELD_OUT


def _row(one: Candidate, row: Callable[[str], int]) -> PairRow:
    words: dict[str, Any] = dict.fromkeys(PairRow.__dataclass_fields__, "")
    own = {name: getattr(one, name) for name in ("pair_id", "relation", "params", "relation_class")}
    places = {"contexts": tuple(map(row, one.context_ids)), "target": row(one.target_id)}
    return PairRow(**{**words, **own, **places})


def _bench(found: Sequence[Candidate], known: dict[str, MinedImage]) -> Bench:
    names = sorted(known)
    pixels = np.stack([known[name].rgb for name in names])
    rows = [_row(one, names.index) for one in found]
    choices: dict[tuple[tuple[int, ...], str], list[int]] = {}
    for row in rows:
        choices.setdefault((row.contexts, row.relation), []).append(row.target)
    candidates = [
        BenchCandidate(
            _item(row, one.group_key),
            row.contexts,
            row.target,
            tuple(choices[row.contexts, row.relation]),
        )
        for row, one in zip(rows, found, strict=True)
    ]
    config = EvaluateConfig(items_per_category=24)
    return build(candidates, lambda wanted: pixels[list(wanted)], config)


def _item(row: PairRow, subject: str) -> Item:
    said = ("do it", "after", "before", "drawn")
    return Item(row.pair_id, scored_category(row), row.relation, asked(row), *said, subject)
