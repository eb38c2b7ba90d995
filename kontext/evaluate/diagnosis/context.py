"""Was the context used at all? The same edit, with the same noise, of another context.

An editor that ignores its context gives the same picture again. One that keeps what it should keep
changes with it: context use is how much of the context's change arrives in the result.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from kontext.evaluate.benches.held_out import Bench, resized
from kontext.evaluate.diagnosis.finding import UNKNOWN, Ask, Finding, gaps, ratios
from kontext.evaluate.pixels import Images, Picture
from kontext.evaluate.statistics import Interval

IGNORED, USED = 0.1, 0.5  # below and above these shares the whole interval must lie
_GREY = 128


def blank(bench: Bench, row: int) -> Picture:
    """Grey, with nothing in it."""
    return np.full_like(bench.context[row], _GREY)


def shuffled(bench: Bench, row: int) -> Picture:
    """The context of another concept, at this one's size: the next one of the category, if any."""
    own = bench.items[row]
    others = [*range(row + 1, len(bench)), *range(row)]
    unlike = [i for i in others if bench.items[i].cluster != own.cluster]
    kin = [i for i in unlike if bench.items[i].category == own.category]
    height, width = bench.context[row].shape[:2]
    other = bench.context[(kin or unlike or others or [row])[0]]
    return np.asarray(resized(other, (width, height)))


def mirrored(bench: Bench, row: int) -> Picture:
    """The context, left for right."""
    return np.ascontiguousarray(bench.context[row][:, ::-1])


CONTEXTS: dict[str, Callable[[Bench, int], Picture]] = {
    "blank": blank,
    "shuffled": shuffled,
    "mirrored": mirrored,
}


def context_use(
    bench: Bench, rows: Sequence[int], made: Sequence[Picture], ask: Ask
) -> tuple[list[Finding], dict[str, Images]]:
    """Findings, and the edits of the other contexts by their kind.

    Args:
        made: the editor's own edits of the items `rows`.
    """
    own = [bench.context[row] for row in rows]
    texts = [bench.items[row].instruction for row in rows]
    ids = [bench.items[row].pair_id for row in rows]
    found, outputs = list[Finding](), dict[str, Images]()
    for kind, other in CONTEXTS.items():
        contexts = [other(bench, row) for row in rows]
        outputs[kind] = ask(contexts, texts, ids)
        moved = gaps(outputs[kind], made)
        found += ratios(kind, moved, gaps(contexts, own), bench, rows, used)
    return found, outputs


def used(share: Interval) -> str:
    """ignored, used, partly used; or not measured, where the contexts do not differ."""
    if math.isnan(share.value):
        return UNKNOWN
    if share.high < IGNORED:
        return "ignored"
    return "used" if share.low > USED else "partly used"
