"""The arena itself: what a rater is asked next, and his votes."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from kontext.errors import DoubledVote, UnknownTask, VoteError
from kontext.evaluate.arena.contest import ORACLE, ArenaItem, Contest
from kontext.evaluate.arena.gold import QUESTIONS, Rater, is_gold_turn, of_status, raters
from kontext.evaluate.arena.pairing import value_of_asking
from kontext.store.votes import Pool, Vote, VoteBook, vote_id

if TYPE_CHECKING:
    from kontext.store.votes import Answer

_NAME = re.compile(r"[^\W_][\w .'-]{0,39}")  # of a name without its combining marks
_AGAIN = 5  # every fifth question repeats a pair that others have answered: do raters agree?


@dataclass(frozen=True)
class Task:
    """One question to one rater. `token` names it on the page and says nothing of the editors."""

    token: str
    vote_id: str
    item: ArenaItem
    left: str
    right: str
    gold: bool

    @property
    def editors(self) -> tuple[str, str]:
        """Both, in alphabetical order."""
        first, second = sorted((self.left, self.right))
        return first, second


def rater_name(text: str) -> str:
    """The name by which a rater is known. Raises VoteError for one that is no name."""
    name = " ".join(unicodedata.normalize("NFC", text).split()).casefold()
    # vowels of many scripts are marks, which are no letters to a regular expression
    letters = "".join(sign for sign in name if unicodedata.category(sign) not in ("Mn", "Mc"))
    if len(name) > 40 or not _NAME.fullmatch(letters):
        raise VoteError("a rater's name has 1 to 40 letters, digits, spaces, and . ' - _")
    return name


class Arena:
    """Asks, and takes votes. Several threads may call it.

    Args:
        key: secret; with it a token is made of a task, the same one after a restart, and the
            turns of gold items are drawn.
        seed: draws sides and gold items.
    """

    def __init__(
        self, contest: Contest, book: VoteBook, key: bytes, pool: Pool = "people", seed: int = 0
    ) -> None:
        assert contest.evaluation == book.evaluation
        self.contest, self.book, self.pool, self.seed = contest, book, pool, seed
        self._key = key
        self._lock = threading.RLock()
        self._tasks = lru_cache(maxsize=32)(self._all_tasks)

    def standing(self, rater: str) -> Rater:
        """How a rater stands."""
        with self._lock:
            found = raters(self._of(rater))
        return found[0] if found else Rater(rater, self.pool, 0, 0, 0)

    def find(self, rater: str, token: str) -> Task:
        """The task of a token. Raises UnknownTask."""
        with self._lock:
            task = self._tasks(rater).get(token)
        if task is None:
            raise UnknownTask("no such item in this arena: reload the page")
        return task

    def next(self, rater: str) -> Task | None:
        """What to ask now; None where the rater has answered everything."""
        with self._lock:
            done = {vote.vote_id for vote in self._of(rater)}
            closed = done | self.book.damaged.keys()  # nothing can be stored in their place
            left = [task for task in self._tasks(rater).values() if task.vote_id not in closed]
            gold = [task for task in left if task.gold]
            open_ = [task for task in left if not task.gold]
            if gold and (not open_ or is_gold_turn(len(done), rater, self.seed, self._key)):
                untested = self.standing(rater).status == "untested"
                return min(gold, key=self._drawn) if open_ or untested else None
            return self._worth_most(open_, len(done)) if open_ else None

    def vote(
        self, rater: str, token: str, answers: Mapping[str, Answer], seconds: float = 0.0
    ) -> Task:
        """Take a vote, an answer to each of QUESTIONS; it is stored when this returns.

        Raises VoteError (answers that are none), UnknownTask, DoubledVote, StoreError.
        """
        if set(answers) != set(QUESTIONS):
            raise VoteError(f"a vote answers {', '.join(QUESTIONS)}")
        with self._lock:
            task = self.find(rater, token)
            if any(vote.vote_id == task.vote_id for vote in self.book.votes):
                raise DoubledVote(f"{rater} has voted on this pair already")
            vote = Vote(
                vote_id=task.vote_id,
                evaluation=self.contest.evaluation,
                pool=self.pool,
                rater=rater,
                **{name: getattr(task.item, name) for name in _OF_ITEM},
                left_editor=task.left,
                right_editor=task.right,
                gold=task.gold,
                seed=self.seed,
                **answers,
                seconds=seconds,
                voted_at=datetime.now(UTC),
            )
            self.book.add(vote)
            return task

    def _of(self, rater: str) -> list[Vote]:
        own = (self.pool, rater)
        return [vote for vote in self.book.votes if (vote.pool, vote.rater) == own]

    def _worth_most(self, tasks: list[Task], number: int) -> Task:
        """The pair of editors whose rating difference is least certain, on an item little asked."""
        editors = sorted(self.contest.editors)
        index = {name: row for row, name in enumerate(editors)}
        known = [vote for vote in self.book.votes if vote.pool == self.pool]
        known = of_status(known, "counted", "untested")
        value = value_of_asking(known, editors).round(9)
        asked = Counter((vote.pair_id, vote.editors) for vote in known)
        related = Counter((vote.component_id, vote.editors) for vote in known)
        again = number % _AGAIN == _AGAIN - 1

        def order(task: Task) -> tuple[float, int, int, str]:
            first, second = task.editors
            times = asked[task.item.pair_id, task.editors]
            return (
                -value[index[first], index[second]],
                (times or len(known) + 1) if again else times,
                related[task.item.component_id, task.editors],
                self._drawn(task),
            )

        return min(tasks, key=order)

    def _drawn(self, task: Task) -> str:
        return hashlib.sha256(f"{self.seed}:order:{task.vote_id}".encode()).hexdigest()

    def _all_tasks(self, rater: str) -> dict[str, Task]:
        known = [self._task(rater, i, name, ORACLE, gold=True) for i, name in self.contest.gold]
        asked = [self._task(rater, *pair, gold=False) for pair in self.contest.pairs]
        return {task.token: task for task in (*asked, *known)}

    def _task(self, rater: str, item: ArenaItem, first: str, second: str, *, gold: bool) -> Task:
        first, second = sorted((first, second))
        name = vote_id(self.contest.evaluation, self.pool, rater, item.pair_id, (first, second))
        if hashlib.sha256(f"{self.seed}:{name}".encode()).digest()[0] & 1:
            first, second = second, first
        token = hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()[:32]
        return Task(token, name, item, first, second, gold)


_OF_ITEM = ("pair_id", "category", "component_id")
