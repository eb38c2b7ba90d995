"""Which of two edits is better: asked in both orders, because judges prefer a place.

An edit wins where both orders say so. Where they contradict each other, or one says it is a tie,
it is half a win for each; how often they do is the judge's position bias.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from kontext.data.chat.prompts import Prompt
from kontext.evaluate.judges.base import Reply

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_SYSTEM = """You are a strict judge of picture editors. You are shown a picture (source), an
instruction, and what two editors made of it (A and B). Answer with one JSON object.
"reasons": first say, in a few sentences, what each of the two did, what is missing in it, and what
it changed that the instruction does not ask for.
"better": "A" or "B", whichever does what is asked for, keeps the rest as it was, and has fewer
visible faults, in this order; "tie" where you cannot tell them apart.
The order in which they are shown means nothing."""


class Choice(Reply):
    """Which one is better."""

    better: Literal["A", "B", "tie"]


class Duel(NamedTuple):
    """Two edits of an item. All are pixel ids but the first two."""

    item: str
    instruction: str
    context: str
    own: str
    other: str


def both_orders(duel: Duel) -> list[Prompt[Any]]:
    """The question with the own edit as A, and with the other one as A."""
    orders = ((duel.own, duel.other), (duel.other, duel.own))
    kinds = ("pair", "pair_swapped")
    source = (("source", duel.context),) if duel.context else ()
    return [
        Prompt(
            key=duel.item,
            kind=kind,
            system=_SYSTEM,
            text=json.dumps({"instruction": duel.instruction}, ensure_ascii=False),
            pictures=(*source, ("A", first), ("B", second)),
            answer=Choice,
            check=lambda reply: None,
        )
        for kind, (first, second) in zip(kinds, orders, strict=True)
    ]


def outcome(answers: Sequence[Any]) -> dict[str, float]:
    """`win`: 1, 0 or ½ of a tie. `contradicted`: 1 where the orders name different edits."""
    as_first, as_second = answers
    wins = (as_first.better == "A") + (as_second.better == "B")
    losses = (as_first.better == "B") + (as_second.better == "A")
    win = 1.0 if wins == 2 else 0.0 if losses == 2 else 0.5
    return {"win": win, "contradicted": float(wins == losses == 1)}
