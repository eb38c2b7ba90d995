"""A chunk of ingest's plan, the tables that come of one, and what is done without an item.

The home that a worker finds may be a copy. It must hold the hash lists, the opt-outs and the key of
the home that the plan was made with: `vouched` says which those are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from kontext.data.gating import Row, outcome_row, reject_row
from kontext.data.sources.base import SourceItem
from kontext.safety.ids import subject_hmac
from kontext.safety.keys import KEY_FILE, key_id, run_key
from kontext.safety.list_files import list_files, lists_digest
from kontext.safety.opt_outs import opt_outs
from kontext.safety.policy import Policy, load_policy
from schemas.sections.data import IngestConfig
from schemas.tables import DECISIONS, EDITS, IMAGES, MOMENTS, OUTCOMES, PIXELS, REJECTS

WORKER_LOST = "worker_lost"  # reason of a reject: nobody could work on it and live
TABLES = {
    "images": IMAGES,
    "pixels": PIXELS,
    "rejects": REJECTS,
    "decisions": DECISIONS,
    "moments": MOMENTS,
    "outcomes": OUTCOMES,
}


@dataclass(frozen=True)
class IngestChunk:
    """A chunk of the plan: everything its worker needs.

    `vouched` says with which hash lists, opt-outs and key the plan was made: a worker on another
    machine has a home of its own, which must hold the same.
    """

    items: tuple[SourceItem, ...]
    config: IngestConfig
    home: str
    vouched: tuple[str, ...]
    policy: Policy

    @classmethod
    def of(cls, items: Sequence[SourceItem], config: IngestConfig, home: Path) -> IngestChunk:
        """A chunk of these items, vouched for by this machine's home."""
        run_key(home)  # made, where there is none yet
        policy = load_policy(config.policy)
        return cls(tuple(items), config, str(home), vouched(config, home), policy)

    def files(self) -> set[Path]:
        """The files that items are in, or are parts of."""
        return {item.file for item in self.items if item.file is not None}

    def halves(self) -> tuple[IngestChunk, IngestChunk] | None:
        """Two chunks of half the items each; None for a single item."""
        middle = len(self.items) // 2
        if not middle:
            return None
        return (
            replace(self, items=self.items[:middle]),
            replace(self, items=self.items[middle:]),
        )

    def given_up(self, why: str) -> Mapping[str, pa.Table]:
        """The tables of a single item that cost workers: it is rejected, with nothing kept."""
        (item,), rows = self.items, no_rows(self.config)
        subject = subject_hmac(f"{item.source}/{item.ref}", run_key(Path(self.home)))
        reject = reject_row(item.source, subject, item.ref, WORKER_LOST, why)
        rows["rejects"].append(reject)
        rows["outcomes"].append(outcome_row(reject, checked=False))
        return tables_of(rows)


def vouched(config: IngestConfig, home: Path) -> tuple[str, ...]:
    """Digests of the hash lists and opt-outs in force, and the key's id, which is not made here."""
    stats = [path.stat() for path in list_files(config.hash_lists, home)]
    stamps = tuple((found.st_ino, found.st_mtime_ns, found.st_size) for found in stats)
    key = key_id(run_key(home)) if (home / KEY_FILE).exists() else ""
    return _lists(config.hash_lists, home, stamps), opt_outs(home).digest, key


@lru_cache(maxsize=2)
def _lists(named: tuple[str, ...], home: Path, stamps: tuple[tuple[int, ...], ...]) -> str:
    """Digest of the lists, which are long: read again where one of them is another file."""
    return lists_digest(named, home)


def no_rows(config: IngestConfig) -> dict[str, list[Row]]:
    """A list of rows for each of a chunk's tables."""
    return {name: [] for name in (*TABLES, *(["edits"] if config.edits.per_picture else []))}


def tables_of(rows: Mapping[str, list[Row]]) -> dict[str, pa.Table]:
    """The tables of these rows."""
    schemas = TABLES | {"edits": EDITS}
    return {name: pa.Table.from_pylist(own, schemas[name]) for name, own in rows.items()}
