"""What users are told of a refused edit: one line that repeats nothing of what they gave."""

from kontext.safety.ids import Reason
from schemas.risks import risks

CHANGES_RESULTS = False  # words for users; no stage says them

_COMBINED = "the images are together above the limits"
_LINES: dict[str, str] = {
    Reason.HASH_MATCH: "the image is on a list of known harmful images",
    Reason.HASH_MATCH_LOW_QUALITY: "the image is near one on a list of known harmful images",
    Reason.CANARY: "the image is a test canary of the hash gate",
    Reason.CLASSIFIER_ERROR: "the image could not be checked",
    Reason.TEXT_UNDRESS: "the instruction asks to undress someone",
    Reason.TEXT_NUDITY: "the instruction asks for nudity",
    Reason.TEXT_SEXUAL: "the instruction asks for sexual content",
    Reason.TEXT_LEARNED: "the instruction reads as if it asked to uncover someone",
    Reason.TEXT_MINOR_SEXUAL: "the instruction is not allowed",
    Reason.TEXT_UNREADABLE: "the instruction is too long or holds unreadable characters",
    Reason.NCII_EXPOSURE: "the edit would uncover a person",
    Reason.NCII_UNDRESS: "the edit would uncover a person",
    Reason.NCII_LESS_CLOTHED: "a person would be less clothed",
    Reason.NCII_IDENTITY: "the edit would move a face into a sexual picture",
    Reason.NCII_BODY: "the edit would keep a face and change the body",
    Reason.NCII_CHAIN: "the edits together would uncover a person",
}


def line_of(reason: str) -> str:
    """Why, of a `Reason`, a risk's name or a combination."""
    return risks()[reason].refusal if reason in risks() else _LINES.get(reason, _COMBINED)
