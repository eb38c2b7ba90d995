"""The page of `kontext safety test`: tables and curves, with what PDQ cannot do in plain sight."""

import base64
import io
from collections.abc import Iterable, Iterator
from html import escape

from kontext.safety.hash_test.measure import RECALL, FalseMatches, Result, Row
from kontext.safety.hash_test.transforms import CURVES
from kontext.safety.pdq import MAX_DISTANCE
from kontext.safety.rates import Rate

CHANGES_RESULTS = False  # shows what was measured

_STYLE = (
    "body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;"
    "text-align:right;white-space:nowrap}td:first-child,td:nth-child(2),th:first-child{text-align:left}"
    ".bad{color:#b00;font-weight:600}img{max-width:100%}"
)


def page(result: Result) -> str:
    """HTML with the figure inside."""
    picture = base64.b64encode(figure(result)).decode()
    lines = [
        f"<!doctype html><meta charset=utf-8><title>Hash test</title><style>{_STYLE}</style>",
        "<h1>What the hash gate knows again</h1>",
        f"<p>{result.pictures} pictures, {result.plain} of them with too little detail for PDQ "
        f"(quality below 50; counted apart). Matches are within {MAX_DISTANCE} bits. Intervals are "
        "exact (Clopper and Pearson, 95 %).</p>",
        f'<p class="bad">Not reached: {escape(", ".join(result.failed))}</p>'
        if result.failed
        else f"<p>All that is required ({RECALL:.0%} of each) is reached.</p>",
        f'<img alt="Recall by strength and by distance" src="data:image/png;base64,{picture}">',
        "<h2>Recall</h2><table><tr><th>family<th>transform<th>stopped by the gate<th>interval"
        "<th>PDQ alone<th>too plain: stopped<th>bits: median, 99 %, largest</tr>",
        *map(_line, result.rows),
        "</table><h2>False matches</h2>",
        *_false(
            "Pictures that fill their frame (at most one in a million is required)", result.false
        ),
        *_false(
            "Cut-outs: one thing on nothing, beside each other and all others", result.cut_outs
        ),
        f"<h2>Not measured</h2><ul>{_items(result.not_measured)}</ul>",
    ]
    return "\n".join(lines) + "\n"


def figure(result: Result) -> bytes:
    """PNG: recall by strength of crops, borders and rotations; and recall by distance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(1, 4, figsize=(16, 3.6), layout="constrained")
    for axis, family in zip(axes, CURVES, strict=False):
        rows = [row for row in result.rows if row.family == family]
        strengths = [row.strength for row in rows]
        for word, rates in (
            ("gate", [row.gate for row in rows]),
            ("PDQ alone", [row.pdq for row in rows]),
        ):
            below = [rate.value - rate.low for rate in rates]
            above = [rate.high - rate.value for rate in rates]
            values = [rate.value for rate in rates]
            axis.errorbar(strengths, values, (below, above), marker="o", capsize=3, label=word)
        axis.set(title=family, xlabel="degrees" if family == "rotation" else "% a side")
        axis.set(ylabel="recall", ylim=(-0.02, 1.02))
        axis.legend()
    for family, shares in result.by_distance.items():
        axes[3].plot(shares, label=family)
    axes[3].axvline(MAX_DISTANCE, color="black", linewidth=0.8)
    axes[3].set(title="PDQ alone", xlabel="bits within", ylabel="recall", ylim=(-0.02, 1.02))
    if result.by_distance:
        axes[3].legend(fontsize=7)
    data = io.BytesIO()
    drawn.savefig(data, format="png", dpi=90)
    pyplot.close(drawn)
    return data.getvalue()


def _false(title: str, false: FalseMatches) -> Iterator[str]:
    yield (
        f"<h3>{title}</h3><p>Among {false.pairs:,} pairs of {false.pictures:,} pictures, "
        f"{false.matches} lie within {MAX_DISTANCE} bits in some orientation; {false.same} of them "
        "are one picture in two files (their details lie at the same places, or hardly any pixel "
        f"differs). False: {false.rate.hits}, which is {1e6 * false.rate.value:.2f} in a million "
        f"({1e6 * false.rate.low:.2f} to {1e6 * false.rate.high:.2f}).</p>"
    )
    if false.named:
        yield f"<details><summary>Their names</summary><ul>{_items(false.named)}</ul></details>"


def _items(lines: Iterable[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def _line(row: Row) -> str:
    bad = ' class="bad"' if row.required and row.gate.value < RECALL else ""
    _, median, _, most, largest = row.distances
    plain = f"{row.plain.hits} of {row.plain.of}"
    family = f"{escape(row.family)}{' (required)' if row.required else ''}"
    return (
        f"<tr{bad}><td>{family}<td>{escape(row.name)}<td>{_share(row.gate)}<td>{row.gate.interval}"
        f"<td>{_share(row.pdq)}<td>{plain}<td>{median}, {most}, {largest}</tr>"
    )


def _share(rate: Rate) -> str:
    return f"{rate.value:.1%}"
