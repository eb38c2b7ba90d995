"""What decoders raise, by the reason that is recorded."""

import pytest

from kontext.data.decode.problems import as_decode_errors
from kontext.data.decode.result import Reason
from kontext.errors import DecodeError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.RESOURCE),
        (ValueError("VipsImage: out of memory"), Reason.RESOURCE),
        (OSError("cannot allocate 1800000000 bytes"), Reason.RESOURCE),
        (OSError("image file is truncated"), Reason.TRUNCATED),
        (ValueError("bad magic"), Reason.CORRUPT),
    ],
)
def test_a_good_picture_that_memory_did_not_hold_is_not_called_corrupt(
    error: Exception, reason: Reason
) -> None:
    with pytest.raises(DecodeError) as raised, as_decode_errors("TIFF"):
        raise error
    assert raised.value.reason == reason
