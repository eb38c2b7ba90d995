"""Words that users type: names that are safe in a path, and the known word that a typo meant."""

from collections.abc import Iterable
from difflib import get_close_matches

CHANGES_RESULTS = False  # texts for people

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # a regular expression: no separator, no leading dot


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'seed'?`, or nothing where no known word is close."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """`unknown recipe 'dmo'; did you mean 'demo'?`, with all that are known where none is close."""
    known = list(known)
    listed = f" (known: {', '.join(known)})"
    return f"unknown {what} '{word}'{suggestion(word, known) or listed}"
