import datetime as dt
import hashlib

import numpy as np
import pytest

from benchmarks.pdq import photographs
from kontext.safety import pdq_index
from kontext.safety.hashes import HashGate, HashList
from kontext.safety.multi_index import Bytes
from kontext.safety.pdq import MAX_DISTANCE, distances, pdq_dihedral
from kontext.safety.rematch import rematch, turned

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
