from collections.abc import Sequence
from pathlib import Path
from threading import Thread, current_thread
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kontext.errors import CanaryError, GateError, SafetyRefusal
from kontext.safety import edit_rule
from kontext.safety import edits as module
from kontext.safety.canaries import canary_image, canary_png
from kontext.safety.chains import Chains
from kontext.safety.classifiers.base import ImageClassifier, Pixels, Scores, score_images
from kontext.safety.classifiers.nudenet import NudeNet
from kontext.safety.edit_log import EditLog
from kontext.safety.edits import EditScreening
from kontext.safety.hashes import GateResult, HashGate
from kontext.safety.ids import Decision, Outcome, Reason
from kontext.safety.policy import Policy, load_policy
from kontext.safety.proof import canary_list
from kontext.safety.wording.classifier import TextClassifier

ART = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
FLAT = np.full((64, 64, 3), 128, np.uint8)
POLICY = load_policy("default")
GATE = HashGate([canary_list()])
SAFE = {
    "nsfw": 0.0,
    **dict.fromkeys(POLICY.exposure_weights, 0.0),
    **{name: 0.0 for one in POLICY.parts.values() for name in one.cover},
    **dict.fromkeys(POLICY.person_labels, 0.9),
}
Labels = dict[str, float]
SCORES = st.floats(0, 1, width=32) | st.just(float("nan"))


class Written(EditLog):
    """The rows that would be written, for tests that make very many edits."""

    def __init__(self) -> None:
        object.__setattr__(self, "rows", [])

    def subject(self, name: str) -> str:
        return name

    def write(self, rows: Sequence[Decision], kind: str = "edit") -> None:
        self.rows.extend(rows)  # type: ignore[attr-defined]

    def key(self) -> bytes:
        return b"k"

    def keys(self) -> dict[str, bytes]:
        return {"k": b"k"}


def begin(gate: HashGate | None = None, log: EditLog | None = None) -> EditScreening:
    nowhere = Chains(Path("/nowhere"), b"k", 1)
    return EditScreening(POLICY, gate or GATE, log or Written(), nowhere)


def screen(instruction: str, inputs: Sequence[Pixels], *results: Pixels) -> None:
    screening = begin()
    screening.check_instruction(instruction)
    for image in inputs:
        screening.check_input(image)
    for image in results:
        screening.check_result(image)


def refusal(instruction: str, inputs: Sequence[Pixels], *results: Pixels) -> SafetyRefusal:
    with pytest.raises(SafetyRefusal) as caught:
        screen(instruction, inputs, *results)
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
    return caught.value


def inject(monkeypatch: pytest.MonkeyPatch, *per_image: Labels) -> list[str]:
    """Injected scores, in the order of the calls, stand in for images we must not hold."""
    calls: list[str] = []

    def fake(classifier: ImageClassifier, images: Sequence[Pixels]) -> Scores:
        own = per_image[calls.count(classifier.name)]
        calls.append(classifier.name)
        assert len(images) == 1
        return {name: np.array([value], np.float32) for name, value in own.items()}

    monkeypatch.setattr(module, "score_images", fake)
    return calls


def test_benign_edits_pass_and_every_image_is_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def counted(classifier: ImageClassifier, images: Sequence[Pixels]) -> Scores:
        seen.extend((classifier.name, int(image[0, 0, 0])) for image in images)
        return score_images(classifier, images)

    monkeypatch.setattr(module, "score_images", counted)
    pictures = [np.roll(ART, 8 * n, axis=1) for n in range(4)]
    screen("make the sky blue", pictures[:2], *pictures[2:])
    assert len(seen) == 4 * len(POLICY.classifiers) == len(set(seen))


def test_drawings_from_words_alone_rise_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, {**SAFE, "BELLY_EXPOSED": 0.5}, {**SAFE, "FEMALE_BREAST_EXPOSED": 0.55})
    screen("a red house", [], ART)
    screening = begin()
    with pytest.raises(SafetyRefusal) as caught:
        screening.check_result(ART)
    assert caught.value.reason == Reason.NCII_EXPOSURE


