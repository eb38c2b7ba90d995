"""The words that come with a picture or a pair: none is written that is refused.

Names of files become labels and captions, and stand in the catalog. So they meet the text rules
before anything else is known of them, as a source's concepts and labels do. The learned classifier
is asked of instructions and captions alone, those too that are made of names later: it has learnt
from what people ask for, and takes the name "scans of nothing" for such a thing.
"""

import unicodedata
from collections.abc import Callable
from functools import lru_cache

from kontext.data.sources.base import GivenPair, SourceItem
from kontext.errors import CanaryError
from kontext.safety.ids import Reason
from kontext.safety.text import MAX_CHARS, check_text
from kontext.safety.texts import judge_text, prove_texts

_CACHED = 1 << 16
MOST_CHARS = 1 << 14  # of all that comes with a picture or pair: what is longer is refused unread


def refused_names(*names: str) -> Reason | None:
    """The rule that one of the names breaks, the strictest of all; None where none does."""
    return _refused(names, check_text)


def refused_words(*texts: str) -> Reason | None:
    """The strictest reason of rules and classifier against one of the texts, or None."""
    return _refused(texts, judge_text)


def prove_words() -> None:
    """Raise CanaryError where rules or classifier fail; what they have said is forgotten then."""
    try:
        prove_texts()
    except CanaryError:
        _checked.cache_clear()
        raise


def _refused(texts: tuple[str, ...], judge: Callable[[str], Reason | None]) -> Reason | None:
    if sum(map(len, texts)) > MOST_CHARS:
        return Reason.TEXT_UNREADABLE
    return _strictest({_checked(text, judge) for text in texts})


def _strictest(reasons: set[Reason | None]) -> Reason | None:
    if Reason.TEXT_MINOR_SEXUAL in reasons:
        return Reason.TEXT_MINOR_SEXUAL
    return next(iter(sorted(filter(None, reasons))), None)


def names_of(item: SourceItem) -> tuple[str, ...]:
    """All that a source says of a picture: its name, concept and labels."""
    return item.ref, item.concept, *item.attributes, *item.attributes.values()


def refused_pair(pair: GivenPair) -> Reason | None:
    """The strictest reason against what a source says of a pair, or None."""
    said = refused_words(pair.instruction, pair.target_caption)
    return _strictest({said, refused_names(pair.kind, pair.row)})


@lru_cache(_CACHED)
def _checked(text: str, judge: Callable[[str], Reason | None]) -> Reason | None:
    """What is said of the words of any text: a name may hold what no instruction may."""
    plain = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") else c for c in text)
    step = MAX_CHARS // 2  # parts overlap: none cuts a sentence that another has not whole
    for start in range(0, max(1, len(plain) - step), step):
        reason = judge(plain[start : start + MAX_CHARS])
        if reason is not None:
            return reason
    return None
