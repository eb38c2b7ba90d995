"""Choices that depend on nothing but their inputs: no global seed, no order of calls."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def stable_hash(*parts: object) -> int:
    """A 64-bit integer from the parts' text, the same in every process and Python version."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def choose(options: Sequence[T], *parts: object) -> T:
    """One of `options`, by hash of the parts."""
    return options[stable_hash(*parts) % len(options)]


def shuffled(options: Iterable[T], *parts: object) -> list[T]:
    """`options` in an order fixed by the parts (items must have a stable text form)."""
    return sorted(options, key=lambda option: stable_hash(option, *parts))
