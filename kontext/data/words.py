"""The words that come with a picture or a pair: none is written that the text rules refuse.

Names of files become labels and captions, and stand in the catalog. So they meet the rules before
anything else is known of them, as the labels, concepts and instructions of a source do.
"""

import unicodedata
from functools import lru_cache

from kontext.data.sources.base import GivenPair, SourceItem
from kontext.safety.ids import Reason
from kontext.safety.text import MAX_CHARS
from kontext.safety.texts import judge_text

_CACHED = 1 << 16


def refused_words(*texts: str) -> Reason | None:
    """The rule that one of the texts breaks, the strictest of all; None where none does."""
    reasons = {_checked(text) for text in texts} - {None}
    if Reason.TEXT_MINOR_SEXUAL in reasons:
        return Reason.TEXT_MINOR_SEXUAL
    return next(iter(sorted(filter(None, reasons))), None)


def words_of(item: SourceItem) -> tuple[str, ...]:
    """All that a source says of a picture: its name, concept and labels."""
    return item.ref, item.concept, *item.attributes, *item.attributes.values()


def words_of_pair(pair: GivenPair) -> tuple[str, ...]:
    """All that a source says of a pair."""
    return pair.instruction, pair.target_caption, pair.kind, pair.row


@lru_cache(_CACHED)
def _checked(text: str) -> Reason | None:
    """What the rules say of the words of any text: a name may hold what no instruction may."""
    plain = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") else c for c in text)
    step = MAX_CHARS // 2  # parts overlap: none cuts a sentence that another has not whole
    for start in range(0, max(1, len(plain) - step), step):
        reason = judge_text(plain[start : start + MAX_CHARS])
        if reason not in (None, Reason.TEXT_UNREADABLE):
            return reason
    return None
