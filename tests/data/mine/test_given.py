"""Pairs that sources bring: kept whole, as they are given."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from kontext.data.mine.candidate import Candidate, MinedImage
from kontext.data.mine.given import given_candidates, with_edits
from kontext.data.mine.kinds import category_of
from schemas.sections.data import MineConfig
from schemas.tables import EDITS, GIVEN
from tests.data.mine.chosen import chosen
from tests.stages.stage_harness import rows_table

Counts = Counter[tuple[str, str, str]]
PIXELS = np.zeros((4, 4, 3), np.uint8)


def images(**licences: str) -> dict[str, MinedImage]:
    return {
        name: MinedImage(name, "pairs:x", f"pairs:x:{name}", "", {}, licence, lambda _: PIXELS)
        for name, licence in licences.items()
    }


def pairs_of(
    rows: list[dict[str, Any]], known: dict[str, MinedImage]
) -> tuple[list[Candidate], Counts]:
    """The pairs of the rows, and counts of what is none."""
    lost: Counts = Counter()
    found = given_candidates(((one, None) for one in rows), known.__getitem__, lost)
    return list(found), lost


def row(contexts: list[str], target: str, instruction: str, **more: str) -> dict[str, Any]:
    known = {"source": "pairs:x", "row": "t.jsonl:1", "kind": "", "target_caption": ""}
    return known | {
        "context_ids": contexts,
        "target_id": target,
        "instruction": instruction,
        "status": "ok",
        **more,
    }


def test_edits_keep_their_words_and_take_the_strictest_licence() -> None:
    known = images(a="CC0-1.0", b="CC-BY-NC-4.0", c="MIT")
    found, lost = pairs_of([row(["a", "b"], "c", "Make  it\tred\n")], known)
    (pair,) = found
    assert pair.params["instruction"] == "Make  it\tred\n"
    assert (pair.context_ids, pair.target_id) == (("a", "b"), "c")
    assert (pair.license_spdx, pair.relation, pair.miner) == ("CC-BY-NC-4.0", "given", "given")
    assert pair.params["row"] == "pairs:x/t.jsonl:1"
    assert pair.relation_class == "local" and not lost


def test_captions_are_text_to_image_pairs() -> None:
    rows = [row([], "a", "a red cat"), row(["a"], "b", "add a hat", target_caption="a hat")]
    found, _ = pairs_of(rows, images(a="MIT", b="MIT"))
    singles = {c.target_id: c.params["instruction"] for c in found if not c.context_ids}
    assert singles == {"a": "a red cat", "b": "a hat"}
    (edit,) = (c for c in found if c.context_ids)
    assert edit.params["target_caption"] == "a hat"
    assert {c.relation for c in found if not c.context_ids} == {"t2i"}


def test_every_row_has_one_outcome() -> None:
    rows = [
        row(["a"], "b", "x"),
        row(["a"], "b", "x"),  # the same again
        row(["a"], "b", "y"),
        row(["a"], "a", "nothing"),
        row([], "", "lost", status="picture_truncated"),
    ]
    found, lost = pairs_of(rows, images(a="MIT", b="MIT"))
    kept, counts = chosen([], MineConfig(pairs_per_category=1), found)
    assert len(kept) == 2  # no quota leaves one out
    assert counts + lost == Counter(
        {
            ("local", "given", "kept"): 2,
            ("local", "given", "duplicate"): 1,
            ("local", "given", "no_change"): 1,
            ("", "given", "picture_truncated"): 1,
        }
    )


def test_rows_that_were_made_come_with_how() -> None:
    given = rows_table(GIVEN, [{"source": "s", "row": name} for name in "abc"])
    assert [made for _, made in with_edits(given)] == [None] * 3
    made = [("s", "c", "blur"), ("s", "a", "turn"), ("t", "b", "crop"), ("s", "c", "hue")]
    columns = ("source", "row", "operation")
    edits = rows_table(EDITS, [dict(zip(columns, one, strict=True)) for one in made])
    found = [(row["row"], how and how["operation"]) for row, how in with_edits(given, edits)]
    assert found == [("a", "turn"), ("b", None), ("c", "hue")]


@pytest.mark.parametrize(
    ("kind", "text", "category"),
    [
        ("", "Add a red hat", "local"),
        ("", "remove the dog on the left", "local"),
        ("", "What if there was an obelisk?", "local"),
        ("", "Change the background to a beach", "global"),
        ("", "make it winter", "global"),
        ("", "turn it into a watercolor painting", "style"),
        ("", "as a pencil sketch", "style"),
        ("", "make the sign read 'OPEN'", "text"),
        ("", "replace the text with “Sale”", "text"),
        ("", "change the title’s font", "text"),
        ("", "make the woman smile", "character"),
        ("", "let the dog sit down", "character"),
        ("", "change her expression to angry", "character"),
        ("style_transfer", "make it nice", "style"),
        ("background_change", "put it on the moon", "global"),
        ("textual_change", "x", "text"),
        ("action_change", "x", "character"),
        ("remove", "x", "local"),
        ("made up", "make it winter", "global"),
    ],
)
def test_categories(kind: str, text: str, category: str) -> None:
    assert category_of(kind, text)[0] == category
