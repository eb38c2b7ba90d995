"""C2PA manifests, read back by c2pa's own reader."""

import datetime as dt
import io
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kontext.edit.provenance import certificates
from kontext.edit.provenance.certificates import CERT, KEY, SWITCH, Signer, find_signer, own_pem
from kontext.edit.provenance.credentials import ASSERTION, record
from kontext.edit.provenance.record import Provenance, save_image
from kontext.errors import KontextError
from tests.edit.provenance.test_record import written_in

c2pa = pytest.importorskip("c2pa", reason="needs kontext[c2pa]")

ORIGIN = Provenance("demo", "ab" * 32, 'make the sign read "ÖFFNEN"', 7, 4, 1.5)
PICTURE = np.random.default_rng(0).integers(0, 255, (48, 32, 3), dtype=np.uint8)
MIME = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".bmp": "image/bmp"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SWITCH, CERT, KEY):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    found = find_signer(tmp_path_factory.mktemp("home"))
    assert found is not None
    return found


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE[::-1].copy()).save(buffer, MIME[suffix].removeprefix("image/"))
    return buffer.getvalue()


def manifest(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The reader's verdict, the active manifest, and the whole store."""
    with c2pa.Reader(MIME[path.suffix], io.BytesIO(path.read_bytes())) as reader:
        store = json.loads(reader.json())
        return reader.get_validation_state(), store["manifests"][store["active_manifest"]], store


def assertion(found: dict[str, Any], label: str) -> dict[str, Any]:
    (data,) = [a["data"] for a in found["assertions"] if a["label"].startswith(label)]
    return dict(data)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_manifest_says_what_was_done_and_the_picture_stays(
    tmp_path: Path, signer: Signer, suffix: str
) -> None:
    signed, plain = tmp_path / f"signed{suffix}", tmp_path / f"plain{suffix}"
    save_image(signed, PICTURE, ORIGIN, signer, [encoded(".jpg")])
    save_image(plain, PICTURE, ORIGIN)
    state, found, _ = manifest(signed)
    assert state == "Valid"
    opened, edited = assertion(found, "c2pa.actions")["actions"]
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert edited["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    written = assertion(found, ASSERTION)
    assert (written["instruction"], written["seed"]) == (ORIGIN.instruction, 7)
    assert written == written_in(signed) == written_in(plain)
    with Image.open(signed) as one, Image.open(plain) as two:
        assert np.array_equal(np.asarray(one), np.asarray(two))


def test_inputs_are_ingredients_with_their_own_history_and_no_thumbnails(
    tmp_path: Path, signer: Signer
) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    save_image(first, PICTURE, ORIGIN, signer, [encoded(".bmp")])
    save_image(second, PICTURE, ORIGIN, signer, [first.read_bytes(), encoded(".jpg")])
    state, found, store = manifest(second)
    assert state == "Valid"
    assert [i["relationship"] for i in found["ingredients"]] == ["parentOf", "inputTo"]
    assert len(store["manifests"]) == 2  # the first edit's came along
    assert found["ingredients"][0]["active_manifest"] in store["manifests"]
    assert "thumbnail" not in json.dumps(store)


def test_a_drawing_from_words_is_created(tmp_path: Path, signer: Signer) -> None:
    save_image(tmp_path / "a.png", PICTURE, ORIGIN, signer)
    state, found, _ = manifest(tmp_path / "a.png")
    (made,) = assertion(found, "c2pa.actions")["actions"]
    assert (state, made["action"]) == ("Valid", "c2pa.created")


def test_a_changed_picture_is_found_out(tmp_path: Path, signer: Signer) -> None:
    path = tmp_path / "a.webp"
    save_image(path, PICTURE, ORIGIN, signer)
    data = bytearray(path.read_bytes())
    at = data.index(b"VP8 ") + 60
    data[at] ^= 1
    path.write_bytes(bytes(data))
    assert manifest(path)[0] == "Invalid"


def test_a_home_keeps_its_own_signer_to_itself(tmp_path: Path) -> None:
    one, two = find_signer(tmp_path), find_signer(tmp_path)
    assert one == two and one is not None and "PRIVATE" not in repr(one)
    assert stat.S_IMODE((tmp_path / certificates.OWN_FILE).stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [certificates.OWN_FILE]
    assert record(one) == {"signed": True, "by": one.name, "on_no_trust_list": True}


def chain(folder: Path, *, days_ago: int = 0, name: str = "own") -> tuple[Path, Path]:
    """A user's two files."""
    pem = own_pem(dt.datetime.now(dt.UTC) - dt.timedelta(days=days_ago, minutes=5))
    key, _, certificate = pem.partition(b"-----BEGIN CERTIFICATE")
    files = folder / f"{name}-chain.pem", folder / f"{name}-key.pem"
    files[0].write_bytes(b"-----BEGIN CERTIFICATE" + certificate)
    files[1].write_bytes(key)
    return files


def test_the_users_certificate_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, path in zip((CERT, KEY), chain(tmp_path), strict=True):
        monkeypatch.setenv(variable, str(path))
    found = find_signer(tmp_path / "home")
    assert found is not None and not found.own and found.algorithm == "es256"
    assert not (tmp_path / "home").exists()
    save_image(tmp_path / "a.jpg", PICTURE, ORIGIN, found)
    state, made, _ = manifest(tmp_path / "a.jpg")
    assert (state, made["signature_info"]["alg"]) == ("Valid", "Es256")


def test_what_cannot_sign_is_one_line_before_the_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = chain(tmp_path)
    other, old = chain(tmp_path, name="other"), chain(tmp_path, name="old", days_ago=5000)
    (tmp_path / "no.pem").write_text("no")
    for pair, message in (
        ((cert, ""), f"{KEY} is not set"),
        (("", key), f"{CERT} is not set"),
        ((cert, tmp_path / "none"), "cannot read"),
        ((tmp_path / "no.pem", key), "not usable PEM"),
        ((cert, other[1]), "not that of the chain's first certificate"),
        (old, "has expired"),
    ):
        monkeypatch.setenv(CERT, str(pair[0]))
        monkeypatch.setenv(KEY, str(pair[1]))
        with pytest.raises(KontextError, match=message) as caught:
            find_signer(tmp_path / "home")
        assert "\n" not in str(caught.value)


def test_without_c2pa_nothing_is_signed_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_signer(tmp_path) is None
    assert record(None)["signed"] is False and "pip install" in record(None)["why"]
    monkeypatch.setenv(CERT, "chain.pem")
    with pytest.raises(KontextError, match="c2pa-python is not installed"):
        find_signer(tmp_path)
    monkeypatch.setenv(SWITCH, "off")
    assert find_signer(tmp_path) is None and record(None)["why"] == "KONTEXT_C2PA=off"
    assert not list(tmp_path.iterdir())
