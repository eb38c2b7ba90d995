"""A small world of pairs in both directions: two squares on a ground, three values each."""

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.read import PairRow, PairSet
from kontext.evaluate.drift.scripts import Scripts, make_scripts
from kontext.evaluate.pixels import Images, blurred

COMPONENTS, VALUES, THRESHOLD = 6, 3, 0.06
SIZES = ((32, 32), (32, 32), (32, 48))  # (height, width), in turn
Component = dict[str, str]  # of a pair


def picture(component: int, values: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3]: a ground with detail, and a square of a value left above, right below."""
    rng = np.random.default_rng(component)
    height, width = SIZES[component % len(SIZES)]
    rows = rng.integers(90, 150, (height // 4, width // 4, 3))
    found = rows.repeat(4, 0).repeat(4, 1) + rng.integers(-8, 8, (height, width, 3))
    for place, value in zip((slice(4, 12), slice(20, 28)), values, strict=True):
        found[place, place] = np.roll((40, 120, 215), value)
        found[place, place][::2, ::2] += 30
    return found.astype(np.uint8)


def made_pairs(
    edits: Sequence[tuple[int, int, int]], pictures: Sequence[np.ndarray], relation: str = "square"
) -> tuple[PairSet, Component]:
    """Pairs of (component, context, target), where the latter two count pictures."""
    ids = [pixel_id(one) for one in pictures]
    names = sorted(set(ids))
    rows, component = [], {}
    for number, (own, before, after) in enumerate(edits):
        words: dict[str, Any] = dict.fromkeys(PairRow.__dataclass_fields__, "")
        words |= {"pair_id": f"{number:064x}", "params": {}, "relation_class": "local"}
        words |= {"relation": relation, "instruction": f"turn {before} into {after}"}
        places = {"contexts": (names.index(ids[before]),), "target": names.index(ids[after])}
        rows.append(PairRow(**{**words, **places}))
        component[rows[-1].pair_id] = f"component {own}"
    pngs = {pixel_id(one): memoryview(encode_png(one)) for one in pictures}
    return PairSet({name: pngs[name] for name in names}, rows), component


@cache
def world() -> tuple[PairSet, Component]:
    """Every edit of one square, in both directions."""
    pictures, edits = [], []
    for component in range(COMPONENTS):
        at = {}
        for values in product(range(VALUES), repeat=2):
            at[values] = len(pictures)
            pictures.append(picture(component, values))
        for before, after in product(at, repeat=2):
            if sum(a != b for a, b in zip(before, after, strict=True)) == 1:
                edits.append((component, at[before], at[after]))
    return made_pairs(edits, pictures)


@cache
def scripts() -> Scripts:
    """One script of each component."""
    return make_scripts(*world(), COMPONENTS, 0, THRESHOLD)


def codec(images: Images) -> Images:
    """What an autoencoder does: detail is lost, and colours are a little off."""
    soft = 0.7 * images + 0.3 * blurred(images, 0.8) + 2
    return np.asarray(np.clip(np.rint(soft), 0, 255), np.uint8)


def features(images: Images) -> np.ndarray:
    """Means of eighths of a side, [N, 192]."""
    n, height, width = images.shape[:3]
    cells = images.reshape(n, 8, height // 8, 8, width // 8, 3).mean(axis=(2, 4))
    return cells.reshape(n, -1).astype(np.float32)
