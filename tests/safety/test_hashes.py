import datetime as dt
import hashlib
import io
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from kontext.errors import GateError
from kontext.safety.canaries import canary_image
from kontext.safety.hashes import HashGate, load_hash_list
from kontext.safety.ids import Outcome, Reason
from kontext.safety.list_files import STANDING, list_files
from kontext.safety.pdq import distances, pairs_within, pdq_dihedral, without_borders
from kontext.safety.pdq_index import PdqIndex
from schemas.sections.data import IngestConfig
from tests.data.pictures import scene

TODAY = dt.date(2026, 3, 1)
HEADER = "# provider: test-ngo\n# version: 7\n# date: 2026-02-20\n"


def picture(seed: int = 1, side: int = 200) -> np.ndarray:
    """A benign smooth picture that is no canary."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def hex_pdq(rgb: np.ndarray) -> str:
    return pdq_dihedral(rgb)[0][0].tobytes().hex()


def gate_with(tmp_path, *rows: str, **config) -> HashGate:
    path = tmp_path / "list.csv"
    path.write_text(HEADER + "type,value\n" + "\n".join(rows) + "\n")
    settings_ = IngestConfig(hash_lists=(str(path),), **{"allow_unlisted": False, **config})
    return HashGate.from_config(settings_, tmp_path, TODAY)


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256"])
def test_exact_hashes_of_the_raw_bytes(tmp_path, kind):
    gate = gate_with(tmp_path, f"{kind},{hashlib.new(kind, b'file').hexdigest().upper()}")
    hit = gate.check(b"file", picture())
    assert (hit.outcome, hit.reason, hit.provider) == (
        Outcome.DROP,
        Reason.HASH_MATCH,
        "test-ngo@7",
    )
    assert gate.check(b"file2", picture()).outcome is Outcome.PASS


@pytest.mark.parametrize("side", [64, 100, 256, 700])
@pytest.mark.parametrize("turn", range(8))
def test_pdq_in_all_eight_orientations(tmp_path, side, turn):
    gate = gate_with(tmp_path, f"pdq,{hex_pdq(picture(side=side))}")
    turned = np.rot90(picture(side=side), turn % 4)
    turned = turned[:, ::-1] if turn >= 4 else turned
    assert gate.check(b"", turned).outcome is Outcome.DROP
    assert gate.check(b"", picture(2, side)).outcome is Outcome.PASS


def test_match_stops_at_distance_31(tmp_path):
    bits = np.unpackbits(pdq_dihedral(picture())[0][0])
    for flipped, outcome in ((31, Outcome.DROP), (32, Outcome.PASS)):
        near = bits.copy()
        near[:flipped] ^= 1
        gate = gate_with(tmp_path, f"pdq,{np.packbits(near).tobytes().hex()}")
        assert gate.check(b"", picture()).outcome is outcome


def test_a_flat_image_is_unmatchable_but_its_bytes_are_still_matched(tmp_path):
    flat = np.full((64, 64, 3), 200, np.uint8)
    gate = gate_with(tmp_path, f"md5,{hashlib.md5(b'flat').hexdigest()}")
    result = gate.check(b"other", flat)
    assert result.outcome is Outcome.UNMATCHABLE and result.reason is Reason.PDQ_LOW_QUALITY
    assert result.pdq_quality < 50
    assert gate.check(b"flat", flat).outcome is Outcome.DROP


FADED = {  # share of the picture that is left, over a ground of this brightness
    "contrast": (0.3, 128),
    "little contrast": (0.1, 128),
    "hardly any contrast": (0.05, 128),
    "brightness": (0.2, 0),
    "little brightness": (0.08, 0),
    "opacity over white": (0.25, 255),
    "little opacity over white": (0.08, 255),
}


@pytest.mark.parametrize("name", FADED)
def test_what_is_faded_hides_nothing(tmp_path, name):
    """The hash is too plain to be sure of, yet near a listed one: it is kept out, never passed."""
    share, ground = FADED[name]
    gate = gate_with(tmp_path, f"pdq,{hex_pdq(picture())}")
    pale = np.rint(ground + (picture().astype(float) - ground) * share).astype(np.uint8)
    result = gate.check(b"", pale)
    assert result.outcome is Outcome.DROP and result.pdq_quality < 50
    assert result.reason is Reason.HASH_MATCH_LOW_QUALITY


BORDERS = {
    "white": ((26, 26), (26, 26), 255),
    "left and right": ((0, 0), (40, 40), 255),
    "letterbox": ((50, 50), (0, 0), 0),
    "one side": ((0, 0), (0, 60), 130),
    "uneven": ((9, 30), (12, 10), 20),
}


@pytest.mark.parametrize("name", BORDERS)
@pytest.mark.parametrize("quality", [None, 70])
def test_a_border_hides_nothing(tmp_path, name, quality):
    hides_nothing(tmp_path, *BORDERS[name], quality)


def test_nor_does_a_thin_one(tmp_path):
    """JPEG mixes 3 of 200 pixels with the picture: then it takes a wider one to be seen."""
    hides_nothing(tmp_path, (3, 3), (3, 3), 255, None)


def hides_nothing(tmp_path, *rest):
    *sides, grey, quality = rest
    gate = gate_with(tmp_path, f"pdq,{hex_pdq(picture())}")
    framed = np.pad(picture(), (*sides, (0, 0)), constant_values=grey)
    if quality:
        file = io.BytesIO()
        Image.fromarray(framed).save(file, "jpeg", quality=quality)
        framed = np.asarray(Image.open(file))
    assert gate.check(b"", np.rot90(framed)).reason is Reason.HASH_MATCH
    twice = np.pad(framed, ((9, 9), (9, 9), (0, 0)), constant_values=90)
    assert gate.check(b"", twice).reason is Reason.HASH_MATCH
    other = np.pad(picture(2), (*sides, (0, 0)), constant_values=grey)
    assert gate.check(b"", other).outcome is Outcome.PASS


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (15, 40), (64, 64)])
def test_plain_and_tiny_pictures_have_no_inside(shape):
    assert list(without_borders(np.full((*shape, 3), 90, np.uint8))) == []


@settings(max_examples=50)
@given(st.tuples(*[st.integers(0, 40)] * 4), st.integers(0, 255), st.integers(0, 5))
def test_only_plain_lines_are_taken_away(sides, grey, seed):
    top, bottom, left, right = sides
    inner = np.random.default_rng(seed).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    framed = np.pad(inner, ((top, bottom), (left, right), (0, 0)), constant_values=grey)
    found = list(without_borders(framed))
    assert len(found) == any(sides) and all(np.array_equal(view, inner) for view in found)


def test_lists_in_the_home_are_always_matched(tmp_path):
    folder = tmp_path / STANDING
    folder.mkdir()
    assert list_files((), tmp_path) == () == list_files((), None)
    entry = f"type,value\npdq,{hex_pdq(picture())}\n"
    (folder / "own.csv").write_text(HEADER + entry)
    (folder / "notes.txt").write_text("not a list")
    gate = HashGate.from_config(IngestConfig(), tmp_path, TODAY)
    assert gate.check(b"", picture()).reason is Reason.HASH_MATCH
    assert gate.version.endswith("+test-ngo@7") and gate.notes == ()
    twice = HashGate.from_config(IngestConfig(hash_lists=("hash-lists/own.csv",)), tmp_path, TODAY)
    assert twice.version == gate.version


@pytest.mark.parametrize("name", ["OWN.CSV", "ngo/2026/own.Csv"])
def test_a_list_in_the_home_is_matched_wherever_it_was_put(tmp_path, name):
    path = tmp_path / STANDING / name
    path.parent.mkdir(parents=True)
    path.write_text(f"{HEADER}type,value\npdq,{hex_pdq(picture())}\n")
    gate = HashGate.from_config(IngestConfig(), tmp_path, TODAY)
    assert gate.check(b"", picture()).reason is Reason.HASH_MATCH


def test_a_list_from_the_future_is_refused(tmp_path):
    path = tmp_path / "list.csv"
    for days, refused in ((0, False), (1, False), (2, True), (3650, True)):
        date = TODAY + dt.timedelta(days=days)
        path.write_text(
            f"# provider: p\n# version: 1\n# date: {date}\ntype,value\nmd5,{'0' * 32}\n"
        )
        config = IngestConfig(hash_lists=(str(path),))
        if not refused:
            assert HashGate.from_config(config, tmp_path, TODAY).notes == ()
            continue
        with pytest.raises(GateError, match="dated ahead"):
            HashGate.from_config(config, tmp_path, TODAY)


@pytest.mark.parametrize("shape", [(1, 1), (3, 300), (16, 16), (2, 2)])
def test_tiny_and_odd_shapes_do_not_break_the_gate(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert len(HashGate().check(b"x", image).pdq) == 32


def test_canaries_are_always_in_the_bank(tmp_path):
    image = np.asarray(canary_image(3))
    for gate in (HashGate(), gate_with(tmp_path, f"md5,{'0' * 32}")):
        result = gate.check(b"", image)
        assert result.reason is Reason.CANARY and result.provider.startswith("canary-bank@")


def test_jsonl_is_read_like_csv(tmp_path):
    rows = [
        {"provider": "p", "version": 3, "date": "2026-02-28"},
        {"type": "PDQ", "value": hex_pdq(picture())},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    loaded = load_hash_list(path)
    assert (loaded.name, len(loaded), loaded.date) == ("p@3", 1, dt.date(2026, 2, 28))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", HEADER + "type,value\nsha256,SECRETSECRET\n", "line 5: not 64 hex"),
        ("l.csv", HEADER + "type,value\nphotodna,SECRETSECRET\n", "line 5: unknown hash type"),
        ("l.csv", HEADER + "type,value\nSECRETSECRET\n", "line 5: two columns"),
        ("l.csv", HEADER + "type,value\nmd5," + "SECRET" * 30_000, "line 5: not a row of CSV"),
        ("l.csv", HEADER + "SECRETSECRET\n", "first row"),
        ("l.csv", HEADER + "type,value\n", "no entries"),
        ("l.csv", "# provider: p\ntype,value\nmd5," + "0" * 32, "lacks version, date"),
        ("l.csv", HEADER.replace("2026-02-20", "SECRETSECRET") + "type,value\n", "YYYY-MM-DD"),
        ("l.jsonl", '{"provider": "p"}\nSECRETSECRET\n', "line 2: not a JSON"),
        ("l.jsonl", '{"provider": "p", "version": 1, "date": "2026-01-01"}\n{"x": 1}', "line 2"),
        ("l.txt", "SECRETSECRET", "suffix"),
    ],
)
def test_malformed_lists_are_refused_without_showing_entries(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(GateError, match=message) as caught:
        load_hash_list(tmp_path / name)
    assert "SECRET" not in str(caught.value).upper().replace(name.upper(), "")


def test_entries_never_appear_in_reprs_or_pickles(tmp_path):
    entry = hashlib.sha256(b"x").hexdigest()
    gate = gate_with(tmp_path, f"sha256,{entry}")
    assert entry not in repr(gate.lists) and entry not in repr(gate)
    with pytest.raises(TypeError, match="secrets"):
        pickle.dumps(gate)


def test_missing_and_stale_lists_refuse_unless_allowed(tmp_path):
    with pytest.raises(GateError, match="no hash list"):
        HashGate.from_config(IngestConfig(allow_unlisted=False), tmp_path, TODAY)
    (note,) = HashGate.from_config(IngestConfig(allow_unlisted=True), tmp_path, TODAY).notes
    assert "canary bank" in note
    row = f"md5,{'0' * 32}"
    assert gate_with(tmp_path, row).notes == ()
    path = tmp_path / "list.csv"
    path.write_text(path.read_text().replace("2026-02-20", "2026-01-29"))
    config = IngestConfig(hash_lists=("list.csv",), allow_unlisted=False)  # found in the home
    with pytest.raises(GateError, match="31 days old"):
        HashGate.from_config(config, tmp_path, TODAY)
    with pytest.raises(GateError, match="does not exist"):
        HashGate.from_config(IngestConfig(hash_lists=("none.csv",)), tmp_path, TODAY)


@given(st.integers(0, 2**32), st.integers(0, 40))
@settings(max_examples=15)
def test_the_index_finds_exactly_what_a_scan_finds(seed, flips):
    rng = np.random.default_rng(seed)
    bank = rng.integers(0, 256, (5000, 32), dtype=np.uint8)
    queries = rng.integers(0, 256, (8, 32), dtype=np.uint8)
    bits = np.unpackbits(bank[seed % 5000])
    bits[rng.choice(256, flips, replace=False)] ^= 1
    queries[3] = np.packbits(bits)
    match = PdqIndex(bank).nearest(queries)
    scanned = distances(bank[:, None], queries[None])
    if scanned.min() > 31:
        assert match is None
    else:
        assert match is not None and match.distance == scanned.min()
        assert scanned[match.row].min() == match.distance


def test_an_empty_index_matches_nothing():
    assert PdqIndex(np.empty((0, 32), np.uint8)).nearest(np.zeros((8, 32), np.uint8)) is None


@pytest.mark.parametrize("distance", [0, 9, 15, 16, 31])
def test_pairs_within_a_distance_are_those_of_a_scan(distance):
    rng = np.random.default_rng(distance)
    bits = np.repeat(rng.integers(0, 2, (60, 256), dtype=np.uint8), 4, axis=0)
    for row in bits:
        row[rng.choice(256, rng.integers(0, distance + 2), replace=False)] ^= 1
    hashes = np.packbits(bits, axis=1)
    apart = distances(hashes[:, None], hashes[None])
    expected = [(i, j) for i, j in np.argwhere(apart <= distance).tolist() if i < j]
    assert pairs_within(hashes, distance) == expected and (len(expected) > 0 or distance == 0)
    assert pairs_within(hashes[:0], distance) == []


def test_of_equal_matches_the_first_entry_of_the_first_query_is_taken():
    bank = np.zeros((6, 32), np.uint8)
    bank[1] = bank[4] = 255
    queries = np.array([bank[4], bank[0]])
    assert PdqIndex(bank).nearest(queries) == (1, 0)


def test_a_listed_picture_is_known_at_a_quarter_of_its_size(tmp_path):
    """PDQ alone is up to 40 bits off for small pictures; the gate looks at them enlarged too."""
    pictures = [scene(number, 480) for number in range(12)]
    rows = [f"pdq,{pdq_dihedral(rgb)[0][0].tobytes().hex()}" for rgb in pictures]
    alone = []
    for number, rgb in enumerate(pictures):
        small = Image.fromarray(rgb).resize((120, 120), Image.Resampling.LANCZOS)
        gate = gate_with(tmp_path, rows[number])
        own = pdq_dihedral(rgb)[0][0]
        alone.append(distances(pdq_dihedral(np.asarray(small))[0], own).min())
        assert gate.check(b"", np.asarray(small)).reason == Reason.HASH_MATCH
        framed = ImageOps.expand(small.rotate(90), 20, (255, 255, 255))
        assert gate.check(b"", np.asarray(framed)).reason == Reason.HASH_MATCH
    assert max(alone) > 31