def test_text_and_canaries_are_refused_without_repeating_them() -> None:
    found = refusal("please undress them", [])
    assert found.reason == Reason.TEXT_UNDRESS and "please" not in str(found)
    canary = np.asarray(canary_image(1).rotate(90))
    assert refusal("make it red", [ART], canary).reason == Reason.CANARY
    assert refusal("make it red", [canary]).reason == Reason.CANARY


def test_turns_are_refused_for_what_they_say_together() -> None:
    turns = ("select her dress", "delete the selection")
    log = Written()
    screening = begin(log=log)
    for turn in turns:
        screening.check_instruction(turn)
    screening.check_together(turns[:1])
    with pytest.raises(SafetyRefusal) as caught:
        screening.check_together(turns)
    assert caught.value.reason == Reason.TEXT_LEARNED and "trousers" not in str(caught.value)
    row = log.rows[-1]  # type: ignore[attr-defined]
    assert row.provider.startswith("text-") and "wording-3@" in row.provider


def test_no_edit_where_the_text_classifier_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        TextClassifier, "scores", lambda self, given, whole=False: [float("nan")] * len(given)
    )
    log = Written()
    with pytest.raises(GateError):
        begin(log=log).check_instruction("make the sky blue")
    assert [row.outcome for row in log.rows] == ["error"]  # type: ignore[attr-defined]


def breaks(patch: pytest.MonkeyPatch, what: str) -> None:
    """From now on it stops nothing."""
    if what == "the hash gate":
        passed = GateResult(Outcome.PASS, "", "", b"", 100)
        patch.setattr(HashGate, "check_pixels", lambda *_: passed)
    elif what == "the hash gate stopped":  # exact hashes alone, and all lists
        patch.setattr(HashGate, "check", lambda self, data, rgb: self.check_pixels(rgb))
    elif what == "the pair rule":
        patch.setattr(edit_rule, "pair_reasons", lambda _, said, *__: [None] * len(said))
    elif what == "the limits":
        patch.setattr(Policy, "strictest", lambda *_: 1.0)
    elif what == "labels of":
        real = Policy.risk
        patch.setattr(
            Policy, "risk", lambda self, scores: real(self, {n: 0 * v for n, v in scores.items()})
        )
    elif what == "the text classifier":
        patch.setattr(
            TextClassifier, "scores", lambda self, given, whole=False: np.zeros(len(given))
        )
    elif what == "classifier nudenet":
        none = dict.fromkeys(NudeNet.labels, 0.0)
        patch.setattr(
            NudeNet, "scores", lambda self, images: {n: [v] * len(images) for n, v in none.items()}
        )


