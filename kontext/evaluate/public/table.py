"""The table of a run as a paper would print it, in Markdown, with all that a reader must know."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kontext.evaluate.public.editing import OUTCOMES
from kontext.evaluate.public.scores import ALL, FIT, MEAN

CHANGES_RESULTS = False  # for users; no stage runs a public bench

Summary = Mapping[str, Any]


def markdown(summary: Summary) -> str:
    """The whole text."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    yield f"# {summary['title']}: {editor_name(summary)}"
    yield ""
    for warning in warnings(summary):
        yield f"**{warning}**"
        yield ""
    if summary["main"]:
        yield from paper_row(summary)
        yield ""
    yield from _rows(table(summary))
    yield ""
    yield from notes(summary)


def editor_name(summary: Summary) -> str:
    """The editor in a few words."""
    card = summary["run"]["editor"]
    words = shlex.split(card.get("command", ""))
    command = " ".join(Path(word).name for word in words if "{" not in word)
    named = card.get("model") or command
    kind = {"model": "", "command": "", "codec": "autoencoder of "}.get(card["editor"])
    return f"{kind}{named}" if kind is not None else card["editor"]


def warnings(summary: Summary) -> list[str]:
    """What makes the figures another thing than they look like; to be read first."""
    found = []
    if summary["problems"]:
        says = "; ".join(problem["says"] for problem in summary["problems"][:5])
        more = len(summary["problems"]) - 5
        found.append(
            f"Not the set as published, so not comparable with others' figures: {says}"
            + (f"; and {more} more." if more > 0 else ".")
        )
    for card in (summary["judges"] or {}).get("cards", ()):
        if card["fit"] is False:
            found.append(
                f"The judge {card['judge']} fails its canaries ({canaries(card)}; {FIT:.0%} are "
                "required): its scores say little."
            )
    return found


def canaries(card: Mapping[str, Any]) -> str:
    """`identity 8 of 8 seen through, oracle 7 of 8`."""
    said = [f"{kind} {own['passed']} of {own['asked']}" for kind, own in card["canaries"].items()]
    return ", ".join(said) or "none"


def categories(summary: Summary) -> list[str]:
    """Those that have items, in the set's order."""
    names = [*summary["columns"][0]["scores"]] if summary["columns"] else []
    return [name for name in names if name not in (MEAN, ALL)] or [
        name for name in summary["outcomes"] if name != ALL
    ]


def figure(score: Mapping[str, Any], unit: str) -> str:
    """`6.31 (6.02-6.60)`: the value and its 95 % interval; a star where items are few."""
    value, low, high = score["value"], score["low"], score["high"]
    if value is None:
        return "–"
    factor, digits = (100, 1) if unit == "%" else (1, 3 if 0 < abs(value) < 0.1 else 2)

    def said(number: float) -> str:
        return f"{factor * number:.{digits}f}"

    star = "*" if score["small"] else ""
    if low is None or high is None:
        return f"{said(value)}{star}"
    return f"{said(value)} ({said(low)}–{said(high)}){star}"


def paper_row(summary: Summary) -> Iterator[str]:
    """One line as leaderboards have it: the main score by category, then the mean."""
    (column,) = [one for one in summary["columns"] if one["name"] == summary["main"]]
    whole = MEAN if summary["mean"] == "categories" else ALL
    names = [*categories(summary), whole]
    values = [
        "–" if (own := column["scores"][name])["value"] is None else figure(own, column["unit"])
        for name in names
    ]
    heads = [f"{column['title']} ↑", *names[:-1], f"**{_whole(whole)}**"]
    yield from _rows([heads, [editor_name(summary), *values[:-1], f"**{values[-1]}**"]])


def _whole(name: str) -> str:
    return {MEAN: "mean of categories", ALL: "all items"}.get(name, name)


def table(summary: Summary) -> list[list[str]]:
    """Categories as rows: items, what came of them, and every column with its interval."""
    counts, shown = summary["outcomes"], summary["columns"]
    failures = [name for name in OUTCOMES if name != "edited" and name in counts[ALL]]
    arrows = {"higher": " ↑", "lower": " ↓", "": ""}
    heads = ["category", "items", "edited", *failures]
    for column in shown:
        unit = f" ({column['unit']})" if column["unit"] else ""
        heads.append(f"{column['title']}{unit}{arrows[column['better']]}")
    rows = [heads]
    for name in [*categories(summary), MEAN, ALL]:
        own = counts.get(name, counts[ALL])
        some = [str(own.get(kind, 0)) for kind in ("edited", *failures)]
        cells = [str(sum(own.values())), *some] if name != MEAN else [""] * (len(some) + 1)
        scores = [figure(column["scores"][name], column["unit"]) for column in shown]
        rows.append([_whole(name), *cells, *scores])
    return rows


def notes(summary: Summary) -> Iterator[str]:
    """What every figure is, and how far it can be believed."""
    yield (
        "In parentheses: 95 % intervals over base pictures, whose items are related. A star: fewer "
        "than 30 items. Items without a result or without a usable verdict are in no mean."
    )
    for column in summary["columns"]:
        card = f" [{column['card']}]" if column["card"] else ""
        yield f"- {column['title']}: {column['definition']}{card}"
    for own in summary["sets"]:
        low, high = own["low"], own["high"]
        interval = "" if low is None else f" ({low:.5f}–{high:.5f})"
        yield (
            f"- {own['title']} of {own['n']} results to their {own['to']}: {own['value']:.5f}"
            f"{interval}; {own['definition']} [{own['card']}]"
        )
    for title, reason in summary["unavailable"].items():
        yield f"- not measured: {title}, {reason}"
    run = summary["run"]
    yield f"- seed {run['seed']}, policy {run['policy']}, data {run['data']}"
    if summary["judges"]:
        yield from _judge_notes(summary["judges"])
    for own in summary["pairwise"] or ():
        wins = figure(own["wins"][ALL], "%")
        yield (
            f"- {own['judge']}, pairs in both orders: {wins} % of {own['items']} items won against "
            f"the other run ({own['verdict']}); orders contradict in "
            f"{_share(own['orders_contradict'])}; {own['unusable']} verdicts unusable"
        )


def _judge_notes(judges: Mapping[str, Any]) -> Iterator[str]:
    hashes = [one[:12] for own in judges["prompt_sha256"].values() for one in own]
    for card in judges["cards"]:
        lost = ", ".join(f"{count} {why}" for why, count in card["unusable"].items()) or "none"
        spread = card["spread_over_passes"]
        told = "" if spread is None else f"; standard deviation over passes {spread:.2f}"
        yield (
            f"- judge {card['judge']} ({judges['rubric']}, {judges['passes']} passes, prompts "
            f"{', '.join(hashes)}): {card['items']} items scored, unusable verdicts: {lost}; "
            f"canaries: {canaries(card)}{told}"
        )
    apart = judges["disagreement"]
    if apart and apart["items"]:
        rank = apart["rank_correlation"]
        yield (
            f"- the judges differ by {apart['mean_absolute_difference']:.2f} on average over "
            f"{apart['items']} items; {apart['far_apart']:.0%} are far apart; rank correlation "
            + ("–" if rank is None else f"{rank:.2f}")
        )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _rows(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table; the first row is its heading."""
    clean = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    yield "| " + " | ".join(clean[0]) + " |"
    yield "|" + "---|" * len(clean[0])
    for row in clean[1:]:
        yield "| " + " | ".join(row) + " |"
