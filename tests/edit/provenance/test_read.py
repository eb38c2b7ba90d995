import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kontext.edit.provenance.certificates import find_signer
from kontext.edit.provenance.credentials import sign
from kontext.edit.provenance.read import chain_of, said_of
from kontext.edit.provenance.record import Provenance, encode_image

MADE = Provenance("m", "d", "make it red", 0, 4, 1.0, chain="a.b")
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def stripped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_saved_edit_says_where_its_chain_began(kind: str) -> None:
    data = encode_image(PICTURE, MADE, kind)
    assert chain_of(data) == "a.b"
    assert chain_of(stripped(data)) == ""
    assert said_of(data)[0] == MADE.instruction and said_of(stripped(data)) == ()


def test_credentials_say_it_where_the_text_was_taken_away(tmp_path: Path) -> None:
    pytest.importorskip("c2pa", reason="needs kontext[c2pa]")
    signer = find_signer(tmp_path)
    assert signer is not None
    signed = sign(stripped(encode_image(PICTURE, MADE, "PNG")), "image/png", asdict(MADE), signer)
    assert chain_of(signed) == "a.b"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"chain": 3}', "3", '{"chain": null}'])
def test_other_texts_say_nothing(text: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = text
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG", exif=exif)
    assert chain_of(buffer.getvalue()) == ""
    assert chain_of(b"no picture, c2pa") == ""
    assert said_of(buffer.getvalue()) == ()
