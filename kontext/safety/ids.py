"""Names of safety outcomes and reasons, and ids that join records without recovering content."""

import hashlib
import hmac
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_SCORE = -1.0  # score and threshold of a decision that has none


class Outcome(StrEnum):
    """What a check decided. All but PASS and UNMATCHABLE remove the image or pair."""

    PASS = "pass"
    DROP = "drop"
    QUARANTINE = "quarantine"  # dropped, and listed for a person to look at
    UNMATCHABLE = "unmatchable"
    ERROR = "error"


class Check(StrEnum):
    """Which check decided."""

    HASH_GATE = "hash_gate"
    SWEEP = "sweep"
    CLASSIFIER = "classifier"
    TEXT_RULE = "text_rule"
    PAIR_RULE = "pair_rule"
    EDIT = "edit"  # a result that was handed out
    OPERATOR = "operator"  # a person


class Reason(StrEnum):
    """Why. Never carries content. A classifier's reason is its risk's name (schemas.risks)."""

    HASH_MATCH = "hash_match"
    CANARY = "canary"
    HASH_MATCH_LOW_QUALITY = (
        "hash_match_low_quality"  # near a listed hash, but too plain to be sure
    )
    RELATED = "related"  # made from what was matched, or the other way round
    OPTED_OUT = "opted_out"
    PDQ_LOW_QUALITY = "pdq_low_quality"
    CLASSIFIER_ERROR = "classifier_error"
    TEXT_UNDRESS = "text_undress"
    TEXT_NUDITY = "text_nudity"
    TEXT_SEXUAL = "text_sexual"
    TEXT_LEARNED = "text_learned"  # the classifier of texts
    TEXT_MINOR_SEXUAL = "text_minor_sexual"
    TEXT_UNREADABLE = "text_unreadable"
    NCII_EXPOSURE = "ncii_exposure"
    NCII_UNDRESS = "ncii_undress"
    NCII_LESS_CLOTHED = "ncii_less_clothed"
    NCII_IDENTITY = "ncii_identity"  # a face that an image has, in a sexual picture
    NCII_BODY = "ncii_body"  # the face stays, the body is another
    NCII_CHAIN = "ncii_chain"  # exposure rose over several edits, each of which may pass alone
    GATE_ERROR = "gate_error"  # a check could not be made
    INCIDENT_CLOSED = "incident_closed"
    UNGUARDED = "unguarded"  # an edit that no policy was asked of


def pixel_id(rgb: NDArray[np.uint8]) -> str:
    """SHA-256 of pixels uint8 [H, W, 3] with their shape: the key of an image."""
    height, width = rgb.shape[:2]
    digest = hashlib.sha256(f"rgb8:{width}x{height}:".encode())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()


def subject_hmac(subject_id: str, key: bytes) -> str:
    """HMAC-SHA256 of a subject's id (image_id for the gate, else pixel_id or pair_id): 64 hex."""
    return hmac.new(key, subject_id.encode(), hashlib.sha256).hexdigest()


class Decision(NamedTuple):
    """One row of the DECISIONS table. `score` and `threshold` may have nothing to say."""

    subject_kind: str
    subject_hmac: str
    check: Check
    provider: str
    outcome: Outcome
    reason: Reason | str  # empty for PASS
    policy_version: str
    score: float = NO_SCORE
    threshold: float = NO_SCORE
