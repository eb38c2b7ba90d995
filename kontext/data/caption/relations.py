"""How an edit is worded: six or more paraphrases; {to}, {from} and {a_to} are filled in.

A relation either changes a value, or (`add`, `remove`) puts a thing in and takes it out. The short
form is the fewest words that still say what to do. Other fields: {some_to} has an article unless it
is a plural, {when} is "at night", {hair} is "red hair" or "no hair".
"""

import re
from dataclasses import dataclass, replace

from kontext.data.caption.words import escaped, humanise


@dataclass(frozen=True)
class Wording:
    """All ways to say one kind of edit."""

    change: tuple[str, ...]
    short: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    short_add: str = ""
    short_remove: str = ""
    verbatim: bool = False  # values are quoted text, not labels


def _lines(text: str) -> tuple[str, ...]:
    """The sentences of `text`, which stand between bars."""
    return tuple(" ".join(line.split()) for line in text.split("|"))


_ADD = _lines("""add {some_to} | give them {some_to} | put {some_to} on them |
    let them have {some_to} | they should have {some_to} | show them with {some_to}""")
_REMOVE = _lines("""remove the {from} | take off the {from} | get rid of the {from} |
    delete the {from} | no more {from} | show them without the {from}""")


def _thing(suffix: str = "") -> Wording:
    """Wording of something that can be there or not; `suffix` is its plural name, if any."""

    def named(sentences: tuple[str, ...]) -> tuple[str, ...]:
        if not suffix:
            return sentences
        plural = (line.replace("{some_to}", "{to}") for line in sentences)
        return tuple(re.sub(r"\{(?:to|from)\}", r"\g<0>" + suffix, line) for line in plural)

    change = _lines("""replace the {from} with {some_to} | change the {from} to {some_to} |
        swap the {from} for {some_to} | give them {some_to} instead |
        turn the {from} into {some_to} | switch to {some_to}""")
    short, add, remove = named(("{to}", "add {to}", "remove {from}"))
    return Wording(named(change), short, named(_ADD), named(_REMOVE), add, remove)


def _value(thing: str, to: str = "{to}") -> Wording:
    """Wording of a property that always has some value."""
    return Wording(
        _lines(f"""change the {thing} to {to} | make the {thing} {to} | set the {thing} to {to} |
            turn the {thing} {to} | the {thing} should be {to} | switch the {thing} to {to}"""),
        f"{thing} {to}",
    )


