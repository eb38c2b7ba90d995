"""When a photograph was taken, as its camera wrote it down (EXIF)."""

import calendar
import io
import re

from PIL import Image

from kontext.data.decode.problems import PARSER_ERRORS

KINDS = ("jpeg", "webp", "heic")  # of others it may lie behind the pixels
_EXIF, _ORIGINAL, _FRACTION = 0x8769, 0x9003, 0x9291
_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)")


def taken_at(data: bytes) -> float | None:
    """Seconds since 1970 on the camera's own clock; None where the file does not say, or nonsense.

    Only the header is read.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            said = picture.getexif().get_ifd(_EXIF)
        return _seconds(str(said.get(_ORIGINAL, "")), str(said.get(_FRACTION, "")))
    except (*PARSER_ERRORS, Image.DecompressionBombError):
        return None  # a bad tag must not lose the picture


def _seconds(time: str, fraction: str) -> float | None:
    """EXIF's time and digits behind its point.

    >>> _seconds("1970:01:02 00:00:03", "25")
    86403.25
    """
    found = _TIME.match(time)
    if found is None:
        return None
    year, month, day, hour, minute, second = map(int, found.groups())
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]):
        return None
    if hour > 23 or minute > 59 or second > 60:
        return None
    whole = calendar.timegm((year, month, day, hour, minute, second))
    digits = re.match(r"\d{1,6}", fraction.strip())
    return whole + (float(f"0.{digits[0]}") if digits else 0.0)
