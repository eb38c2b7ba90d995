"""From what decoders raise to a `DecodeError` with the right reason."""

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from kontext.data.decode.result import MAX_PIXELS, Reason
from kontext.errors import DecodeError

# Pillow warns on stderr while it reads a header whose size we then refuse ourselves
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Everything that Python parsers are known to raise on hostile bytes.
PARSER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
)
_EARLY = re.compile(
    r"truncated|incomplete|premature end|not enough|unexpected end|end of file|early end"
    r"|read error at scanline|ran out|got \d+ bytes, expected|requires a buffer of|reached eof",
    re.IGNORECASE,
)
_MEMORY = re.compile(r"out of memory|memory allocation|cannot allocate|alloc failed", re.IGNORECASE)


@contextmanager
def as_decode_errors(kind: str) -> Iterator[None]:
    """Turn what a decoder of `kind` raises into DecodeError."""
    import pyvips

    try:
        yield
    except DecodeError:
        raise
    except MemoryError as error:
        raise DecodeError(Reason.RESOURCE, f"{kind}: not enough memory to decode it") from error
    except Image.DecompressionBombError as error:
        raise DecodeError(Reason.TOO_MANY_PIXELS, f"more than {MAX_PIXELS:,} pixels") from error
    except (pyvips.Error, *PARSER_ERRORS) as error:
        raise DecodeError(_why(error), f"{kind}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The error's text without line breaks and addresses, at most 200 characters."""
    if isinstance(error, UnidentifiedImageError):
        return "the header is not readable"
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"<_io\.BytesIO[^>]*>", "the file", text)[:200]


def _why(error: BaseException) -> Reason:
    text = str(error)
    if _MEMORY.search(text):
        return Reason.RESOURCE
    early = isinstance(error, EOFError) or _EARLY.search(text)
    return Reason.TRUNCATED if early else Reason.CORRUPT
