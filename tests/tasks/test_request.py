"""Requests that contradict themselves, and what a run of stages says at its end."""

import itertools

import pytest

from kontext.stages import STAGES
from tasks.request import _part, contradiction, outcome_line


def test_a_part_is_refused_exactly_where_it_is_empty() -> None:
    names = ["", *STAGES]
    for only, start, until in itertools.product(names, names, names):
        why = contradiction(only, start, until)
        assert bool(why) == bool((only and start) or not _part(only, start, until))


@pytest.mark.parametrize(
    ("only", "start", "until", "force", "why"),
    [
        ("", "evaluate", "encode", (), "no stage to run: 'encode' comes before 'evaluate'"),
        ("distill", "", "mine", (), "no stage to run: 'mine' comes before 'distill'"),
        ("mine", "shard", "", (), "'only mine' and 'from shard' exclude each other"),
        ("", "", "index", ("distill",), "'distill' is to run again, and is not part of this run"),
        ("encode", "", "", ("shard",), "'shard' is to run again, and is not part of this run"),
        ("", "encode", "encode", ("encode",), ""),
        ("encode", "", "distill", ("finetune",), ""),
    ],
)
def test_a_contradiction_is_said(
    only: str, start: str, until: str, force: tuple[str, ...], why: str
) -> None:
    said = contradiction(only, start, until, force)
    assert said.startswith(why) and bool(said) == bool(why)


def test_a_run_that_made_nothing_says_so() -> None:
    assert outcome_line(0, 12) == "nothing to make: all 12 stages are reused"
    assert [outcome_line(1, 0), outcome_line(2, 3)] == [
        "1 stage ran, 0 reused",
        "2 stages ran, 3 reused",
    ]
