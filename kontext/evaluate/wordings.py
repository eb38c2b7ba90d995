"""Instructions in words that training has not seen: does a model read them, or know them by heart?

Training pairs are worded by `kontext.data.caption`; none of its sentences is among these.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kontext.data.caption.words import humanise, is_nothing, some
from kontext.evaluate.benches.held_out import Item

_SHOWN = frozenset({"accessory", "plant", "ring", "facial_hair", "object", "outfit"})
_WHOLE = "here is what I would like: {instruction}"
_TEXT = "have it display '{to}' from now on"
_THING = "I would like to see {some_to} here"
_VALUE = "let its {what} be {to} from now on"
_NONE = "leave out the {what} this time"


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
    """The item's instruction in other words, by what it asks for."""
    attribute, _, value = item.asked.partition("=")
    if not attribute.isidentifier() or not value:
        return _WHOLE.format(instruction=item.instruction)
    if item.relation == "text":  # verbatim: "NO" is a word here
        return _TEXT.format(to=value)
    said, what = humanise(value), humanise(attribute)
    if is_nothing(value):
        return _NONE.format(what=what)
    pattern = _THING if attribute in _SHOWN else _VALUE
    return pattern.format(to=said, some_to=some(said), what=what)