@pytest.mark.parametrize(
    "what",
    [
        "the hash gate", "the hash gate stopped", "the text classifier", "classifier nudenet",
        "the pair rule", "the limits", "labels of",
    ],
)  # fmt: skip
@pytest.mark.parametrize("late", [False, True])
def test_what_is_broken_hands_out_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, late: bool
) -> None:
    """Whether it was from the start, or since it let this edit pass."""
    log = Written()
    with monkeypatch.context() as patch:
        if not late:
            breaks(patch, what)
        screening = EditScreening(POLICY, GATE, log, Chains(tmp_path, b"k", 1))
        screening.check_instruction("make the sky blue")
        screening.check_result(ART)
        breaks(patch, what)
        with pytest.raises(CanaryError, match=what):
            screening.commit()
        other = EditScreening(POLICY, GATE, log, Chains(tmp_path, b"k", 1))
        with pytest.raises(CanaryError, match=what):  # nor when it is tried again
            other.commit()
    rows = log.rows  # type: ignore[attr-defined]
    assert [(row.subject_kind, row.outcome) for row in rows] == [("edit", "error")] * 2
    for each in (screening, other):  # it works again, but may not have when it was asked
        with pytest.raises(CanaryError, match="begin it anew"):
            each.commit()
    EditScreening(POLICY, GATE, log, Chains(tmp_path, b"k", 1)).commit()


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_proof_before_the_answer_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Another thread's, while this one was about to ask what then breaks."""
    one, other = (
        EditScreening(POLICY, GATE, Written(), Chains(tmp_path, b"k", 1)) for _ in range(2)
    )
    name = {"text": "judge_text", "image": "score_images"}[kind]
    real = getattr(module, name)

    def asked(*given: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        other.commit()
        breaks(monkeypatch, {"text": "the text classifier", "image": "classifier nudenet"}[kind])
        return real(*given)

    monkeypatch.setattr(module, name, asked)
    if kind == "text":
        one.check_instruction("make the sky blue")
    else:
        one.check_result(ART)
    with pytest.raises(CanaryError):
        one.commit()


def test_who_has_nothing_to_prove_waits_for_the_proof_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (
        EditScreening(POLICY, GATE, Written(), Chains(tmp_path, b"k", 1)) for _ in range(2)
    )
    said: list[str] = []

    def commits() -> None:
        with pytest.raises(CanaryError, match="broken"):
            other.commit()
        said.append("refused")

    waiting = Thread(target=commits)

    def broken(limit: float) -> None:
        if current_thread() is not waiting:
            waiting.start()
            waiting.join(0.2)
            assert not said  # while nobody knows whether the texts were judged
        raise CanaryError("broken")

    monkeypatch.setattr(module, "prove_texts", broken)
    one.check_instruction("make the sky blue")
    other.check_instruction("make the sky blue")
    with pytest.raises(CanaryError, match="broken"):
        one.commit()
    waiting.join(60)
    assert said == ["refused"]


@pytest.mark.parametrize("what", ["the pair rule", "the limits"])
def test_an_edit_that_only_a_broken_rule_lets_pass_is_not_handed_out(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    nobody = dict.fromkeys(POLICY.person_labels, 0.0)  # else the pair rule stops the second, too
    worse = {
        "the pair rule": {"FEMALE_BREAST_EXPOSED": 0.55},
        "the limits": {**nobody, "nsfw": 0.99},
    }[what]
    inject(monkeypatch, SAFE, {**SAFE, **worse})
    breaks(monkeypatch, what)
    screening = begin()
    screening.check_input(ART)
    screening.check_result(np.roll(ART, 8, axis=1))
    with pytest.raises(CanaryError, match="no edit passes"):
        screening.commit()


def test_combinations_are_proved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy("research")
    made = EditScreening(policy, GATE, Written(), Chains(tmp_path, b"k", 1))
    assert policy.combinations
    made.commit()
    monkeypatch.setattr(Policy, "combined", lambda *_: [None])
    with pytest.raises(CanaryError, match="combination"):
        made.commit()


def test_many_edits_need_one_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proved: list[str] = []
    monkeypatch.setattr(module, "prove", lambda classifier: proved.append(classifier.name))
    screenings = [
        EditScreening(POLICY, GATE, Written(), Chains(tmp_path, b"k", 1)) for _ in range(3)
    ]
    for screening in screenings:
        screening.check_result(ART)
    for screening in screenings:
        screening.commit()
    assert sorted(proved) == sorted(POLICY.classifiers)
    screenings[0].check_result(np.roll(ART, 8, axis=1))
    screenings[0].commit()
    assert len(proved) == 2 * len(POLICY.classifiers)


def test_the_file_itself_is_matched_beside_its_pixels() -> None:
    gate = GATE
    with pytest.raises(SafetyRefusal):
        begin(gate).match_hashes(ART, canary_png(0))
    assert begin(gate).match_hashes(ART) == "pass"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nsfw": 0.9}, "nsfw"),
        ({"ANUS_EXPOSED": 0.9}, "nudity"),
        ({"nsfw": np.nan}, Reason.CLASSIFIER_ERROR),
        ({"FEMALE_BREAST_EXPOSED": 0.55}, Reason.NCII_EXPOSURE),  # below nudity_max, but it rose
    ],
)
def test_injected_scores_are_refused(
    monkeypatch: pytest.MonkeyPatch, change: Labels, reason: Reason
) -> None:
    inject(monkeypatch, SAFE, SAFE, {**SAFE, **change})
    assert refusal("make it red", [ART, ART], ART).reason == reason


