"""How an edit is worded: many paraphrases; {to}, {from} and {a_to} are filled in.

A relation either changes a value, or (`add`, `remove`) puts a thing in and takes it out. Each way
is written "short form: paraphrase | paraphrase | …". Other fields: {some_to} has an article unless
it is a plural, {when} is "at night", {hair} is "red hair" or "no hair".
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from kontext.data.caption.words import escaped, humanise, is_nothing


class Said(NamedTuple):
    """One way to edit, in words."""

    short: str  # the fewest words that still say what to do
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Wording:
    """All ways to say one kind of edit."""

    change: Said
    add: Said | None = None
    remove: Said | None = None
    verbatim: bool = False  # values are quoted text, not labels

    def of(self, start: str, end: str) -> Said:
        """How to say the edit from one value to another."""
        if self.add and is_nothing(start):
            return self.add
        if self.remove and is_nothing(end):
            return self.remove
        return self.change


def _said(text: str, what: str = "") -> Said:
    """What `text` says, about `what` in place of {what}."""
    short, _, sentences = " ".join(text.split()).partition(": ")
    lines = (line.replace("{what}", what) for line in sentences.split(" | "))
    return Said(short.replace("{what}", what), tuple(lines))


# Whoever learns a few sentences by heart does not read: a model needs many, and all of them plain.
_MORE_VALUES = """ | please make the {what} {to} | can you make the {what} {to} |
    I want the {what} to be {to} | use {to} for the {what} | pick {to} as the {what} |
    try the {what} in {to} | let the {what} become {to} | the {what} must be {to} |
    {to} for the {what}, please | go from {from} to {to} for the {what} |
    {what}: {to} | a different {what}: {to} | how about {to} for the {what} |
    have the {what} be {to} | it is better with the {what} {to} | not {from} but {to}"""
_VALUE = """{what} {to}: change the {what} to {to} | make the {what} {to} |
    set the {what} to {to} | turn the {what} {to} | the {what} should be {to} |
    switch the {what} to {to}"""
_VALUE_ADD = """add {to} {what}: add {to} {what} | give it {to} {what} | put {to} {what} in |
    make it have {to} {what} | it should have {to} {what} | show it with {to} {what} |
    please add {to} {what} | can you add {to} {what} | I want {to} {what} on it |
    draw {to} {what} | include {to} {what} | it needs {to} {what} |
    {to} {what}, please | there should be {to} {what} | just add {to} {what} |
    how about adding {to} {what} | the same picture with {to} {what}"""
_VALUE_REMOVE = """remove {what}: remove the {what} | take away the {what} |
    get rid of the {what} | delete the {what} | show it without the {what} | no more {what} |
    please remove the {what} | can you remove the {what} | I want the {what} gone |
    erase the {what} | the {what} must go | make the {what} disappear |
    the {what} should be gone | drop the {what} | not with the {what} |
    the same picture without the {what} | it looks better without the {what}"""
_THING = """{to}: replace the {from} with {some_to} | change the {from} to {some_to} |
    swap the {from} for {some_to} | give them {some_to} instead |
    turn the {from} into {some_to} | switch to {some_to} |
    please use {some_to} instead of the {from} | can you make the {from} {some_to} |
    I want {some_to} rather than the {from} | trade the {from} for {some_to} |
    the {from} should become {some_to} | exchange the {from} for {some_to} |
    {some_to} in place of the {from}, please | let the {from} be {some_to} |
    {some_to} and no {from} | not the {from} but {some_to} | how about {some_to} instead |
    the same one with {some_to} instead | there should be {some_to}, not the {from} |
    what about {some_to} instead"""
_THING_ADD = """add {to}: add {some_to} | give them {some_to} | put {some_to} on them |
    let them have {some_to} | they should have {some_to} | show them with {some_to} |
    please add {some_to} | can you add {some_to} | I want {some_to} on it | draw {some_to} |
    include {some_to} | it needs {some_to} | {some_to} would be nice | make {some_to} appear |
    {some_to}, please | there should be {some_to} | just add {some_to} |
    how about adding {some_to} | the same one with {some_to} | what if it had {some_to}"""
_THING_REMOVE = """remove {from}: remove the {from} | take off the {from} |
    get rid of the {from} | delete the {from} | no more {from} | show them without the {from} |
    please remove the {from} | can you remove the {from} | I want the {from} gone |
    erase the {from} | the {from} must go | make the {from} disappear |
    it should not have the {from} | without the {from}, please |
    the {from} should be gone | drop the {from} | the same one without the {from} |
    it looks better without the {from} | no {from}, please | there should be no {from}"""
_BY_REFERENCE = """{what} of the second picture: give it the {what} of the second picture |
    change the {what} to that of the second picture | use the {what} of the second picture |
    copy the {what} from the second picture | take over the {what} of the second picture |
    match the {what} of the second picture"""


def _thing(suffix: str = "") -> Wording:
    """Wording of something that can be there or not; `suffix` is its plural name, if any."""
    texts = [_THING, _THING_ADD, _THING_REMOVE]
    if suffix:
        plural = (text.replace("{some_to}", "{to}") for text in texts)
        texts = [re.sub(r"\{(?:to|from)\}", r"\g<0>" + suffix, text) for text in plural]
    change, add, remove = map(_said, texts)
    return Wording(change, add, remove)


_CHANGES = {
    "skin_tone": """{to} skin: change the skin tone to {to} | make the skin tone {to} |
        give them {to} skin | set the skin tone to {to} | turn the skin {to} |
        the skin tone should be {to}""",
    "skin_color": """{to} skin: change the skin to {to} | make the skin {to} |
        give them {to} skin | set the skin color to {to} | turn the skin {to} |
        the skin should be {to}""",
    "hair_color": """{to} hair: dye the hair {to} | make the hair {to} |
        change the hair color to {to} | give them {to} hair | turn the hair {to} |
        color the hair {to}""",
    "hair_style": """{hair}: give them {hair} | change the hair to {hair} |
        they should have {hair} | make it {hair} | show them with {hair} | switch to {hair}""",
    "clothing_color": """{to} clothes: change the clothes to {to} | make the clothes {to} |
        color the clothes {to} | dress them in {to} | turn the outfit {to} |
        put them in {to} clothes""",
    "outfit": """wear {to}: change the outfit to {to} | dress them in {to} | put them in {to} |
        let them wear {to} | swap the clothes for {to} | make the outfit {to}""",
    "place": """background {to}: change the place from {from} to {to} |
        move it all from {from} to {to} | make the background {to} |
        replace the background with {to} | set the scene to {to} | show it with {to} behind""",
    "expression": """look {to}: make them look {to} | change the expression to {to} |
        give them {a_to} face | the face should look {to} | show the same character {to} |
        turn the expression into {to} | they should look {to} | draw {a_to} face |
        let them feel {to} | the same one, but {to}""",
    "gender": """{a_to}: make it {a_to} | change the {from} to {a_to} | turn them into {a_to} |
        replace the {from} with {a_to} | show {a_to} instead | the {from} becomes {a_to}""",
    "color": """make it {to}: change the color to {to} | make it {to} | color it {to} |
        turn the {from} one {to} | recolor it from {from} to {to} | paint it {to} |
        please make it {to} | can you color it {to} | I want it {to} | it should be {to} |
        make the {from} one {to} | the same one in {to}""",
    "background_color": """{to} background: change the background to {to} |
        make the background {to} | set {a_to} background | put it on {a_to} background |
        turn the background {to} | paint the background {to}""",
    "day_night": """{when}: change {from} to {to} | make it {to} | turn it into {to} |
        show it {when} | switch from {from} to {to} | the same weather {when}""",
    "time_of_day": """{when}: make it {to} | change the time to {to} | show the scene {when} |
        turn {from} into {to} | the same landscape {when} | relight the scene as {to}""",
    "season": """{to}: make the landscape {to} | change the landscape to {to} |
        turn it into {a_to} landscape | give the hills {to} colors |
        switch from {from} to {to} | show the hills in {to} colors""",
    "art_style": """{to} style: redraw it in {to} style | make it {to} style |
        convert this to {to} style | change the art style to {to} | render it in {to} style |
        restyle it as {to}""",
    "drawing": """{to} drawing: make it {a_to} drawing | turn it into {a_to} drawing |
        redraw it as {a_to} drawing | change {from} to {to} | convert this to {a_to} icon |
        restyle it as {a_to} icon""",
    "weather_adjective": """{to}: make it {to} | make the weather {to} |
        change the weather from {from} to {to} | change the weather to {to} |
        the weather should be {to} | let the weather be {to} | {to} weather, please |
        turn it into {a_to} day | show the place on {a_to} day | I want it {to} |
        switch to {to} weather | can you make it {to} | please make the weather {to} |
        it should be {to}, not {from} | how about {to} weather | let it become {to} |
        the same place in {to} weather | not {from} but {to} | weather: {to} |
        what if it was {to} | give it {to} weather | draw {a_to} sky""",
    "clock": """show {to}: set the clock to {to} | change the time to {to} |
        move the hands to {to} | make the clock show {to} | turn the clock from {from} to {to} |
        the clock should say {to}""",
    "direction": """face {to}: turn it to face {to} | make it point {to} |
        flip it from {from} to {to} | rotate it to point {to} | change the direction to {to} |
        let it face {to}""",
    "state": """make it {to}: make it {to} | change it from {from} to {to} | turn it {to} |
        show it {to} | it should be {to} | switch it to {to}""",
}
# Two frames of a video: what happened is in the pictures, and when is all that is known.
_LATER = """{to}: show the same scene {to} | show what this looks like {to} | go to {to} |
    show the scene as it is {to} | let time pass: {to} | what does this look like {to}? |
    show this {to} | the same place, {to} | please show the scene {to} | jump to {to} |
    I want to see this {to} | draw the scene {to}"""

# relation -> what its value is a value of, where "make the … {to}" is English
_NOUNS = {
    "skin_tone": "skin tone",
    "skin_color": "skin",
    "hair_color": "hair",
    "clothing_color": "clothes",
    "place": "background",
    "expression": "expression",
    "background_color": "background",
    "time_of_day": "time",
    "season": "season",
    "art_style": "style",
}


def _value(text: str, noun: str) -> Said:
    """`text`, and what can be said of every value of a `noun`."""
    return _said(text + (_MORE_VALUES if noun else ""), noun)


WORDINGS: dict[str, Wording] = {
    **{
        relation: Wording(_value(text, _NOUNS.get(relation, "")))
        for relation, text in _CHANGES.items()
    },
    "eyes": Wording(_value(_VALUE, "eyes")),
    "mouth": Wording(_value(_VALUE, "mouth")),
    "glasses": _thing(" glasses"),
    "accessory": _thing(),
    "plant": _thing(),
    "ring": _thing(),
    "facial_hair": _thing(),
    "object": Wording(
        _said("""{a_to} instead: replace the {from} with {a_to} | change the {from} to {a_to} |
            swap the {from} for {a_to} | put {a_to} where the {from} is |
            turn the {from} into {a_to} | show {a_to} instead of the {from}"""),
        _said("""add {a_to}: add {a_to} | put {a_to} in front | place {a_to} in the picture |
            let there be {a_to} | show {a_to} as well | insert {a_to}"""),
        _said("""remove {from}: remove the {from} | take the {from} away |
            get rid of the {from} | delete the {from} | no more {from} |
            show the place without the {from}"""),
    ),
    "weather": Wording(
        _said("""{to}: change the {from} to {to} | replace the {from} with {to} |
            turn the {from} into {to} | make it {to} instead of {from} | swap {from} for {to} |
            show {to} instead | please make the weather {to} | can you turn the {from} into {to} |
            I want {to} rather than {from} | let the {from} become {to} |
            use {to} in place of the {from} | the weather should be {to}, not {from} |
            weather: {to} | not {from} but {to} | how about {to} instead |
            the same place with {to} | what if it was {to} | there should be {to}"""),
        _said("""add {to}: add {to} | make the weather {to} | bring {to} |
            add some {to} to the sky | let there be {to} | show it with {to} |
            please add {to} | can you add {to} | I want {to} | draw {to} | it needs {to} |
            the weather should be {to} | make {to} appear | weather: {to} |
            how about some {to} | the same place with {to} | there should be {to}"""),
        _said("""remove {from}: remove the {from} | stop the {from} | clear away the {from} |
            no more {from} | take the {from} away | show it without the {from} |
            please remove the {from} | can you stop the {from} | I want the {from} gone |
            erase the {from} | the {from} must go | make the {from} disappear |
            there should be no {from} | the same place without {from} | {from} is over"""),
    ),
    "moment": Wording(_said(_LATER)),
    "viewpoint": Wording(_said(_LATER)),
    "text": Wording(
        _said("""write '{to}': replace '{from}' with '{to}' | change the text to '{to}' |
            make it read '{to}' | change '{from}' to '{to}' | write '{to}' instead of '{from}' |
            make it say '{to}' | please write '{to}' | can you write '{to}' |
            I want it to read '{to}' | it should say '{to}' | put '{to}' in place of '{from}' |
            swap '{from}' for '{to}' | let it read '{to}' | turn '{from}' into '{to}' |
            the sign should read '{to}' | print '{to}' on it | text: '{to}' |
            a sign that says '{to}' | not '{from}' but '{to}' |
            the same sign with '{to}' | put '{to}' on the sign | show '{to}' there |
            what if it said '{to}'"""),
        verbatim=True,
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


def generic(what: str) -> Wording:
    """Wording for a label nobody has written sentences for: an image folder's own attributes."""
    return Wording(_value(_VALUE, what), _said(_VALUE_ADD, what), _said(_VALUE_REMOVE, what))


def by_reference(base: Wording, attribute: str) -> Wording:
    """`base` with sentences that point at the second picture, in place of all its own.

    For edits whose wanted value a second picture shows: the words do not name it.
    """
    return Wording(_said(_BY_REFERENCE, escaped(humanise(attribute))), verbatim=base.verbatim)


# What people say around what they want; each goes with every sentence above. A model that has met
# them looks for the words that count. At most four words: a text has at most `caption.max_words`.
# None of what the text policy takes for a hint: it stops one in twenty of "…, nothing else".
CARRIERS = (
    "next: {}",
    "edit this: {}",
    "hello, {}",
    "okay, {}",
    "as a first step, {}",
    "I have a request: {}",
    "quick edit: {}",
    "in this image, {}",
    "{}, thanks",
    "{}, that is all",
    "{}, if possible",
    "{}, and leave the rest",
)
