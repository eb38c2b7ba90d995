"""How an edit is worded: six or more paraphrases; {to}, {from} and {a_to} are filled in.

A relation either changes a value, or (`add`, `remove`) puts a thing in and takes it out. The short
form is the fewest words that still say what to do. Other fields: {some_to} has an article unless it
is a plural, {when} is "at night", {hair} is "red hair" or "no hair".
"""

from __future__ import annotations

import re
from dataclasses import dataclass


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


def lines(text: str) -> tuple[str, ...]:
    """One sentence per line of `text`."""
    return tuple(line.strip() for line in text.strip().splitlines())


_ADD = lines("""
    add {some_to}
    give them {some_to}
    put {some_to} on them
    let them have {some_to}
    they should have {some_to}
    show them with {some_to}
""")
_REMOVE = lines("""
    remove the {from}
    take off the {from}
    get rid of the {from}
    delete the {from}
    no more {from}
    show them without the {from}
""")


def thing(suffix: str = "") -> Wording:
    """Wording of something that can be there or not; `suffix` is its plural name, if any."""

    def named(sentences: tuple[str, ...]) -> tuple[str, ...]:
        if not suffix:
            return sentences
        plural = (line.replace("{some_to}", "{to}") for line in sentences)
        return tuple(re.sub(r"\{(?:to|from)\}", r"\g<0>" + suffix, line) for line in plural)

    change = lines("""
        replace the {from} with {some_to}
        change the {from} to {some_to}
        swap the {from} for {some_to}
        give them {some_to} instead
        turn the {from} into {some_to}
        switch to {some_to}
    """)
    short, add, remove = named(("{to}", "add {to}", "remove {from}"))
    return Wording(named(change), short, named(_ADD), named(_REMOVE), add, remove)


def value(thing: str, to: str = "{to}") -> Wording:
    """Wording of a property that always has some value."""
    return Wording(
        lines(f"""
            change the {thing} to {to}
            make the {thing} {to}
            set the {thing} to {to}
            turn the {thing} {to}
            the {thing} should be {to}
            switch the {thing} to {to}
        """),
        f"{thing} {to}",
    )


_GENERIC_ADD = lines("""
    add {to} {what}
    give it {to} {what}
    put {to} {what} in
    make it have {to} {what}
    it should have {to} {what}
    show it with {to} {what}
""")
_GENERIC_REMOVE = lines("""
    remove the {what}
    take away the {what}
    get rid of the {what}
    delete the {what}
    show it without the {what}
    no more {what}
""")


def generic(what: str) -> Wording:
    """Wording for a label nobody has written sentences for: an image folder's own attributes."""
    base = value(what)
    return Wording(
        base.change,
        base.short,
        tuple(line.replace("{what}", what) for line in _GENERIC_ADD),
        tuple(line.replace("{what}", what) for line in _GENERIC_REMOVE),
        f"add {{to}} {what}",
        f"remove {what}",
    )
