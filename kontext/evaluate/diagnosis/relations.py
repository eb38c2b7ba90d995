"""Relations that hold for a good editor whatever the target is: no target is needed to test them.

Every figure is how far two pictures are apart that should be one, as a share of how far the items'
own edits move (through the autoencoder, whose error says nothing of the editor): 0 is perfect.
"""

import math
from collections.abc import Sequence

import numpy as np

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.diagnosis.finding import UNKNOWN, Ask, Finding, gaps, ratios
from kontext.evaluate.pixels import Images, Picture, Values
from kontext.evaluate.statistics import Interval

HOLDS = 0.5  # below it the whole interval must lie, above it for "broken"
NOTHING = "keep the picture exactly as it is"
RELATIONS = {
    "no-op": "asked to keep the picture, what has changed",
    "inverse": "the edit, then its inverse: what is not as it was",
    "paraphrase": "the same edit in other words: what differs",
    "commuting": "two edits of different things in both orders: what differs",
}


def relations(
    bench: Bench,
    rows: Sequence[int],
    made: Sequence[Picture],
    codec: Images,
    codec_target: Images,
    ask: Ask,
) -> tuple[list[Finding], dict[str, Images]]:
    """Findings by no-op, inverse and commuting edits, and the edits of the first two by `rows`.

    Args:
        made: the editor's own edits of the items `rows`.
        codec, codec_target: round trips of all contexts and targets.
    """
    ids = [bench.items[row].pair_id for row in rows]
    before = [codec[row] for row in rows]
    moves = gaps([codec_target[row] for row in rows], before)
    kept = ask([bench.context[row] for row in rows], [NOTHING] * len(rows), ids)
    found = ratios("no-op", gaps(kept, before), moves, bench, rows, holds)
    undo = [i for i, row in enumerate(rows) if bench.items[row].inverse]
    outputs = {"no-op": kept}
    if undo:
        of = [rows[i] for i in undo]
        texts = [bench.items[row].inverse for row in of]
        back = ask([made[i] for i in undo], texts, [ids[i] for i in undo])
        left = gaps(back, [before[i] for i in undo])
        found += ratios("inverse", left, moves[undo], bench, of, holds)
        if len(undo) == len(rows):
            outputs["inverse"] = back
    return found + _commuting(bench, rows, made, before, ask), outputs


def paraphrase(
    bench: Bench, made: Images, reworded: Images, codec: Images, codec_target: Images
) -> list[Finding]:
    """Of all items, from edits that the bench has anyway."""
    moves = gaps(codec_target, codec)
    rows = list(range(len(bench)))
    return ratios("paraphrase", gaps(made, reworded), moves, bench, rows, holds)


def holds(share: Interval) -> str:
    """holds, broken or undecided; or not measured."""
    if math.isnan(share.value):
        return UNKNOWN
    if share.high < HOLDS:
        return "holds"
    return "broken" if share.low > HOLDS else "undecided"


def partners(bench: Bench, rows: Sequence[int]) -> list[tuple[int, int]]:
    """(i, j) into `rows`: of one source, asking for different things, each item i once."""
    found = []
    for i, row in enumerate(rows):
        own = bench.items[row]
        for j in [*range(i + 1, len(rows)), *range(i)]:
            other = bench.items[rows[j]]
            alike = bench.context[row].shape == bench.context[rows[j]].shape
            if own.source == other.source and alike and _thing(own.asked) != _thing(other.asked):
                found.append((i, j))
                break
    return found


def _thing(asked: str) -> str:
    """What an edit changes, whatever to."""
    return asked.partition("=")[0]


def _commuting(
    bench: Bench, rows: Sequence[int], made: Sequence[Picture], before: Sequence[Picture], ask: Ask
) -> list[Finding]:
    """A then B of an item's context, beside B then A, as a share of how far both have moved."""
    pairs = partners(bench, rows)
    if not pairs:
        return []
    of = [rows[i] for i, _ in pairs]
    ids = [bench.items[row].pair_id for row in of]
    first = [bench.items[row].instruction for row in of]
    second = [bench.items[rows[j]].instruction for _, j in pairs]
    one = ask([made[i] for i, _ in pairs], second, ids)
    other = ask(list(ask([bench.context[row] for row in of], second, ids)), first, ids)
    start = [before[i] for i, _ in pairs]
    moved: Values = np.maximum(gaps(one, start), gaps(other, start))
    return ratios("commuting", gaps(one, other), moved, bench, of, holds)
