"""The comparison as a paper would print it, in Markdown."""

from collections.abc import Iterator

from kontext.evaluate.comparing.compared import Compared
from kontext.evaluate.paired import Difference
from kontext.evaluate.statistics import SMALL_N

_SIGNS = {"better": "↑", "worse": "↓", "equivalent": "=", "undecided": "?"}


def markdown(found: Compared) -> str:
    """A table for each later side, with what a reader must know under it."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Compared) -> Iterator[str]:
    first = found.sides[0]
    for side in found.sides:
        yield f"- {side.letter}: {', '.join(f'{run.name} ({run.ref})' for run in side.runs)}"
    yield ""
    for side, versions in zip(found.sides[1:], found.versions, strict=True):
        yield f"**{side.letter} beside {first.letter}: {versions.line}.**"
        yield ""
        if not versions.differences:
            continue
        heads = (f"{first.letter} (%)", f"{side.letter} (%)", "difference (points)", "verdict")
        yield f"| edits | n | {' | '.join(heads)} |"
        yield "|---|---|---|---|---|---|"
        for name, each in versions.differences.items():
            yield f"| {' | '.join((name.replace('/', ', '), *_cells(each)))} |"
        yield ""
    yield (
        "Success of edits on the items in common, with 95 % intervals of the paired difference "
        "over concepts"
        + ("" if found.single else " and seeds")
        + ". ↑ better, ↓ worse (q below 10 %, "
        f"Benjamini and Hochberg), = within {100 * found.margin:g} points, ? undecided. A star: "
        f"fewer than {SMALL_N} items."
    )
    for note in found.notes:
        yield ""
        yield note
    if found.single:
        yield ""
        yield "A side of one training speaks of these weights, not of other seeds of its recipe."


def _cells(found: Difference) -> Iterator[str]:
    items = found.interval.n // found.runs
    yield f"{items}{'*' if items < SMALL_N else ''}" + (f" × {found.runs}" * (found.runs > 1))
    yield f"{100 * found.before:.1f}"
    yield f"{100 * found.after:.1f}"
    low, high = 100 * found.interval.low, 100 * found.interval.high
    yield f"{100 * found.value:+.1f} ({low:+.1f} to {high:+.1f})"
    yield f"{_SIGNS[found.verdict]} {found.words}"
