"""The page of a text test: one table with exact intervals, and what was not measured."""

from html import escape

from kontext.safety.rates import Rate
from kontext.safety.text_test.measure import FALSE, STOPPED, Result, Row

CHANGES_RESULTS = False  # a page


def page(result: Result) -> str:
    """HTML, whole in one file."""
    whole = result.rows[0]
    verdict = (
        f'<p class="bad">Not reached: {escape(", ".join(result.failed))}</p>'
        if result.failed
        else f"<p>What is required is reached: {STOPPED:.0%} stopped, {FALSE:.0%} of the twins.</p>"
    )
    lines = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Text test</title>',
        "<style>body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid #ccc;"
        "text-align:left}.bad{color:#a00}</style><h1>Text test</h1>",
        f"<p>{whole.attacks.of} attack phrasings and {whole.twins.of} benign twins, judged by "
        f"{escape(result.judged_by)} with the limit {result.limit:g}. Intervals are exact (Clopper "
        "and Pearson, 95 %).</p>",
        verdict,
        "<table><tr><th><th>attacks stopped<th>interval<th>by rules alone<th>twins stopped"
        "<th>interval</tr>",
        *map(_line, result.rows),
        "</table><h2>Not measured</h2><ul>",
        *(f"<li>{escape(line)}</li>" for line in result.not_measured),
        "</ul>",
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    return (
        f"<tr><td>{escape(row.name)}<td>{_count(row.attacks)}<td>{row.attacks.interval}"
        f"<td>{row.by_rules.value:.0%}<td>{_count(row.twins)}<td>{row.twins.interval}</tr>"
    )


def _count(rate: Rate) -> str:
    return f"{rate.hits} of {rate.of} ({rate.value:.1%})"
