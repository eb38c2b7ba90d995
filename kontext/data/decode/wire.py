"""What the decoder process and its caller say to each other: a JSON header, then bytes.

Nothing is unpickled: a decoder that a picture has taken over can only answer with pixels and words.
"""

import json
import struct
from typing import Any, BinaryIO

import numpy as np

from kontext.data.decode.result import MAX_PIXELS, Decoded, Reason
from kontext.errors import DecodeError

LENGTH = struct.Struct("<II")  # of the header, of the bytes
MORE, ENOUGH = b"+", b"-"  # to a picture behind the first: another one, or no more of them
_MAX_HEADER = 1 << 16


def send(pipe: BinaryIO, header: dict[str, Any], body: Any = b"") -> None:
    """Write one message."""
    text = json.dumps(header).encode()
    view = memoryview(body).cast("B")
    pipe.write(LENGTH.pack(len(text), len(view)) + text)
    pipe.write(view)
    pipe.flush()


def check_lengths(packed: bytes) -> tuple[int, int]:
    """(bytes of header, bytes of body). Raises ValueError for what no message has."""
    header, body = LENGTH.unpack(packed)
    if header > _MAX_HEADER or body > 3 * MAX_PIXELS:
        raise ValueError("a message that is too long")
    return header, body


def answer_of(decoded: Decoded) -> tuple[dict[str, Any], Any]:
    """The message for a picture."""
    facts = {
        name: getattr(decoded, name)
        for name in ("orig_size", "format", "mode", "frames", "alpha", "icc", "taken")
    }
    facts["exif_orientation"] = decoded.exif_orientation
    rgb = np.ascontiguousarray(decoded.rgb)
    return {"shape": rgb.shape, "facts": facts}, rgb.reshape(-1)


def decoded_of(header: dict[str, Any], body: bytearray) -> Decoded:
    """The picture of a message. Raises the DecodeError that it carries instead of one."""
    if "reason" in header:
        raise DecodeError(Reason(header["reason"]), str(header["detail"]))
    facts = dict(header["facts"])
    width, height = facts.pop("orig_size")
    rgb = np.frombuffer(body, np.uint8).reshape([int(n) for n in header["shape"]])
    return Decoded(rgb=rgb, orig_size=(int(width), int(height)), **facts)
