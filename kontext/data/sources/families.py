"""Small emoji families in which one thing differs, labelled exactly from their code points.

The members of a family differ in their label only: the same heart in twelve colours, the same
key with ten digits, the same clock at 24 times. It is grouped per set, so that a whole drawing of
the family can be held out. Words are two families, because sets draw the six of each on one board
(blue-ish and red) and the other word buttons on boards of their own.
"""

from dataclasses import dataclass
from typing import Literal

EmojiFamily = Literal["color", "keycap", "word", "clock", "arrow"]
FAMILIES: tuple[EmojiFamily, ...] = ("color", "keycap", "word")  # local edits are plentiful

_COLORS = {
    "heart": "red=2764 orange=1f9e1 yellow=1f49b green=1f49a light_blue=1fa75 blue=1f499 "
    "purple=1f49c brown=1f90e black=1f5a4 grey=1fa76 white=1f90d pink=1fa77",
    "circle": "red=1f534 orange=1f7e0 yellow=1f7e1 green=1f7e2 blue=1f535 purple=1f7e3 "
    "brown=1f7e4 black=26ab white=26aa",
    "square": "red=1f7e5 orange=1f7e7 yellow=1f7e8 green=1f7e9 blue=1f7e6 purple=1f7ea brown=1f7eb",
    "book": "red=1f4d5 orange=1f4d9 green=1f4d7 blue=1f4d8",
}
_WORDS = {
    "word button": "OK=1f197 COOL=1f192 FREE=1f193 NEW=1f195 NG=1f196 UP!=1f199",
    "red word button": "CL=1f191 SOS=1f198 A=1f170 B=1f171 AB=1f18e O=1f17e",
}
_ARROWS = (
    "up=2b06 up_right=2197 right=27a1 down_right=2198 down=2b07 down_left=2199 left=2b05 "
    "up_left=2196"
)
# Sets that draw a family on boards or in poses of its own per value, seen by eye.
_UNEVEN = {("openmoji", "word button")}


@dataclass(frozen=True)
class Member:
    """One drawing of a family: `attribute` has `value`, everything else is the family's."""

    kind: EmojiFamily
    family: str  # in words: the concept
    attribute: str
    value: str


def _members() -> dict[str, Member]:
    found: dict[str, Member] = {}

    def add(kind: EmojiFamily, family: str, attribute: str, listed: str) -> None:
        for pair in listed.split():
            value, _, codes = pair.partition("=")
            found[codes] = Member(kind, family, attribute, value.replace("_", " "))

    for family, listed in _COLORS.items():
        add("color", family, "color", listed)
    for family, listed in _WORDS.items():
        add("word", family, "text", listed)
    add("arrow", "arrow", "direction", _ARROWS)
    add("keycap", "keycap", "text", " ".join(f"{n}={0x30 + n:04x}-20e3" for n in range(10)))
    for hour in range(1, 13):
        for offset, minute in ((0x1F54F, "00"), (0x1F55B, "30")):
            add("clock", "clock face", "clock", f"{hour}:{minute}={offset + hour:x}")
    return found


_MEMBERS = _members()


def member(codes: str, kinds: tuple[EmojiFamily, ...]) -> Member | None:
    """The member of a family of `kinds` that `codes` is (lower-case hex, without fe0f)."""
    found = _MEMBERS.get(codes)
    return found if found is not None and found.kind in kinds else None


def differs_in_label_only(prefix: str, found: Member) -> bool:
    """Whether the members of this family differ in their label only, in the icon set `prefix`."""
    return (prefix, found.family) not in _UNEVEN
