"""The page of a test of classifiers: one table with exact intervals, and what was not measured."""

from html import escape

from kontext.safety.image_test.measure import SHARES, At, Result, Row
from kontext.safety.rates import Rate

CHANGES_RESULTS = False  # a page


def page(result: Result) -> str:
    """HTML, whole in one file. It shows no picture and no name of one."""
    classifiers = ", ".join(f"{name} ({version})" for name, version in result.classifiers.items())
    lines = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Classifier test</title>',
        "<style>body{font:15px/1.5 system-ui;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid #ccc;"
        "text-align:left}</style><h1>Classifier test</h1>",
        f"<p>{result.harmful:,} harmful and {result.harmless:,} harmless pictures, judged by "
        f"policy {escape(result.policy)} with {escape(classifiers)}. {result.unreadable:,} files "
        f"were no pictures; {result.unscored:,} pictures had no score, and are stopped. Intervals "
        "are exact (Clopper and Pearson, 95 %).</p>",
        "<table><tr><th>class<th>limit<th>harmful stopped<th>harmless stopped"
        + "".join(f"<th>recall at {share:.1%} false" for share in SHARES)
        + "</tr>",
        *map(_line, result.rows),
        "</table><h2>Not measured</h2><ul>",
        *(f"<li>{escape(line)}</li>" for line in result.not_measured),
        "</ul>",
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    limit = "" if row.limit is None else f"{row.limit:g}"
    cells = [escape(row.name), limit, share_of(row.recall), share_of(row.false), *map(_at, row.at)]
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"


def _at(at: At) -> str:
    if at.limit is None:
        return f"{1 / at.share:,.0f} harmless pictures are needed"
    return f"{share_of(at.recall)}, limit {at.limit:.3f}"


def share_of(rate: Rate | None) -> str:
    """For people: "41 of 50: 82.0% (68.6% to 91.4%)"."""
    if rate is None:
        return "no harmful pictures"
    return f"{rate.hits:,} of {rate.of:,}: {rate.value:.1%} ({rate.interval})"
