"""Votes of the arena: an object each in the store, and rows of the catalog's table `votes`.

The object comes first and is written only where there is none. So a vote that was answered for is
never lost, nobody gives it twice, and a catalog can be made again from the store.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Sequence
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
    seed: int
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


class VoteBook:
    """The votes on the edits of one evaluation, those of earlier servers too.

    A vote is stored when `add` returns. It enters the catalog a moment later, on a thread of its
    own: who votes does not wait for others that write there.
    """

    def __init__(self, objects: ObjectStore, catalog: Catalog, evaluation: str) -> None:
        self._objects, self._catalog, self.evaluation = objects, catalog, evaluation
        enter(objects, catalog, evaluation)
        sql = f"SELECT * FROM votes WHERE evaluation = {quote(evaluation)} ORDER BY voted_at"
        self.votes = [Vote(**row) for row in catalog.query(sql).to_pylist()]
        self._late: list[Vote] = []  # kept, and not yet in the catalog
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "votes")
        self._closing = threading.Event()

    def add(self, vote: Vote) -> None:
        """Keep a vote. Raises DoubledVote, StoreError."""
        key = f"{_PREFIX}{vote.evaluation}/{vote.vote_id}.json"
        try:
            self._objects.put(key, vote.model_dump_json().encode(), if_absent=True)
        except ObjectExists as error:
            raise DoubledVote(f"{vote.rater} has voted on this pair already") from error
        self.votes.append(vote)
        with self._lock:
            self._late.append(vote)
        self._worker.submit(self._enter_late)

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
    """Enter kept votes that the catalog lacks; how many those were. Raises VoteError."""
    catalog.migrate()
    known = set(catalog.query("SELECT vote_id FROM votes").column(0).to_pylist())
    keys = objects.list(f"{_PREFIX}{evaluation}/" if evaluation else _PREFIX)
    missing = [key for key in keys if key.rpartition("/")[2].removesuffix(".json") not in known]
    if not missing:
        return 0
    return catalog.add("votes", _table([_read(objects, key) for key in missing]), "vote_id")


def _read(objects: ObjectStore, key: str) -> Vote:
    try:
        return Vote(**json.loads(objects.get(key)))
    except (ValidationError, ValueError, TypeError) as error:
        raise VoteError(
            f"'{key}' in {objects.url} is no vote: bring it back, or delete it"
        ) from error


def _table(votes: Sequence[Vote]) -> pa.Table:
    return pa.Table.from_pylist([vote.model_dump() for vote in votes], schema=VOTES)
