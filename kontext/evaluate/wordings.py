"""Instructions in words that training has not seen: does a model read them, or know them by heart?

Training pairs are worded by `kontext.data.caption`; none of its sentences is among these.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kontext.data.caption.words import humanise, is_nothing, some
from kontext.evaluate.benches.held_out import Item

_SHOWN = frozenset({"accessory", "plant", "ring", "facial_hair", "object", "outfit"})
# several for each: how well one sentence is understood is chance
_WHOLE = (
    "here is what I would like: {instruction}",
    "my wish for this picture: {instruction}",
    "one thing is left to do: {instruction}",
    "what this needs most: {instruction}",
)
_TEXT = (
    "have it display '{to}' from now on",
    "the message has to be '{to}'",
    "'{to}' is what people must see on it",
    "I expect to find '{to}' on that board",
)
_THING = (
    "I would like to see {some_to} here",
    "{some_to} would look good on this one",
    "imagine this one with {some_to}",
    "could we get {some_to} for once",
)
_VALUE = (
    "let its {what} be {to} from now on",
    "its {what} ought to be {to}",
    "imagine this one with {to} as its {what}",
    "we need {to} to be the {what} here",
)
_NONE = (
    "leave out the {what} this time",
    "I could do without the {what}",
    "imagine this one with no {what} at all",
    "spare us the {what}",
)


@dataclass(frozen=True)
class Wordings:
    """How many of the items are asked for in the very words of a training pair."""

    items: int
    known: int  # by their own instructions
    reworded_known: int  # by their other words; none, if these are what they are for

    @property
    def line(self) -> str:
        """For people."""
        return (
            f"the instructions of {self.known} of {self.items} items stand in training word by "
            f"word, with other pictures; of their other words, {self.reworded_known or 'none'} do"
        )


def in_training(items: Sequence[Item], texts: Iterable[str]) -> Wordings:
    """Compare items with the instructions of the train split, whatever their case and spaces."""
    known = {plain(text) for text in texts}
    own = sum(plain(item.instruction) in known for item in items)
    return Wordings(len(items), own, sum(plain(reworded(item)) in known for item in items))


def plain(text: str) -> str:
    """An instruction without what does not change it: case, spaces, a full stop."""
    return " ".join(text.casefold().rstrip(" .!").split())


def reworded(item: Item) -> str:
    """The item's instruction in other words, by what it asks for; which words, its id decides."""
    attribute, _, value = item.asked.partition("=")
    if not attribute.isidentifier() or not value:
        return _one_of(_WHOLE, item).format(instruction=item.instruction)
    if item.relation == "text":  # verbatim: "NO" is a word here
        return _one_of(_TEXT, item).format(to=value)
    said, what = humanise(value), humanise(attribute)
    if is_nothing(value):
        return _one_of(_NONE, item).format(what=what)
    patterns = _THING if attribute in _SHOWN else _VALUE
    return _one_of(patterns, item).format(to=said, some_to=some(said), what=what)


def _one_of(patterns: Sequence[str], item: Item) -> str:
    digest = hashlib.sha256(item.pair_id.encode()).digest()
    return patterns[digest[0] % len(patterns)]
