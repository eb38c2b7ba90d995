"""Words for users: names that are safe in a path, the known word that a typo meant, numbers."""

from collections.abc import Iterable
from difflib import get_close_matches

CHANGES_RESULTS = False  # texts for people

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # a regular expression: no separator, no leading dot


def counted(count: int, one: str, more: str) -> str:
    """`1 file is`, `2,300 files are`: a number with the words for one and for any other."""
    return f"{count:,} {one if count == 1 else more}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'seed'?`, or nothing where no known word is close."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """`unknown recipe 'dmo'; did you mean 'demo'?`, with all that are known where none is close."""
    known = list(known)
    listed = f" (known: {', '.join(known)})"
    return f"unknown {what} '{word}'{suggestion(word, known) or listed}"
