import datetime as dt
import hashlib

import numpy as np
import pytest

from benchmarks.pdq import photographs
from kontext.errors import CanaryError
from kontext.safety import pdq_index
from kontext.safety import rematch as module
from kontext.safety.hashes import HashGate, HashList
from kontext.safety.multi_index import Bytes, Hits
from kontext.safety.pdq import MAX_DISTANCE, distances, pdq_dihedral
from kontext.safety.proof import canary_list
from kontext.safety.rematch import proved_rematch, rematch, turned

TODAY = dt.date(2026, 3, 1)


def listed(name: str, pdq: Bytes, *sha256: bytes) -> HashList:
    return HashList(name, "1", TODAY, {"sha256": set(sha256)}, pdq)


@pytest.mark.parametrize("seed", range(3))
def test_orientations_are_near_those_of_the_turned_picture(seed: int) -> None:
    *_, rgb = photographs(seed + 1, 0.4)
    hashes, _ = pdq_dihedral(rgb)
    derived = turned(hashes[:1])[:, 0]
    assert (derived[0] == hashes[0]).all() and len(np.unique(derived, axis=0)) == 8
    nearest = distances(hashes[:, None], derived[None]).min(axis=1)
    assert (nearest <= 20).all() and nearest.max() < MAX_DISTANCE


def test_every_row_that_a_list_names_is_found_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (400, 32), dtype=np.uint8)
    stored[17] = stored[3]  # the same hash twice
    digests = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(400)]
    near, far = stored[3].copy(), stored[9].copy()
    near[:3], far[:4] = ~near[:3], ~far[:4]  # 24 and 32 bits
    quarter = turned(stored[50][None])[5]
    first = listed("first", np.stack([near, far]), bytes.fromhex(digests[100]))
    second = listed("second", np.concatenate([quarter, near[None]]))
    gate = HashGate([first, second])
    expected = [(3, "first@1"), (17, "first@1"), (50, "second@1"), (100, "first@1")]
    assert [tuple(hit) for hit in rematch(gate, stored, digests)] == expected
    monkeypatch.setattr(pdq_index, "_SHORT", 10)
    assert [tuple(hit) for hit in rematch(gate, stored, digests)] == expected


def test_canaries_and_empty_stores_are_no_hits() -> None:
    gate = HashGate([listed("l", np.zeros((1, 32), np.uint8))])
    canary = gate.lists[0].pdq[:2]
    assert rematch(gate, canary, ["0" * 64] * 2) == []
    assert rematch(gate, np.empty((0, 32), np.uint8), []) == []


STORED = np.random.default_rng(1).integers(0, 256, (20, 32), dtype=np.uint8)
DIGESTS = [hashlib.sha256(bytes([n])).hexdigest() for n in range(20)]


def nothing(*_: object) -> Hits:
    return Hits(*(np.zeros(0, np.int64) for _ in range(3)))


def everything(self: pdq_index.PdqIndex, queries: Bytes) -> Hits:
    rows = np.arange(len(self))
    return Hits(0 * rows, rows, 0 * rows)


@pytest.mark.parametrize("long", [False, True])
def test_stored_pictures_are_looked_up_beside_canaries(
    monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    if long:
        monkeypatch.setattr(pdq_index, "_SHORT", 10)
    gate = HashGate([canary_list(), listed("ngo", STORED[3:4], bytes.fromhex(DIGESTS[7]))])
    found = [(3, "ngo@1"), (7, "ngo@1")]
    assert [tuple(hit) for hit in proved_rematch(gate, STORED, DIGESTS)] == found
    none = HashGate([canary_list()])
    assert proved_rematch(none, np.empty((0, 32), np.uint8), []) == []
    # a stored picture that is the canary itself is no hit, unless another list has it
    own = canary_list().pdq
    assert proved_rematch(none, own, [DIGESTS[0]]) == []
    both = HashGate([canary_list(), listed("ngo", own)])
    assert [tuple(hit) for hit in proved_rematch(both, own, [DIGESTS[0]])] == [(0, "ngo@1")]


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (pdq_index.PdqIndex, "within", nothing),
        (pdq_index.PdqIndex, "within", everything),
        (module, "turned", lambda hashes: np.repeat(hashes[None], 8, 0)),
        (module, "_near", lambda *_: []),
    ],
)
def test_a_look_up_that_finds_no_canary_ends_the_sweep(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, broken: object
) -> None:
    gate = HashGate([canary_list(), listed("ngo", STORED[3:4])])
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(CanaryError, match="nothing was swept"):
        proved_rematch(gate, STORED, DIGESTS)


def test_no_sweep_by_a_gate_without_the_canaries_own_list() -> None:
    with pytest.raises(CanaryError, match="lacks the canaries' list"):
        proved_rematch(HashGate([listed("ngo", STORED[3:4])]), STORED, DIGESTS)
