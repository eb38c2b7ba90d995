"""The reason that says why an artifact is stale."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext.engine.acceptance import difference
from schemas.manifest import Manifest

LONG = "a folder whose name is far longer than what one line of a table can show"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def _reason(old: dict[str, Any], new: dict[str, Any]) -> str:
    made = Manifest(
        stage="mine", digest="d", code_digest="", config=old, inputs={}, files=[], metrics={},
        notes=[], recipe="ci", created_at="2026-01-01T00:00:00", seconds=1.0, git_commit="",
        packages={}, kernels={},
    )  # fmt: skip
    said = difference(made, {}, new, {})
    return said.partition("code changed; ")[2] or said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"seed": 0}, {"seed": 1}, "seed: 0 → 1"),
        ({}, {"seed": None}, "seed: (absent) → null"),
        ({"lr": 1}, {"lr": 1.0}, "lr: 1 → 1.0"),  # digests differ too
        (
            {"sources": [{"kind": "emoji"}, {"kind": "signs", "scenes": 8, "words": [1, 2]}]},
            {"sources": [{"kind": "emoji"}, {"kind": "signs", "scenes": 8, "words": [1, 3]}]},
            "sources[1].words[1]: 2 → 3",
        ),
        ({"sources": [1]}, {"sources": [1, {"kind": "x"}]}, 'sources[1]: (absent) → {"kind": "x"}'),
        (
            {"path": LONG + " at home"},
            {"path": LONG + " elsewhere"},
            'path: …le can show at home" → …le can show elsewhere"',
        ),
    ],
)
def test_the_first_difference_is_said_where_it_is(
    old: dict[str, Any], new: dict[str, Any], said: str
) -> None:
    assert _reason(old, new) == said


@given(VALUES, VALUES, st.text(max_size=60))
def test_two_values_that_differ_never_look_alike(old: Any, new: Any, start: str) -> None:
    """Also behind a long beginning that is the same."""
    for one, other in ((old, new), (start + json.dumps(old), start + json.dumps(new))):
        if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
            continue
        said = _reason({"key": one}, {"key": other}).partition(": ")[2]
        assert said
        assert not any(
            said[:i] == said[i + 3 :] for i in range(len(said)) if said[i : i + 3] == " → "
        )
