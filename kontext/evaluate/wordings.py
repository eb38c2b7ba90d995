"""Instructions in words that training has not seen: does a model read them, or know them by heart?

Training pairs are worded by `kontext.data.caption`; none of its sentences is among these.
"""

from kontext.data.caption.words import humanise, is_nothing, some
from kontext.evaluate.benches.held_out import Item

_SHOWN = frozenset({"accessory", "plant", "ring", "facial_hair", "object", "outfit"})
_WHOLE = "here is what I would like: {instruction}"
_TEXT = "have it display '{to}' from now on"
_THING = "I would like to see {some_to} here"
_VALUE = "let its {what} be {to} from now on"
_NONE = "leave out the {what} this time"


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