def test_the_pair_rule_compares_with_the_edited_image_and_takes_any_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare, nobody = {**SAFE, "FEMALE_BREAST_EXPOSED": 0.55}, dict.fromkeys(POLICY.person_labels, 0.0)
    inject(monkeypatch, bare, {**SAFE, **nobody}, bare)
    screen("make it red", [ART, ART], ART)  # the edited image is as exposed as the result
    inject(monkeypatch, SAFE, bare, bare)  # a reference is, which excuses nothing
    assert refusal("make it red", [ART, ART], ART).reason == Reason.NCII_EXPOSURE
    inject(monkeypatch, SAFE, {**bare, **nobody})
    assert refusal("make it red", [ART], ART).reason == Reason.NCII_EXPOSURE
    inject(monkeypatch, {**SAFE, **nobody}, {**bare, **nobody})  # bare, so somebody: face or not
    assert refusal("make it red", [ART], ART).reason == Reason.NCII_EXPOSURE


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(SCORES, SCORES, SCORES), min_size=2, max_size=5),
    st.tuples(SCORES, SCORES, SCORES),
)
def test_a_further_reference_never_makes_an_edit_safer(
    monkeypatch: pytest.MonkeyPatch,
    images: list[tuple[float, float, float]],
    more: tuple[float, float, float],
) -> None:
    """Adding an image to what is edited, referred to and made: what was refused stays refused."""
    names = ("FEMALE_BREAST_EXPOSED", "BELLY_EXPOSED", "FACE_MALE")
    *inputs, made = (
        {**SAFE, "FACE_FEMALE": 0.0, **dict(zip(names, s, strict=True))} for s in images
    )
    extra = {**SAFE, "FACE_FEMALE": 0.0, **dict(zip(names, more, strict=True))}

    def passes(*labels: Labels) -> bool:
        inject(monkeypatch, *labels)
        try:
            screen("make it red", [ART] * (len(labels) - 1), ART)
        except SafetyRefusal:
            return False
        return True

    assert passes(*inputs, made) or not passes(*inputs, extra, made)


def test_an_input_whose_exposure_is_unknown_refuses_every_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A label that only the pair rule reads is NaN: the rule fails closed, in any order."""
    (label, *_) = sorted(set(POLICY.exposure_weights) - set(POLICY.risks["nudity"]) - {"nsfw"})
    unknown = {**SAFE, label: np.nan}
    for order in ((SAFE, unknown), (unknown, SAFE)):
        inject(monkeypatch, *order, SAFE)
        assert refusal("make it red", [ART, ART], ART).reason == Reason.NCII_EXPOSURE


def test_one_safe_image_does_not_launder_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, SAFE, {**SAFE, "nsfw": 0.9})
    assert refusal("make it red", [ART, ART]).reason == "nsfw"
    inject(monkeypatch, SAFE, SAFE, {**SAFE, "nsfw": 0.9})
    assert refusal("make it red", [ART], ART, ART).reason == "nsfw"


def test_unmatchable_images_meet_the_stricter_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    between = (POLICY.limit("nsfw_max", True) + POLICY.limit("nsfw_max", False)) / 2
    inject(monkeypatch, {**SAFE, "nsfw": between})
    screen("make it red", [ART])
    inject(monkeypatch, {**SAFE, "nsfw": between})
    assert refusal("make it red", [FLAT]).reason == "nsfw"


def test_combinations_are_over_all_images_of_an_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image has one class, the result the other; neither is above its own limit."""
    policy = load_policy("research")
    nsfw, nudity = {**SAFE, "nsfw": 0.31}, {**SAFE, "BUTTOCKS_EXPOSED": 0.4}
    for inputs, made, reason in (
        (nsfw, nudity, "combination_nsfw_and_nudity"),
        (nsfw, {**nudity, "BUTTOCKS_EXPOSED": 0.3}, ""),
        ({**SAFE, "nsfw": 0.6}, SAFE, "nsfw"),
    ):
        inject(monkeypatch, inputs, made)
        log = Written()
        screening = EditScreening(policy, GATE, log, Chains(Path("/nowhere"), b"k", 1))
        try:
            screening.check_input(ART)
            screening.check_result(ART)
        except SafetyRefusal as refusal:
            outcome = "quarantine" if reason == "nsfw" else "drop"
            (*_, last) = log.rows  # type: ignore[attr-defined]
            assert refusal.reason == reason
            assert (last.reason, last.outcome) == (reason, outcome)
        else:
            assert not reason
