"""Labels in plain English: values, colours, and the description of an image from its labels."""

import re
from collections.abc import Mapping
from functools import cache

from kontext.data.caption.base import MAX_WORDS

# Values that mean "there is none", so that the edit adds or removes something.
NOTHING = frozenset({"", "no", "none", "nothing", "without", "off", "absent", "false"})

_COLORS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
    "light gray": (200, 200, 200),
    "red": (215, 45, 45),
    "dark red": (130, 20, 25),
    "orange": (240, 140, 40),
    "yellow": (245, 215, 60),
    "green": (60, 160, 70),
    "light green": (170, 220, 150),
    "teal": (30, 140, 140),
    "light blue": (150, 205, 240),
    "blue": (50, 95, 200),
    "navy": (25, 40, 90),
    "purple": (125, 70, 180),
    "pink": (240, 150, 190),
    "brown": (120, 75, 45),
    "beige": (235, 215, 180),
}
_HEX = re.compile(r"^#(?P<rgb>[0-9a-fA-F]{6})$")


@cache
def humanise(value: str) -> str:
    """A label as a person would say it.

    >>> humanise("longHair"), humanise("cat_ears"), humanise("#d8433b")
    ('long hair', 'cat ears', 'red')
    """
    color = _HEX.match(value)
    if color:
        return _nearest_color(color["rgb"])
    spaced = value
    if re.fullmatch(r"[a-z]+(?:[A-Z][a-z]+)+", value):
        spaced = re.sub(r"(?=[A-Z])", " ", value).lower()
    return " ".join(spaced.replace("_", " ").split())


def _nearest_color(rgb: str) -> str:
    channels = [int(rgb[i : i + 2], 16) for i in (0, 2, 4)]
    return min(
        _COLORS,
        key=lambda name: sum((a - b) ** 2 for a, b in zip(channels, _COLORS[name], strict=True)),
    )


def is_nothing(value: str) -> bool:
    """Whether the label says that the thing is absent."""
    return value.strip().lower() in NOTHING


def escaped(text: str) -> str:
    """`text` for use inside a format string."""
    return text.replace("{", "{{").replace("}", "}}")


def article(phrase: str) -> str:
    """The phrase with "a" or "an".

    >>> article("old Noto drawing"), article("sign")
    ('an old Noto drawing', 'a sign')
    """
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"


WHEN = {"day": "by day", "night": "at night", "dawn": "at dawn", "sunset": "at sunset"}


def when(value: str) -> str:
    """A time of day as an adverbial, e.g. "at night"."""
    return WHEN.get(value, f"at {value}")


def some(phrase: str) -> str:
    """The phrase with an article unless it looks like a plural.

    >>> some("clown nose"), some("cat ears"), some("blue glass"), some("antennae")
    ('a clown nose', 'cat ears', 'a blue glass', 'antennae')
    """
    latin = phrase.endswith("ae")  # antennae
    plural = latin or (phrase.endswith("s") and not phrase.endswith(("ss", "us", "is")))
    return phrase if plural else article(phrase)


# of what falls or blows one says "rain"; of a day, how it is
WEATHER_ADJECTIVES = frozenset(
    ["sunny", "cloudy", "rainy", "snowy", "stormy", "foggy", "windy", "clear"]
)

# attribute -> (place, phrase): before the concept, after it with "with", or a clause of its own.
_PHRASES: dict[str, tuple[str, str]] = {
    "expression": ("before", "{v}"),
    "color": ("before", "{v}"),
    "skin_tone": ("with", "{v} skin tone"),
    "skin_color": ("with", "{v} skin"),
    "hair": ("with", "{v} hair"),
    "hair_style": ("with", "{v} hair"),
    "hair_color": ("with", "{v} hair"),
    "facial_hair": ("with", "{some}"),
    "glasses": ("with", "{v} glasses"),
    "accessory": ("with", "{some}"),
    "weather": ("with", "{v}"),
    "eyes": ("with", "{v} eyes"),
    "mouth": ("with", "{v} mouth"),
    "clothing_color": ("clause", "in {v} clothes"),
    "outfit": ("clause", "in {v}"),
    "background_color": ("clause", "on {a} background"),
    "time": ("clause", "{when}"),
    "time_of_day": ("clause", "{when}"),
    "season": ("clause", "in {v} colors"),
    "direction": ("clause", "pointing {v}"),
    "clock": ("clause", "showing {v}"),
    "text": ("clause", ""),
    "art_style": ("style", "in {v} style"),
    "drawing": ("style", "as {a} drawing"),
}


def describe(concept: str, attributes: Mapping[str, str], focus: str = "") -> str:
    """Caption of an image: its concept and labels, `focus` first, at most MAX_WORDS words.

    Labels that no longer fit are left out, so the caption is always true, if not complete.

    >>> describe("sign", {"text": "OPEN"})
    "a sign reading 'OPEN'"
    >>> describe("person", {"hair_color": "red", "expression": "sad"}, "hair_color")
    'a sad person with red hair'
    """
    subject = _subject(concept)
    chosen: dict[str, str] = {}
    for name in sorted(attributes, key=lambda n: (n != focus, n)):
        phrase = _phrase(name, attributes[name], subject)
        trial = {**chosen, name: phrase}
        if phrase and len(_join(subject, trial).split()) <= MAX_WORDS:
            chosen = trial
    return _join(subject, chosen)


def _subject(concept: str) -> str:
    """The concept, cleaned and at most eight words long."""
    text = " ".join(humanise(concept).replace(" none ", " ").split(":")[0].split())
    return " ".join(text.split()[:8]) or "picture"


def _phrase(name: str, value: str, subject: str) -> str:
    """One label in words; empty where the concept says it already or it says "none"."""
    if name == "text":  # verbatim: "NO" on a sign is a word, not an absence
        return f"reading '{' '.join(value.split())}'"
    said = humanise(value)
    if is_nothing(value) or (name != "art_style" and said in subject.split()):
        return ""
    if name == "gender":
        return said
    if name == "weather" and said in WEATHER_ADJECTIVES:
        return f"{said} weather"
    if name in ("hair", "hair_style") and said == "bald":
        return "no hair"
    _, pattern = _PHRASES.get(name, ("with", f"{escaped(humanise(name))} {{v}}"))
    return pattern.format(v=said, a=article(said), some=some(said), when=when(said))


def _join(subject: str, phrases: Mapping[str, str]) -> str:
    places: dict[str, list[str]] = {"before": [], "with": [], "clause": [], "style": []}
    for name, phrase in phrases.items():
        place = "before" if name == "gender" else _PHRASES.get(name, ("with", ""))[0]
        places[place].append(phrase)
    text = some(" ".join([*places["before"], subject]))
    if places["with"]:
        text += " with " + " and ".join(places["with"])
    for phrase in places["clause"] + places["style"]:
        text += " " + phrase
    return text
