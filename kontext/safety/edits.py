"""The editor's screening: every image of an edit is matched and scored exactly once."""

import numpy as np

from kontext.errors import SafetyRefusal
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import Pixels, Scores, score_images
from kontext.safety.hashes import HashGate
from kontext.safety.ids import Outcome, Reason
from kontext.safety.ncii import pair_reasons
from kontext.safety.policy import Policy
from kontext.safety.text import check_text
from schemas.risks import risks

CHANGES_RESULTS = False  # checks what users edit; no stage does


class EditScreening:
    """Screens one edit request: its instructions, its images and its results.

    screening = EditScreening(policy, gate)
    screening.check_instruction(instruction)   # of every turn
    screening.check_input(image, data)   # each image, before the edit
    screening.check_result(made)         # each result, before it is saved, with all inputs

    Every call returns if the policy lets the image pass and raises SafetyRefusal if not, with a
    reason and one line that repeats no content.
    """

    def __init__(self, policy: Policy, gate: HashGate | None = None) -> None:
        """Screen by `policy` and the hash lists of `gate`; None: the canary bank only."""
        self._policy, self._gate = policy, gate or HashGate()
        self._inputs: list[tuple[float, float]] = []  # exposure and person score of each

    def check_instruction(self, instruction: str) -> None:
        """Check an instruction with the text rules.

        Raises:
            SafetyRefusal: a rule forbids it.
        """
        reason = check_text(instruction)
        if reason is not None:
            raise self._refusal(reason)

    def match_hashes(self, image: Pixels, data: bytes = b"") -> Outcome:
        """Match an image (uint8 [H, W, 3]), and the file it came from, against the hash lists.

        Raises:
            SafetyRefusal: a list has it.
        """
        found = self._gate.check(data, image)
        if found.outcome is Outcome.DROP:
            raise self._refusal(Reason(found.reason))
        return found.outcome

    def check_input(self, image: Pixels, data: bytes = b"") -> None:
        """Match and score an input or reference image.

        Raises:
            SafetyRefusal: the policy forbids it.
        """
        self._inputs.append(self._look(image, data))

    def check_result(self, image: Pixels) -> None:
        """Match and score a result, and apply the pair rule to it.

        It is compared with the first input, which is edited; the others can show a person only.

        Raises:
            SafetyRefusal: the policy forbids it.
        """
        own = self._look(image)
        # numpy's maximum keeps NaN, which the rule takes for the worst; Python's may lose it
        exposure, person = np.array([*self._inputs, own], np.float32).T
        rise = exposure[-1:] - (exposure[:1] if self._inputs else 0)
        if np.isnan(exposure).any():  # of a reference too
            rise = np.full_like(rise, np.nan)
        (pair,) = pair_reasons(rise, person.max(keepdims=True), [None], self._policy.ncii)
        if pair is not None:
            raise self._refusal(pair)

    def _look(self, image: Pixels, data: bytes = b"") -> tuple[float, float]:
        """Exposure and person score [0, 1] of an image that passes alone: the pair rule needs them.

        Raises:
            SafetyRefusal: it does not pass.
        """
        unmatchable = self.match_hashes(image, data) is Outcome.UNMATCHABLE
        scores: Scores = {}
        for name in self._policy.classifiers:
            scores |= score_images(load_classifier(name, threads=2), [image])
        risk = self._policy.risk(scores)
        for name, (value,) in risk.scores.items():
            if np.isnan(value):
                raise self._refusal(Reason.CLASSIFIER_ERROR)
            if value > self._policy.limit(risks()[name].column, unmatchable):
                raise self._refusal(name)
        return float(risk.exposure[0]), float(risk.person[0])

    def _refusal(self, reason: str) -> SafetyRefusal:
        line = risks()[reason].refusal if reason in risks() else _LINES[reason]
        return SafetyRefusal(reason, f"refused by policy {self._policy.version}: {line}")


_LINES: dict[str, str] = {
    Reason.HASH_MATCH: "the image is on a list of known harmful images",
    Reason.CANARY: "the image is a test canary of the hash gate",
    Reason.CLASSIFIER_ERROR: "the image could not be checked",
    Reason.TEXT_UNDRESS: "the instruction asks to undress someone",
    Reason.TEXT_NUDITY: "the instruction asks for nudity",
    Reason.TEXT_SEXUAL: "the instruction asks for sexual content",
    Reason.TEXT_MINOR_SEXUAL: "the instruction is not allowed",
    Reason.TEXT_UNREADABLE: "the instruction is too long or holds unreadable characters",
    Reason.NCII_EXPOSURE: "the edit would uncover a person",
    Reason.NCII_UNDRESS: "the edit would uncover a person",
}
