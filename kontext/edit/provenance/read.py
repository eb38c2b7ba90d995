"""What a saved edit says of itself, for the next edit of it."""

import io
import json
from contextlib import suppress
from typing import Any

from kontext.edit.provenance.credentials import ASSERTION
from kontext.edit.provenance.record import EXIF_DESCRIPTION, KEY

CHANGES_RESULTS = False  # reads what users edit; no stage does

_LONGEST = 65_536  # characters


def chain_of(data: bytes) -> str:
    """The token of where an edit's chain began: of a file's own text, or else of its credentials.

    It is only as good as its own signature (`kontext.safety.chains`); empty where there is none.
    """
    return _chain(_own_text(data)) or _chain(_credentials(data))


def said_of(data: bytes) -> tuple[str, ...]:
    """The instructions that a file says it was made by. Nobody has signed them: they only tighten.

    Empty where it says nothing.
    """
    record = _own_text(data) or _credentials(data)
    if not isinstance(record, dict):
        return ()
    then = record.get("then")
    said = (record.get("instruction"), *(then if isinstance(then, list) else ()))
    return tuple(text for text in said if isinstance(text, str))


def _chain(record: Any) -> str:
    token = record.get("chain") if isinstance(record, dict) else None
    return token if isinstance(token, str) and len(token) < _LONGEST else ""


def _own_text(data: bytes) -> Any:
    from PIL import Image

    # a file that Pillow cannot read says nothing; whether it is a picture is decided elsewhere
    with suppress(Exception), Image.open(io.BytesIO(data)) as image:
        text = image.info.get(KEY) or image.getexif().get(EXIF_DESCRIPTION) or ""
        return json.loads(text) if len(text) < _LONGEST else None
    return None


def _credentials(data: bytes) -> Any:
    """Our assertion in the file's last C2PA manifest, where c2pa-python is installed."""
    if b"c2pa" not in data:
        return None
    with suppress(Exception):  # not installed, or no manifest that can be read
        import c2pa
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            mime = Image.MIME[image.format or ""]
        with c2pa.Reader(mime, io.BytesIO(data)) as reader:
            store = json.loads(reader.json())
        assertions = store["manifests"][store["active_manifest"]]["assertions"]
        return next(one["data"] for one in assertions if one["label"] == ASSERTION)
    return None
