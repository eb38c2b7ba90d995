"""Mutations of good pictures: whatever comes, the guard gives pixels or a typed error.

`python -m tests.data.decode.test_fuzz 60` goes on for 60 seconds and prints how many it tried.
"""

import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.decode import Reason, decode_image, sniff
from kontext.data.pixels import pixel_id
from kontext.errors import DecodeError
from tests.data.decode.hostile_good import good_files
from tests.data.decode.hostile_rare import rare_files

_LARGEST = 20_000  # bytes of a file that is mutated
_LIMITS = (0, 1, 7, 8, 127, 128, 255, 256, 32_767, 65_535, 2**31 - 1, 2**31, 2**32 - 1)


@cache
def seeds() -> tuple[bytes, ...]:
    """Good files of every format, with and without metadata, by their format in turn."""
    files = [one.data for one in (*good_files(), *rare_files()) if len(one.data) < _LARGEST]
    kinds: dict[str, list[bytes]] = {}
    for data in files:
        kinds.setdefault(str(sniff(data)), []).append(data)
    assert len(kinds) >= 8
    longest = max(map(len, kinds.values()))
    return tuple(kind[n % len(kind)] for n in range(longest) for kind in kinds.values())


def mutated(random: np.random.Generator) -> bytes:
    """A good file with one to six changes."""
    data = bytearray(seeds()[int(random.integers(len(seeds())))])
    for _ in range(int(random.integers(1, 7))):
        data = _changed(data, random)
    return bytes(data)


def _changed(data: bytearray, random: np.random.Generator) -> bytearray:
    at = int(min(random.integers(len(data) + 1), random.integers(len(data) + 1)))  # headers first
    length = int(random.integers(1, 40))
    match random.integers(8):
        case 0:
            data[at : at + 1] = bytes([random.integers(256)])
        case 1:
            if at < len(data):
                data[at] ^= 1 << int(random.integers(8))
        case 2:
            order = "<" if random.integers(2) else ">"
            value = _LIMITS[random.integers(len(_LIMITS))]
            kind, mask = (("I", 2**32 - 1), ("H", 2**16 - 1))[random.integers(2)]
            packed = struct.pack(order + kind, value & mask)
            data[at : at + len(packed)] = packed
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = random.bytes(length)
        case 5:
            data[at:at] = data[at : at + length * 8]
        case 6:
            other = seeds()[int(random.integers(len(seeds())))]
            data[at:] = other[min(at, len(other) - 1) :]
        case _:
            del data[max(1, at) :]
    return data or bytearray(b"\0")


def check(data: bytes) -> str:
    """What became of it. Raises AssertionError for anything that is no answer."""
    try:
        decoded = decode_image(data, resolution=None, background="#ffffff")
    except DecodeError as error:
        assert error.reason in set(Reason) and "\n" not in str(error)
        assert "crashed" not in str(error), error
        return str(error.reason)
    assert decoded.rgb.dtype == np.uint8 and decoded.rgb.shape[2:] == (3,)
    assert decoded.orig_size == (decoded.rgb.shape[1], decoded.rgb.shape[0])
    assert decoded.pixel_id == pixel_id(decoded.rgb)
    return "kept"


@settings(max_examples=150, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_mutations_give_pixels_or_a_typed_error(seed: int) -> None:
    check(mutated(np.random.default_rng(seed)))


def _tries(seconds: float) -> Iterator[int]:
    end, number = time.monotonic() + seconds, int(time.time()) * 1_000_000
    while time.monotonic() < end:
        yield number
        number += 1


if __name__ == "__main__":
    found: Counter[str] = Counter()
    for seed in _tries(float(sys.argv[1])):
        data = mutated(np.random.default_rng(seed))
        try:
            found[check(data)] += 1
        except Exception as error:  # noqa: BLE001 - counted, and the next one is tried
            found["BROKEN"] += 1
            print(f"seed {seed}: {error}")
    print(f"{found.total()} files: {dict(found.most_common())}")
