"""What a stopped picture takes with it from the pairs that its source gives."""

import pyarrow as pa

from kontext.data.ingest import given_pairs
from kontext.data.sources.base import GivenPair
from schemas.tables import OUTCOMES


def outcomes(**pixels: str) -> pa.Table:
    """What became of pictures; one that is stopped has left no name."""
    rows = [
        {"source": "s", "source_ref": ref, "subject_hmac": "", "outcome": "kept", "checked": True,
         "pixel_id": own, "made": False, "item": ""}
        for ref, own in pixels.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, OUTCOMES)


def test_later_turns_of_what_ingest_stops_fall_and_leave_nothing() -> None:
    def pair(row: str, context: str, target: str) -> GivenPair:
        return GivenPair("s", row, target, (context,), f"words of {row}")

    pairs = [
        pair("t:1", "a", "b"),  # b is stopped
        pair("t:1:back", "b", "a"),
        pair("t:2", "b", "c"),
        pair("t:3", "c", "d"),
        pair("t:4", "again", "e"),  # the same pixels as d
        pair("u:1", "a", "f"),
    ]
    kept = outcomes(a="0", c="2", d="3", again="3", e="4", f="5")
    found = given_pairs(pairs, kept)
    stopped, fell = "picture_stopped_by_safety", "picture_made_of_stopped"
    assert found["status"].to_pylist() == [stopped, stopped, stopped, fell, fell, "ok"]
    assert found["instruction"].to_pylist() == ["", "", "", "", "", "words of u:1"]
    whole = given_pairs(pairs, outcomes(a="0", b="1", c="2", d="3", again="3", e="4", f="5"))
    assert set(whole["status"].to_pylist()) == {"ok"}
