"""What is known of a picture's chain of edits; the pictures are noise and shapes."""

import io
import json
import sqlite3
from base64 import urlsafe_b64encode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from kontext.errors import GateError
from kontext.safety import chains as module
from kontext.safety.canaries import canary_image
from kontext.safety.chains import UNKNOWN, Chains, began_by_token, token_of
from kontext.safety.classifiers.base import Pixels
from kontext.safety.ids import pixel_id
from kontext.safety.pdq import pdq_dihedral

KEY = bytes(range(32))
PICTURE, OTHER = canary_image(3), canary_image(4)


def array(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def began(chains: Chains, image: Image.Image) -> float:
    return chains.began_with(pixel_id(array(image)), pdq_dihedral(array(image))[0])


def remember(chains: Chains, image: Image.Image, exposure: float) -> None:
    pdq = pdq_dihedral(array(image))[0][0].tobytes()
    chains.remember([(pixel_id(array(image)), pdq, exposure)])


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


def test_a_result_is_known_again_by_its_pixels_and_by_its_look(tmp_path: Path) -> None:
    chains = Chains(tmp_path, KEY, 30)
    assert began(chains, PICTURE) == UNKNOWN
    remember(chains, PICTURE, 0.125)
    again = Chains(tmp_path, KEY, 30)
    smaller = PICTURE.resize((192, 192))
    for image in (PICTURE, jpeg(PICTURE), ImageOps.mirror(PICTURE), PICTURE.rotate(90), smaller):
        assert began(again, image) == 0.125
    assert began(again, OTHER) == UNKNOWN
    remember(chains, PICTURE, 0.5)
    assert began(chains, PICTURE) == 0.125  # of several beginnings the lowest
    assert (tmp_path / module.FILE).stat().st_mode & 0o777 == 0o600


def test_flat_pictures_are_known_by_their_pixels(tmp_path: Path) -> None:
    chains, flat = Chains(tmp_path, KEY, 30), Image.new("RGB", (64, 64), "grey")
    remember(chains, flat, 0.25)
    assert began(chains, flat) == 0.25


def test_what_is_kept_tells_nothing_without_the_key(tmp_path: Path) -> None:
    remember(Chains(tmp_path, KEY, 30), PICTURE, 0.125)
    kept = (tmp_path / module.FILE).read_bytes()
    hashes, _ = pdq_dihedral(array(PICTURE))
    own = pixel_id(array(PICTURE))
    for secret in (*(one.tobytes() for one in hashes), own.encode(), bytes.fromhex(own)):
        assert secret not in kept


def test_a_changed_row_ends_the_edit_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains = Chains(tmp_path, KEY, 30)
    remember(chains, PICTURE, 0.125)
    now = module.time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 31 * module.DAY)
    assert began(chains, PICTURE) == UNKNOWN
    remember(chains, OTHER, 0.25)
    with sqlite3.connect(tmp_path / module.FILE) as database:
        assert database.execute("SELECT count(*) FROM results").fetchone() == (1,)
        database.execute("UPDATE results SET sealed = zeroblob(36)")
    with pytest.raises(GateError, match="was changed"):
        began(chains, OTHER)
    (tmp_path / module.FILE).write_bytes(b"no database " * 99)
    with pytest.raises(GateError, match="cannot be read"):
        began(chains, OTHER)
    with pytest.raises(GateError, match="cannot be written"):
        remember(chains, OTHER, 0.1)


def test_a_token_is_its_pictures_and_its_keys_alone() -> None:
    hashes, _ = pdq_dihedral(array(PICTURE))
    token, keys = token_of(hashes[0].tobytes(), 0.125, KEY), {"id": KEY}
    for image in (PICTURE, jpeg(PICTURE), PICTURE.rotate(180)):
        assert began_by_token(token, pdq_dihedral(array(image))[0], keys) == 0.125
    assert began_by_token(token, pdq_dihedral(array(OTHER))[0], keys) == UNKNOWN
    assert began_by_token(token, hashes, {"other": bytes(32)}) == UNKNOWN
    said, signature = token.split(".")
    forged = urlsafe_b64encode(json.dumps([1, hashes[0].tobytes().hex(), 0.9]).encode()).decode()
    for text in (f"{forged}.{signature}", f"{said}.", said, "", "a.b", "x" * 999, "é.é"):
        assert began_by_token(text, hashes, keys) == UNKNOWN
