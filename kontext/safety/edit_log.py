"""Where edits and refusals are written: rows of the ledger's chain `edits`, by keyed ids alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from kontext.safety.ids import Decision, subject_hmac
from kontext.safety.keys import known_keys, run_key
from kontext.safety.ledger import EDITS, Ledger
from kontext.store.objects import ObjectStore
from schemas.tables import DECISIONS

CHANGES_RESULTS = False  # writes down what users edit; no stage does


@dataclass(frozen=True)
class EditLog:
    """The chain of edits of one store, written with the key of one home."""

    objects: ObjectStore
    home: Path

    def check(self) -> None:
        """See that rows can be added, before work is done that would be lost.

        Raises:
            LedgerError: the end of the chain was changed or cut off.
            GateError: the home's key cannot be used.
        """
        run_key(self.home)
        self._ledger.end()

    def subject(self, name: str) -> str:
        """The keyed id of a picture, a text or an edit, which tells nothing about it."""
        return subject_hmac(name, run_key(self.home))

    def write(self, rows: Sequence[Decision], kind: str = "edit") -> None:
        """Add rows as one segment. What they are about must not be handed out before.

        Args:
            kind: what they are rows of: an edit, or an import that was refused.

        Raises:
            StoreError: they cannot be written.
            GateError: the home's key cannot be used.
        """
        table = pa.Table.from_pylist([row._asdict() for row in rows], schema=DECISIONS)
        self._ledger.add(kind, table)

    def key(self) -> bytes:
        """The home's own key. Raises GateError."""
        return run_key(self.home)

    def keys(self) -> dict[str, bytes]:
        """Key id -> key, of all keys that the home knows. Raises GateError."""
        return known_keys(self.home)

    @property
    def _ledger(self) -> Ledger:
        return Ledger(self.objects, self.home, EDITS)