WORDINGS: dict[str, Wording] = {
    "skin_tone": Wording(
        _lines("""change the skin tone to {to} | make the skin tone {to} | give them {to} skin |
            set the skin tone to {to} | turn the skin {to} | the skin tone should be {to}"""),
        "{to} skin",
    ),
    "skin_color": Wording(
        _lines("""change the skin to {to} | make the skin {to} | give them {to} skin |
            set the skin color to {to} | turn the skin {to} | the skin should be {to}"""),
        "{to} skin",
    ),
    "hair_color": Wording(
        _lines("""dye the hair {to} | make the hair {to} | change the hair color to {to} |
            give them {to} hair | turn the hair {to} | color the hair {to}"""),
        "{to} hair",
    ),
    "hair_style": Wording(
        _lines("""give them {hair} | change the hair to {hair} | they should have {hair} |
            make it {hair} | show them with {hair} | switch to {hair}"""),
        "{hair}",
    ),
    "clothing_color": Wording(
        _lines("""change the clothes to {to} | make the clothes {to} | color the clothes {to} |
            dress them in {to} | turn the outfit {to} | put them in {to} clothes"""),
        "{to} clothes",
    ),
    "outfit": Wording(
        _lines("""change the outfit to {to} | dress them in {to} | put them in {to} |
            let them wear {to} | swap the clothes for {to} | make the outfit {to}"""),
        "wear {to}",
    ),
    "glasses": _thing(" glasses"),
    "accessory": _thing(),
    "facial_hair": _thing(),
    "object": Wording(
        _lines("""replace the {from} with {a_to} | change the {from} to {a_to} |
            swap the {from} for {a_to} | put {a_to} where the {from} is |
            turn the {from} into {a_to} | show {a_to} instead of the {from}"""),
        "{a_to} instead",
        _lines("""add {a_to} | put {a_to} in front | place {a_to} in the picture |
            let there be {a_to} | show {a_to} as well | insert {a_to}"""),
        _lines("""remove the {from} | take the {from} away | get rid of the {from} |
            delete the {from} | no more {from} | show the place without the {from}"""),
        "add {a_to}",
        "remove {from}",
    ),
    "place": Wording(
        _lines("""change the place from {from} to {to} | move it all from {from} to {to} |
            make the background {to} | replace the background with {to} | set the scene to {to} |
            show it with {to} behind"""),
        "background {to}",
    ),
    "eyes": _value("eyes"),
    "mouth": _value("mouth"),
    "expression": Wording(
        _lines("""make them look {to} | change the expression to {to} | give them {a_to} face |
            the face should look {to} | show the same character {to} |
            turn the expression into {to}"""),
        "look {to}",
    ),
    "gender": Wording(
        _lines("""make it {a_to} | change the {from} to {a_to} | turn them into {a_to} |
            replace the {from} with {a_to} | show {a_to} instead | the {from} becomes {a_to}"""),
        "{a_to}",
    ),
    "color": Wording(
        _lines("""change the color to {to} | make it {to} | color it {to} |
            turn the {from} one {to} | recolor it from {from} to {to} | paint it {to}"""),
        "make it {to}",
    ),
    "background_color": Wording(
        _lines("""change the background to {to} | make the background {to} |
            set {a_to} background | put it on {a_to} background | turn the background {to} |
            paint the background {to}"""),
        "{to} background",
    ),
    "day_night": Wording(
        _lines("""change {from} to {to} | make it {to} | turn it into {to} | show it {when} |
            switch from {from} to {to} | the same weather {when}"""),
        "{when}",
    ),
    "time_of_day": Wording(
        _lines("""make it {to} | change the time to {to} | show the scene {when} |
            turn {from} into {to} | the same landscape {when} | relight the scene as {to}"""),
        "{when}",
    ),
    "season": Wording(
        _lines("""make the landscape {to} | change the landscape to {to} |
            turn it into {a_to} landscape | give the hills {to} colors |
            switch from {from} to {to} | show the hills in {to} colors"""),
        "{to}",
    ),
    "weather": Wording(
        _lines("""change the {from} to {to} | replace the {from} with {to} |
            turn the {from} into {to} | make it {to} instead of {from} | swap {from} for {to} |
            show {to} instead"""),
        "{to}",
        add=_lines("""add {to} | make the weather {to} | bring {to} | add some {to} to the sky |
            let there be {to} | show it with {to}"""),
        remove=_lines("""remove the {from} | stop the {from} | clear away the {from} |
            no more {from} | take the {from} away | show it without the {from}"""),
        short_add="add {to}",
        short_remove="remove {from}",
    ),
    "text": Wording(
        _lines("""replace '{from}' with '{to}' | change the text to '{to}' | make it read '{to}' |
            change '{from}' to '{to}' | write '{to}' instead of '{from}' | make it say '{to}'"""),
        "write '{to}'",
        verbatim=True,
    ),
    "art_style": Wording(
        _lines("""redraw it in {to} style | make it {to} style | convert this to {to} style |
            change the art style to {to} | render it in {to} style | restyle it as {to}"""),
        "{to} style",
    ),
    "drawing": Wording(
        _lines("""make it {a_to} drawing | turn it into {a_to} drawing |
            redraw it as {a_to} drawing | change {from} to {to} | convert this to {a_to} icon |
            restyle it as {a_to} icon"""),
        "{to} drawing",
    ),
    "clock": Wording(
        _lines("""set the clock to {to} | change the time to {to} | move the hands to {to} |
            make the clock show {to} | turn the clock from {from} to {to} |
            the clock should say {to}"""),
        "show {to}",
    ),
    "direction": Wording(
        _lines("""turn it to face {to} | make it point {to} | flip it from {from} to {to} |
            rotate it to point {to} | change the direction to {to} | let it face {to}"""),
        "face {to}",
    ),
    "state": Wording(
        _lines("""make it {to} | change it from {from} to {to} | turn it {to} | show it {to} |
            it should be {to} | switch it to {to}"""),
        "make it {to}",
    ),
}

ALIASES = {
    "style": "art_style",
    "glyph": "text",
    "sign_text": "text",
    "line_fill": "drawing",
    "landscape_time": "time_of_day",
    "landscape_color": "season",
}

_GENERIC_ADD = _lines("""add {to} {what} | give it {to} {what} | put {to} {what} in |
    make it have {to} {what} | it should have {to} {what} | show it with {to} {what}""")
_GENERIC_REMOVE = _lines("""remove the {what} | take away the {what} | get rid of the {what} |
    delete the {what} | show it without the {what} | no more {what}""")


def generic(what: str) -> Wording:
    """Wording for a label nobody has written sentences for: an image folder's own attributes."""
    base = _value(what)
    return Wording(
        base.change,
        base.short,
        tuple(line.replace("{what}", what) for line in _GENERIC_ADD),
        tuple(line.replace("{what}", what) for line in _GENERIC_REMOVE),
        f"add {{to}} {what}",
        f"remove {what}",
    )


_FROM_SECOND_PICTURE = _lines("""give it the {what} of the second picture |
    change the {what} to that of the second picture | use the {what} of the second picture |
    copy the {what} from the second picture | take over the {what} of the second picture |
    match the {what} of the second picture""")


def by_reference(base: Wording, attribute: str) -> Wording:
    """`base` with sentences that point at the second picture, in place of all its own.

    For edits whose wanted value a second picture shows: the words do not name it.
    """
    what = escaped(humanise(attribute))
    lines = tuple(line.replace("{what}", what) for line in _FROM_SECOND_PICTURE)
    short = f"{what} of the second picture"
    return replace(
        base,
        change=lines,
        short=short,
        add=lines,
        remove=lines,
        short_add=short,
        short_remove=short,
    )
