"""Who is counted: raters who find the right answer where it is known."""

from __future__ import annotations

import hashlib
import hmac
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from kontext.evaluate.arena.contest import ORACLE
from kontext.store.votes import Vote

QUESTIONS = ("instruction", "consistency", "quality")
ASKED = "instruction"  # the one question whose answer is known of a gold item
BLOCK = 10  # votes; a rater's first block has FIRST gold items, each later one a single one
FIRST = 4  # gold items that have to be answered before a rater is counted
PASS = 0.8  # share of them that has to be right
HABIT = 3.3  # standard errors of the left's share from a half: one honest rater of a thousand


@dataclass(frozen=True)
class Rater:
    """A rater of one pool, and what the gold items say of him."""

    name: str
    pool: str
    votes: int  # gold items not counted
    gold: int  # answered; a skipped one is not
    right: int
    left: int = 0  # answers for the left side to the question about the instruction, gold or not
    decided: int = 0  # such answers for either side

    @property
    def one_sided(self) -> bool:
        """Whether he chose a side more often than lots explain: sides are drawn."""
        return abs(2 * self.left - self.decided) > HABIT * math.sqrt(self.decided)

    @property
    def status(self) -> Literal["counted", "excluded", "untested"]:
        """Whether his votes count. One who has answered too few gold items is untested."""
        if self.gold < FIRST:
            return "untested"
        return "counted" if self.right >= PASS * self.gold else "excluded"

    @property
    def said(self) -> str:
        """One line about it."""
        return self._status_said + (
            f"; chose left in {self.left / self.decided:.0%} of {self.decided} decided answers"
            if self.one_sided
            else ""
        )

    @property
    def _status_said(self) -> str:
        known = f"{self.right} of {self.gold} gold items right"
        if self.status == "untested":
            return f"{self.name}: not counted yet, {self.gold} of {FIRST} gold items answered"
        if self.status == "excluded":
            return f"{self.name}: excluded, {known} ({PASS:.0%} are needed)"
        return f"{self.name}: {self.votes} votes, {known}"


def raters(votes: Iterable[Vote]) -> list[Rater]:
    """All raters, by pool and name."""
    found: dict[tuple[str, str], list[Vote]] = {}
    for vote in votes:
        found.setdefault((vote.pool, vote.rater), []).append(vote)
    made = []
    for (pool, name), own in sorted(found.items()):
        gold = [vote.share(ASKED, ORACLE) for vote in own if vote.gold]
        answered = [share for share in gold if share == share]
        sides = [getattr(vote, ASKED) for vote in own]
        left, right = sides.count("left"), sides.count("right")
        tested = len(answered), answered.count(1.0)
        made.append(Rater(name, pool, len(own) - len(gold), *tested, left, left + right))
    return made


def is_gold_turn(number: int, rater: str, seed: int, key: bytes) -> bool:
    """Whether a rater's vote of this number, from 0, is on a gold item.

    Drawn with the home's secret: who knows this code, his name and the seed cannot tell.
    """
    block, place = divmod(number, BLOCK)
    what = f"{seed}:{rater}:{block}".encode()
    draw = random.Random(hmac.new(key, what, hashlib.sha256).digest())
    return place in draw.sample(range(BLOCK), 1 if block else FIRST)


def of_status(votes: Sequence[Vote], *statuses: str) -> list[Vote]:
    """Votes that rate editors (no gold items), by raters of these statuses."""
    who = {(one.pool, one.name) for one in raters(votes) if one.status in statuses}
    return [vote for vote in votes if not vote.gold and (vote.pool, vote.rater) in who]
