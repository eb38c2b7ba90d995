"""The page of a run's items: of each what judges replied, as it came, and what was read from it."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from kontext.evaluate.benches.public import BenchItem, Loaded
from kontext.evaluate.judges.judging import Said, Verdicts
from kontext.evaluate.public.journal import Journal

CHANGES_RESULTS = False  # for users; no stage runs a public bench

NAME = "items.html"
_NO_JUDGE = "No judge was asked: all figures are of the pictures, and there are no replies."
_STYLE = (
    "body{font:15px/1.5 system-ui;max-width:60rem;margin:1rem auto;padding:0 1rem;"
    "overflow-wrap:anywhere}article{border-top:1px solid #ddd;padding:.6rem 0}"
    "article:target{outline:2px solid #2f55d4}h2{font-size:1rem;margin:.2rem 0}"
    "img{width:192px;max-width:100%}pre{white-space:pre-wrap;background:#f4f4f6;color:#222;"
    "padding:.6rem}.none{color:#b00}"
)
Replies = Mapping[str, Sequence[Mapping[str, Any]]]


def anchor(item: str) -> str:
    """Where an item is on the page: its id may have any characters."""
    return f"i-{hashlib.sha256(item.encode()).hexdigest()[:12]}"


def items_page(
    loaded: Loaded, journal: Journal, judged: bool, verdicts: Verdicts, duels: Verdicts
) -> str:
    """HTML with every item of a run. Replies are shown whole and as text, whatever is in them.

    Args:
        judged: whether any judge was asked.
    """
    return "\n".join(_lines(loaded, journal, judged, verdicts, duels)) + "\n"


def _lines(
    loaded: Loaded, journal: Journal, judged: bool, verdicts: Verdicts, duels: Verdicts
) -> Iterator[str]:
    title = escape(f"{loaded.bench.title}: every item")
    yield '<!doctype html><html lang="en"><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
    yield '<p><a href="index.html">← table</a></p>'
    yield "" if judged else f"<p>{_NO_JUDGE}</p>"
    rows: dict[str, list[tuple[dict[str, Any], tuple[Said, ...]]]] = defaultdict(list)
    for found in (verdicts, duels):
        for row, said in zip(found.rows, found.said, strict=True):
            rows[row["item"]].append((row, said))
    replies = _by_request(verdicts, duels)
    for item in loaded.items:
        yield from _item(item, journal)
        for row, said in rows[item.id]:
            yield from _row(row, said, replies)
        if judged and not rows[item.id]:
            yield '<p class="none">No judge was asked about it.</p>'
        yield "</article>"


def _by_request(*verdicts: Verdicts) -> Replies:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in verdicts:
        for table in one.replies:
            own: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
            for row in table.to_pylist():
                own[row["request"]].append(row)
            found |= own  # a table has all that was ever sent for its requests
    return found


def _item(item: BenchItem, journal: Journal) -> Iterator[str]:
    own = journal.rows[item.id]
    yield f'<article id="{anchor(item.id)}"><h2>{escape(item.instruction)}</h2>'
    why = f", {own['problem']}" if own.get("problem") else ""
    said = f"{item.category}, {item.id}: {own['outcome']}{why}"
    yield f"<p>{escape(said)}</p>"
    if own["outcome"] == "edited":
        path = escape(journal.picture(item.id).name)
        yield f'<a href="edits/{path}"><img alt="result" loading="lazy" src="edits/{path}"></a>'


def _row(row: Mapping[str, Any], said: Sequence[Said], replies: Replies) -> Iterator[str]:
    """A judge's verdict in one pass, and every question that it is of."""
    fixed = ("item", "canary", "judge", "pass", "status", "problem")
    scores = {name: value for name, value in row.items() if name not in fixed}
    told = ", ".join(f"{name} {value:g}" for name, value in scores.items() if value is not None)
    what = f"{row['judge']}, pass {row['pass'] + 1}"
    what += f", canary: {row['canary']}" if row["canary"] else ""
    told = told or f"no scores: {row['status']}, {row['problem']}"
    yield f"<details><summary>{escape(what)}: {escape(told)}</summary>"
    for one in said:
        yield from _question(one, replies)
    yield "</details>"


def _question(said: Said, replies: Replies) -> Iterator[str]:
    parsed = ", ".join(f"{name}: {value}" for name, value in said.parsed.items())
    parsed = parsed or f"nothing: {said.status}, {said.problem}"
    yield f"<p><b>{escape(said.kind)}</b>, read from it: {escape(parsed)}</p>"
    found = replies.get(said.request, ())
    if not found:
        yield '<p class="none">There is no reply.</p>'
    for row in found:
        turn = "asked" if not row["turn"] else "asked to mend it"
        how = f"{turn}: {row['outcome']}, HTTP {row['http']}, {row['model'] or 'no model named'}"
        yield f"<p>{escape(how)}, request {escape(said.request[:12])}</p>"
        body = row["reply"]
        yield f"<pre>{escape(body)}</pre>" if body else '<p class="none">The reply is empty.</p>'
