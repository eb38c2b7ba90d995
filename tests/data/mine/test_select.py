"""The selection and the miners over columns give what lists of objects give, on random worlds."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kontext.data.mine import attributes, proposals, references, singles
from kontext.data.mine.candidate import GIVEN, Candidate, MinedImage, Moment
from kontext.data.mine.images import COLUMNS, ImageRows
from schemas.sections.data import MineConfig
from schemas.tables import MOMENTS, PAIRS
from tests.data.mine import plain
from tests.data.mine.chosen import chosen
from tests.stages.stage_harness import rows_table

LABELS = {
    "hair_color": ("red", "blue", "none"),
    "text": ("OPEN", "SHUT"),
    "skin_tone": ("light", "dark"),
    "season": ("summer", "winter"),
    "art_style": ("flat", "3D", "line art"),
}


def picture(pixel_id: str) -> np.ndarray[Any, Any]:
    """A square on white, by id."""
    rgb = np.full((16, 16, 3), 255, np.uint8)
    rgb[4 : 9 + sum(pixel_id.encode()) % 3, 4:12] = 10
    return rgb


def world(seed: int) -> tuple[pa.Table, MineConfig]:
    """Images in groups, with labels of which some agree; and a recipe that bites."""
    draw = np.random.default_rng(seed)
    names = draw.permutation(40)[: draw.integers(4, 40)]
    rows = []
    for name in names:
        told = draw.permutation(sorted(LABELS))[: draw.integers(1, 3)]
        labels = ", ".join(f'"{label}": "{draw.choice(LABELS[label])}"' for label in sorted(told))
        rows.append((f"{name:02}", f"s:{draw.integers(2)}", f"g{draw.integers(5)}",
                     "thing" * int(draw.integers(2)), f"{{{labels}}}",
                     str(draw.choice(["CC0-1.0", "CC-BY-4.0"]))))  # fmt: skip
    columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    config = MineConfig(
        pairs_per_image=int(draw.integers(1, 4)),
        pairs_per_category=int(draw.integers(1, 60)),
        t2i_singles=int(draw.integers(0, 20)),
        style_overlap_min=0.8,
        seed=seed,
    )
    return pa.table(columns), config


def listed(images: pa.Table) -> list[MinedImage]:
    """The images as objects in a list."""
    rows = ImageRows(images, MOMENTS.empty_table(), picture)
    return [rows[at] for at in range(len(rows))]


def rows_of(candidates: list[Candidate]) -> list[dict[str, Any]]:
    return [
        {name: getattr(c, name) for name in PAIRS.names}
        | {"params": c.params_json, "context_ids": list(c.context_ids)}
        for c in candidates
    ]


@pytest.mark.parametrize("block", range(4))
def test_columns_choose_what_lists_choose(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "_AT_A_TIME", 7)  # so that a small world is many blocks
    for seed in range(block, 120, 4):
        table, config = world(seed)
        images = listed(table)
        found = [*plain.attribute_pairs(images, config), *plain.reference_pairs(images, config),
                 *singles.mine(images, config)]  # fmt: skip
        columns = ImageRows(table, MOMENTS.empty_table(), picture)
        mined = [c for one in (attributes, references, singles) for c in one.mine(columns, config)]
        assert sorted(map(str, mined)) == sorted(map(str, found))
        draw = np.random.default_rng(seed)
        more = [found[at] for at in draw.integers(0, len(found), 9)] if found else []
        given = [Candidate(("x",), f"y{n}", "local", GIVEN, GIVEN, "1", {}, "g", "s", "MIT")
                 for n in draw.integers(0, 9, 6)]  # fmt: skip
        kept, counts = plain.choose([*found, *more], config, given)
        assert chosen([*mined, *more], config, given) == (rows_of(kept), counts)


def test_of_two_proposals_of_a_pair_the_later_one_stands() -> None:
    pair = Candidate(("x",), "y", "local", "a", "m", "1", {}, "g", "s", "MIT")
    later = Candidate(("x",), "y", "local", "a", "m", "2", {}, "g", "s", "MIT")
    (kept,), counts = chosen([pair, later], MineConfig())
    assert kept["miner_version"] == "2" and counts["local", "a", "duplicate"] == 1


def test_nothing_proposed_is_nothing_chosen() -> None:
    assert chosen([], MineConfig()) == ([], {})


def test_images_are_made_when_they_are_asked_for() -> None:
    table, _ = world(3)
    ids = sorted(table["pixel_id"].to_pylist())
    moments = [{"pixel_id": ids[1], "kind": "frame", "series": "v", "shot": shot, "at_s": 0.5}
               for shot in (1, 2)]  # fmt: skip
    rows = ImageRows(table, rows_table(MOMENTS, moments), picture)
    assert [image.pixel_id for image in rows] == ids == [image.pixel_id for image in rows[:]]
    assert list(rows) == [rows.of(name) for name in ids] and rows[-1] == rows[len(ids) - 1]
    assert rows[1].moment == Moment("frame", "v", 2, 0.5) and rows[0].moment is None
    assert rows[0].rgb.shape == (16, 16, 3)
    for unknown in ("", "zz", ids[0] + "0"):
        with pytest.raises(KeyError):
            rows.of(unknown)
    with pytest.raises(IndexError):
        rows[len(ids)]
