"""The editor's screening: every image of an edit is matched and scored exactly once."""

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from kontext.errors import CanaryError, SafetyRefusal
from kontext.safety.chains import UNKNOWN, Chains, began_by_token, token_of
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import Pixels, Scores, prove, score_images
from kontext.safety.edit_log import EditLog
from kontext.safety.edit_proof import prove_rules
from kontext.safety.edit_rule import Seen, judge
from kontext.safety.hashes import GateResult, HashGate
from kontext.safety.ids import NO_SCORE, Check, Decision, Outcome, Reason, pixel_id
from kontext.safety.ncii import Look
from kontext.safety.pdq import pdq_dihedral, without_borders
from kontext.safety.policy import COMBINATION, Policy
from kontext.safety.proof import prove_gate
from kontext.safety.refusals import line_of
from kontext.safety.texts import joined, judge_text, judged_by, prove_texts
from schemas.risks import risks

CHANGES_RESULTS = False  # checks what users edit; no stage does

_TEXTS = "texts"
_asked: set[str] = set()  # by this process since their last proof: classifiers' names, and _TEXTS
_proving = threading.Lock()  # who finds nothing in _asked has waited for the proof of another


class EditScreening:
    """Screens one edit request: its instructions, its images and its results.

    screening = EditGuard.of(home, objects).begin()
    screening.check_instruction(instruction)   # of every turn
    screening.check_input(image, data)   # each image, before the edit
    screening.check_result(made)         # each result, with all inputs
    screening.commit()                   # then results may be saved

    Every call returns if the policy lets the image pass and raises SafetyRefusal if not, with a
    reason and one line that repeats no content. A refusal, and a check that could not be made, is
    in the ledger before it is raised; passes are with `commit`.
    """

    def __init__(self, policy: Policy, gate: HashGate, log: EditLog, chains: Chains) -> None:
        """Screen by `policy` and the hash lists of `gate`."""
        self._policy, self._gate, self._log, self._chains = policy, gate, log, chains
        self._inputs: list[Seen] = []
        self._began = UNKNOWN  # the lowest exposure of what the edited image was made of
        self._turns: list[Seen] = []  # results of the earlier turns
        self._worst: dict[str, float] = {}  # risk -> largest score of any image so far
        self._frame: GateResult | None = None  # of a later picture that is on a list
        self._rows: list[Decision] = []
        self._results: list[tuple[str, bytes, float]] = []
        self._kept = 0  # of the results, how many the chains know
        self._unproved = False  # what was asked had broken: nothing that it said holds

    @property
    def policy(self) -> str:
        """Version and digest of the policy."""
        return self._policy.id

    @property
    def hash_lists(self) -> str:
        """Name and version of every list that is matched; the canary bank is always one."""
        return self._gate.version

    @property
    def notes(self) -> tuple[str, ...]:
        """What is amiss with the lists: there is none, or one is stale."""
        return tuple(note.removeprefix("allow_unlisted: ") for note in self._gate.notes)

    def check_instruction(self, instruction: str) -> None:
        """Check an instruction with the text rules and the text classifier.

        Raises:
            SafetyRefusal: it is forbidden.
            GateError: the classifier cannot be asked.
        """
        self._check_text(instruction, self._policy.texts.limit)

    def _check_text(self, instruction: str, limit: float) -> None:
        subject = f"text {instruction}"
        with self._asking("text", subject, Check.TEXT_RULE):
            reason, by = judge_text(instruction, limit), judged_by()
        _asked.add(_TEXTS)  # now: a proof of another thread until here says nothing of it
        self._decide("text", subject, Check.TEXT_RULE, by, reason, limit=limit)

    def check_together(self, instructions: Sequence[str]) -> None:
        """Check what several turns say as one, each of which has passed alone.

        Raises:
            SafetyRefusal, GateError: as `check_instruction`.
        """
        said = [text for text in instructions if text.strip()]
        if len(said) > 1:
            self._check_text(joined(said), self._policy.texts.limit_joined)

    def sees_frame(self, image: Pixels) -> bool:
        """Match a picture behind the first of a file, as it is decoded; whether to go on.

        None of them is edited or kept, but a file that has one is refused: see `check_frames`.
        """
        with self._checking(image, Check.HASH_GATE):
            found = self._gate.check_pixels(image)
        self._frame = found if found.outcome is Outcome.DROP else None
        return self._frame is None

    def check_frames(self, image: Pixels) -> None:
        """Refuse the file of `image`, its first picture, where a later one was on a list.

        Raises:
            SafetyRefusal: it was.
        """
        if self._frame is not None:
            provider, reason = self._frame.provider, Reason(self._frame.reason)
            self._decide("image", pixel_id(image), Check.HASH_GATE, provider, reason)

    def match_hashes(self, image: Pixels, data: bytes = b"") -> Outcome:
        """Match an image (uint8 [H, W, 3]), and the file it came from, against the hash lists.

        Raises:
            SafetyRefusal: a list has it.
        """
        with self._checking(image, Check.HASH_GATE):
            found = self._gate.check(data, image)
        hit = Reason(found.reason) if found.outcome is Outcome.DROP else None
        subject = pixel_id(image)
        self._decide("image", subject, Check.HASH_GATE, found.provider, hit, passed=found.outcome)
        return found.outcome

    def check_input(self, image: Pixels, data: bytes = b"", token: str = "") -> None:
        """Match and score an input or reference image.

        Args:
            token: what the file says of where its chain began (`token`), where it says so.

        Raises:
            SafetyRefusal: the policy forbids it.
        """
        own = Seen(image, self._look(image, data))
        if not self._inputs:
            with self._checking(image, Check.PAIR_RULE):
                self._began = self._beginning(image, token)
        self._inputs.append(own)

    def check_result(self, image: Pixels, turn: int = 0) -> None:
        """Match and score a result, and apply the pair rule to it.

        It is compared with the first input, which is edited, with what that was made of and with
        the results of earlier turns: of these, with the least exposed. The other inputs can show a
        person only.

        Args:
            turn: of a session, from 0.

        Raises:
            SafetyRefusal: the policy forbids it.
        """
        own = Seen(image, self._look(image))
        self._turns = self._turns[:turn] if turn else []
        least = self.judge_result(self._inputs, self._turns, own, self._began)
        self._turns.append(own)
        self._results.append((pixel_id(image), pdq_dihedral(image)[0][0].tobytes(), least))

    def commit(self) -> None:
        """Write what has passed into the ledger. Until then nothing may be saved or shown.

        Whatever was asked first shows that it stops what it must: it may have been broken, or be
        by now, and a server runs for weeks. Where it does not, nothing of this request is handed
        out any more, also when it works again: what it has said is not known to hold.

        Raises:
            StoreError: the ledger cannot be written.
            GateError: the results cannot be kept for the edits that may follow; or (CanaryError)
                what let this edit pass does not work.
        """
        with _proving:
            self._prove()
        self._chains.remember(self._results[self._kept :])
        self._kept = len(self._results)
        if self._rows:
            self._log.write(self._rows)
        self._rows = []

    def _prove(self) -> None:
        """Raise CanaryError where something that was asked does not work; that is a row, too."""
        if self._unproved:
            raise CanaryError("a check of this edit did not work: begin it anew")
        names = [name for name in (_TEXTS, *self._policy.classifiers) if name in _asked]
        _asked.difference_update(names)  # first: what another thread asks meanwhile counts anew
        check = Check.HASH_GATE
        try:
            prove_gate(self._gate)
            check = Check.PAIR_RULE
            prove_rules(self._policy, self._unwritten)
            for name in names:
                check = Check.TEXT_RULE if name == _TEXTS else Check.CLASSIFIER
                if name == _TEXTS:
                    prove_texts(self._policy.texts.limit)
                else:
                    prove(load_classifier(name, threads=2))
        except Exception:
            _asked.update(names)
            self._unproved, self._rows = True, []  # what has passed may not pass
            subject, why = f"edit {secrets.token_hex(8)}", Reason.GATE_ERROR
            self._log.write([self._row("edit", subject, check, "", Outcome.ERROR, why)])
            raise

    def _unwritten(self) -> "EditScreening":
        """Another one, that judges canaries and keeps nothing of them."""
        return EditScreening(self._policy, self._gate, _Nowhere(), self._chains)

    def token(self, image: Pixels) -> str:
        """What a saved result says of where its chain began, signed by the home's key.

        Raises:
            KeyError: it is no result that has passed.
        """
        own = pixel_id(image)
        pdq, began = {made: (pdq, began) for made, pdq, began in self._results}[own]
        return token_of(pdq, began, self._log.key())

    def judge_result(
        self, inputs: Sequence[Seen], turns: Sequence[Seen], own: Seen, began: float
    ) -> float:
        """The pair rule on a result. Returns the least exposure of the chain before it.

        Args:
            inputs: the edited image, then references.
            turns: results of the earlier turns.
            began: the lowest exposure that is known of what the edited image was made of.

        Raises:
            SafetyRefusal: it may not be handed out.
        """
        found = judge(self._policy, inputs, turns, own, began)
        check = Check.PAIR_RULE if found.reason else Check.EDIT
        score = NO_SCORE if np.isnan(found.rise) else found.rise
        facts = (found.reason, score, self._policy.ncii.exposure_rise_max)
        self._decide("image", pixel_id(own.image), check, f"ncii@{self.policy}", *facts)
        return float(found.least.exposure[0])

    def _beginning(self, image: Pixels, token: str) -> float:
        """Of all that is known of where the edited image comes from, the lowest exposure."""
        if not token and self._chains.empty:
            return UNKNOWN
        views = [image, *without_borders(image)]
        hashes = np.concatenate([pdq_dihedral(view)[0] for view in views])
        kept = self._chains.began_with(pixel_id(image), hashes)
        return min(kept, began_by_token(token, hashes, self._log.keys()) if token else UNKNOWN)

    def _look(self, image: Pixels, data: bytes = b"") -> Look:
        """What the pair rule needs to know of an image [1] that passes alone.

        Raises:
            SafetyRefusal: it does not pass.
        """
        unmatchable = self.match_hashes(image, data) is Outcome.UNMATCHABLE
        scores: Scores = {}
        versions: dict[str, str] = {}
        with self._checking(image, Check.CLASSIFIER):
            for name in self._policy.classifiers:
                classifier = load_classifier(name, threads=2)
                versions[name] = classifier.version
                scores |= score_images(classifier, [image])
                _asked.add(name)
            risk = self._policy.risk(scores)
        values = {name: float(value) for name, (value,) in risk.scores.items()}
        self.judge_scores(values, unmatchable, pixel_id(image), versions)
        self.judge_together(values, pixel_id(image))
        return risk.look

    def judge_scores(
        self,
        scores: Mapping[str, float],
        unmatchable: bool,
        subject: str = "",
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """The limits on the risks of one image.

        Args:
            unmatchable: its limits are the stricter ones.
            subject: its pixel id.
            versions: of the classifiers, by name.

        Raises:
            SafetyRefusal: one is above its limit, or no score.
        """
        for name, value in scores.items():
            limit = self._policy.strictest(risks()[name].column, unmatchable)
            # written so that no number outside of the range passes, and NaN does not
            if 0 <= value <= limit:
                continue
            scored = 0 <= value <= 1
            reason = name if scored else Reason.CLASSIFIER_ERROR
            provider = (versions or {}).get(risks()[name].classifier, "")
            facts = (provider, reason, value if scored else NO_SCORE, limit)
            self._decide("image", subject, Check.CLASSIFIER, *facts)

    def judge_together(self, scores: Mapping[str, float], subject: str = "") -> None:
        """The policy's combinations, over all images of the edit so far.

        Raises:
            SafetyRefusal: one fires.
        """
        self._worst = {n: max(score, self._worst.get(n, 0.0)) for n, score in scores.items()}
        largest = {n: np.array([score], np.float32) for n, score in self._worst.items()}
        (fires,) = self._policy.combined(largest)
        if fires is not None:
            reason = f"{COMBINATION}{fires.name}"
            provider = f"combinations@{self.policy}"
            self._decide("image", subject, Check.PAIR_RULE, provider, reason)

    def _checking(self, image: Pixels, check: Check) -> AbstractContextManager[None]:
        return self._asking("image", pixel_id(image), check)

    @contextmanager
    def _asking(self, kind: str, subject: str, check: Check) -> Iterator[None]:
        """A check that cannot be made is a row too, and ends the edit."""
        try:
            yield
        except Exception:
            row = self._row(kind, subject, check, "", Outcome.ERROR, Reason.GATE_ERROR)
            self._log.write([*self._rows, row])
            raise

    def _decide(
        self,
        kind: str,
        subject: str,
        check: Check,
        provider: str,
        reason: str | None,
        score: float = NO_SCORE,
        limit: float = NO_SCORE,
        passed: Outcome = Outcome.PASS,
    ) -> None:
        """Keep the row of what has passed; write the row of what has not, and refuse."""
        if reason is None:
            self._rows.append(self._row(kind, subject, check, provider, passed, "", score, limit))
            return
        aside = self._policy.action(reason) == "quarantine"
        outcome = Outcome.QUARANTINE if aside else Outcome.DROP
        if reason == Reason.CLASSIFIER_ERROR:
            outcome = Outcome.ERROR
        row = self._row(kind, subject, check, provider, outcome, reason, score, limit)
        self._log.write([*self._rows, row])
        raise SafetyRefusal(reason, f"refused by policy {self._policy.version}: {line_of(reason)}")

    def _row(
        self,
        kind: str,
        subject: str,
        check: Check,
        provider: str,
        outcome: Outcome,
        reason: str,
        score: float = NO_SCORE,
        limit: float = NO_SCORE,
    ) -> Decision:
        own = self._log.subject(subject)
        version = self._policy.id
        return Decision(kind, own, check, provider, outcome, reason, version, score, limit)


class _Nowhere(EditLog):
    """The log of what judges canaries: no row of theirs is anything that happened."""

    def __init__(self) -> None:
        """It has no place."""

    def subject(self, name: str) -> str:
        """No id."""
        return ""

    def write(self, rows: Sequence[Decision], kind: str = "edit") -> None:
        """Nowhere."""
