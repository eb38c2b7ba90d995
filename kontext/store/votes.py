"""Votes of the arena: an object each in the store, and rows of the catalog's table `votes`.

The object comes first and is written only where there is none. So a vote that was answered for is
never lost, nobody gives it twice, and a catalog can be made again from the store.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kontext.errors import CatalogError, DoubledVote, ObjectExists, VoteError
from kontext.store.catalog.catalog import Catalog
from kontext.store.lake.ddl import quote
from kontext.store.objects import ObjectStore
from schemas.catalog import VOTES

Answer = Literal["left", "right", "tie", "skip"]
Pool = Literal["people", "vlm"]
_PREFIX = "votes/"
_TOGETHER = 1.0  # seconds in which votes come to one commit: each is a file of the lake
_LOG = logging.getLogger(__name__)


class Vote(BaseModel):
    """One row of VOTES, whose comments say what each field is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vote_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    evaluation: str
    pool: Pool
    rater: str
    pair_id: str
    category: str
    component_id: str
    left_editor: str
    right_editor: str
    gold: bool
    seed: int = Field(ge=-(2**63), lt=2**63)
    instruction: Answer
    consistency: Answer
    quality: Answer
    seconds: float
    voted_at: datetime

    @property
    def editors(self) -> tuple[str, str]:
        """Both, in alphabetical order."""
        first, second = sorted((self.left_editor, self.right_editor))
        return first, second

    def share(self, question: str, editor: str) -> float:
        """1 where `editor` was chosen, 0 where the other one, 0.5 for a tie, nan for none."""
        answer = getattr(self, question)
        if answer in ("tie", "skip"):
            return 0.5 if answer == "tie" else math.nan
        chosen = self.left_editor if answer == "left" else self.right_editor
        return float(chosen == editor)


def vote_id(evaluation: str, pool: str, rater: str, pair_id: str, editors: tuple[str, str]) -> str:
    """SHA-256 of what a rater votes on once; editors in alphabetical order."""
    what = [evaluation, pool, rater, pair_id, *editors]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


class VoteBook:
    """The votes on the edits of one evaluation, those of earlier servers too.

    `damaged` has, by vote id, what is wrong with those that cannot be read; the others count.

    A vote is stored when `add` returns. It enters the catalog a moment later, on a thread of its
    own: who votes does not wait for others that write there.
    """

    def __init__(self, objects: ObjectStore, catalog: Catalog, evaluation: str) -> None:
        self._objects, self._catalog, self.evaluation = objects, catalog, evaluation
        self.damaged = _enter(objects, catalog, evaluation)[1]
        sql = f"SELECT * FROM votes WHERE evaluation = {quote(evaluation)} ORDER BY voted_at"
        self.votes = [Vote(**row) for row in catalog.query(sql).to_pylist()]
        self._late: list[Vote] = []  # kept, and not yet in the catalog
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "votes")
        self._closing = threading.Event()

    def add(self, vote: Vote) -> None:
        """Keep a vote. Raises DoubledVote, StoreError."""
        try:
            self._objects.put(_key(vote), vote.model_dump_json().encode(), if_absent=True)
        except ObjectExists as error:
            self.refresh()
            raise DoubledVote(f"{vote.rater} has voted on this pair already") from error
        self.votes.append(vote)
        with self._lock:
            self._late.append(vote)
        self._worker.submit(self._enter_late)

    def refresh(self) -> None:
        """Take in what other servers of the same store have kept."""
        known = {vote.vote_id for vote in self.votes} | self.damaged.keys()
        found, damaged = _unknown(self._objects, self.evaluation, known)
        self.votes += found
        self.damaged |= damaged

    def close(self) -> None:
        """Wait until all votes are in the catalog."""
        self._closing.set()
        self._worker.shutdown()

    def _enter_late(self) -> None:
        """All that have come; where the catalog refuses, with the next vote or the next start."""
        if self._late:
            self._closing.wait(_TOGETHER)
        with self._lock:
            coming, self._late = self._late, []
        if not coming:
            return
        try:
            self._catalog.add("votes", _table(coming), "vote_id")
        except CatalogError as error:
            _LOG.warning("%d votes are kept and not yet in the catalog: %s", len(coming), error)
            with self._lock:
                self._late = [*coming, *self._late]


def enter(objects: ObjectStore, catalog: Catalog, evaluation: str = "") -> int:
    """Enter kept votes that the catalog lacks; how many those were.

    Raises VoteError of those that cannot be read, when the others are entered.
    """
    count, damaged = _enter(objects, catalog, evaluation)
    if damaged:
        first, more = next(iter(damaged.values())), len(damaged) - 1
        raise VoteError(first + (f" (and {more} more)" if more else ""))
    return count


def _enter(objects: ObjectStore, catalog: Catalog, evaluation: str) -> tuple[int, dict[str, str]]:
    catalog.migrate()
    known = set(catalog.query("SELECT vote_id FROM votes").column(0).to_pylist())
    missing, damaged = _unknown(objects, evaluation, known)
    count = catalog.add("votes", _table(missing), "vote_id") if missing else 0
    return count, damaged


def _unknown(
    objects: ObjectStore, evaluation: str, known: Collection[str]
) -> tuple[list[Vote], dict[str, str]]:
    """Kept votes of other ids than `known`, and by id what is wrong with those that are none."""
    found, damaged = [], {}
    for key in objects.list(f"{_PREFIX}{evaluation}/" if evaluation else _PREFIX):
        name = key.rpartition("/")[2].removesuffix(".json")
        if name in known:
            continue
        try:
            found.append(_read(objects, key))
        except VoteError as error:
            damaged[name] = str(error)
    return found, damaged


def _read(objects: ObjectStore, key: str) -> Vote:
    """Raises VoteError: torn, changed by hand, or under a key that is not its own."""
    try:
        vote = Vote.model_validate_json(objects.get(key))
    except ValidationError as error:
        raise VoteError(_no_vote(objects, key)) from error
    own = vote_id(vote.evaluation, vote.pool, vote.rater, vote.pair_id, vote.editors)
    if vote.vote_id != own or key != _key(vote):
        raise VoteError(_no_vote(objects, key))
    return vote


def _no_vote(objects: ObjectStore, key: str) -> str:
    return f"'{key}' in {objects.url} is no vote: bring it back, or delete it"


def _key(vote: Vote) -> str:
    return f"{_PREFIX}{vote.evaluation}/{vote.vote_id}.json"


def _table(votes: Sequence[Vote]) -> pa.Table:
    return pa.Table.from_pylist([vote.model_dump() for vote in votes], schema=VOTES)
