"""Who asks the policy of an edit: the editor has a guard, or says by name that it has none."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kontext.errors import KontextError
from kontext.safety.chains import Chains
from kontext.safety.classifiers.base import Pixels
from kontext.safety.edit_log import EditLog
from kontext.safety.edits import EditScreening
from kontext.safety.hashes import HashGate
from kontext.safety.ids import Check, Decision, Outcome, Reason, pixel_id
from kontext.safety.keys import run_key
from kontext.safety.policy import Policy, load_policy
from kontext.safety.proof import whole_gate
from kontext.store.objects import ObjectStore
from schemas.sections.data import IngestConfig

CHANGES_RESULTS = False  # checks what users edit; no stage does


class Screening(Protocol):
    """The checks of one edit: everything passes, and is written down, before it is handed out."""

    @property
    def policy(self) -> str:
        """Its policy, or why there is none."""

    @property
    def hash_lists(self) -> str:
        """Name and version of every list that is matched."""

    def check_instruction(self, instruction: str) -> None:
        """Of every turn."""

    def check_together(self, instructions: Sequence[str]) -> None:
        """What several turns say as one, and those that the input was made by."""

    def check_input(self, image: Pixels, data: bytes = b"", token: str = "") -> None:
        """Each image, before the edit; the first is the edited one."""

    def check_result(self, image: Pixels, turn: int = 0) -> None:
        """Each result, with all inputs."""

    def commit(self) -> None:
        """Write down what has passed. Only then may results be handed out."""

    def token(self, image: Pixels) -> str:
        """What a saved result says of where its chain began."""


class Guard(Protocol):
    """Makes the screening of each edit."""

    def begin(self) -> Screening:
        """The screening of one edit, or of all turns of a session."""


@dataclass(frozen=True)
class EditGuard:
    """The policy, the hash lists and the ledger of a home: what edits are asked of.

    guard = EditGuard.of(home, objects)        # the default policy, the home's lists
    editor = Editor(model, guard)
    """

    policy: Policy
    gate: HashGate
    log: EditLog

    @classmethod
    def of(
        cls,
        home: Path,
        objects: ObjectStore,
        policy: str = "default",
        hash_lists: Sequence[str] = (),
    ) -> "EditGuard":
        """The guard of a home whose ledger is in a store; a gate that fails is a row there.

        Raises:
            RecipeError: no such policy.
            GateError: a list or the home's key cannot be used; or (CanaryError) a list in force is
                not matched.
            LedgerError: the ledger was changed or cut off.
        """
        log = EditLog(objects, home)
        log.check()
        found = load_policy(policy)
        try:
            gate = whole_gate(IngestConfig(hash_lists=tuple(hash_lists)), home)
        except KontextError:
            subject, why = log.subject(f"edit {secrets.token_hex(8)}"), Reason.GATE_ERROR
            row = Decision("edit", subject, Check.HASH_GATE, "", Outcome.ERROR, why, found.id)
            log.write([row])
            raise
        return cls(found, gate, log)

    def begin(self) -> EditScreening:
        """See `Guard`. Raises GateError where the home's key cannot be used."""
        days = self.policy.retention.edit_days
        chains = Chains(self.log.home, run_key(self.log.home), days)
        return EditScreening(self.policy, self.gate, self.log, chains)


@dataclass(frozen=True)
class Unguarded:
    """Edits that no policy is asked of, for a reason that each of them carries.

    Each is a row of the ledger all the same (`unguarded`), and `why` is in its provenance.
    """

    why: str
    log: EditLog

    def __post_init__(self) -> None:
        """Raises KontextError where no reason is given."""
        if not self.why.strip():
            raise KontextError("edits without a policy need a reason: Unguarded(why, log)")

    def begin(self) -> "NoScreening":
        """See `Guard`. Raises LedgerError or GateError where nothing could be written down."""
        self.log.check()
        return NoScreening(self.log, f"none: {self.why}")


class NoScreening:
    """Lets everything pass, and writes down that it did."""

    hash_lists = ""

    def __init__(self, log: EditLog, policy: str) -> None:
        self.policy, self._log = policy, log
        self._rows: list[Decision] = []

    def check_instruction(self, instruction: str) -> None:
        """See `Screening`."""

    def check_together(self, instructions: Sequence[str]) -> None:
        """See `Screening`."""

    def check_input(self, image: Pixels, data: bytes = b"", token: str = "") -> None:
        """See `Screening`."""

    def check_result(self, image: Pixels, turn: int = 0) -> None:
        """See `Screening`."""
        subject = self._log.subject(pixel_id(image))
        passed, why = Outcome.PASS, Reason.UNGUARDED
        self._rows.append(Decision("image", subject, Check.EDIT, "", passed, why, "none"))

    def commit(self) -> None:
        """See `Screening`."""
        self._log.write(self._rows)
        self._rows = []

    def token(self, image: Pixels) -> str:
        """None: nothing is known of it."""
        return ""
