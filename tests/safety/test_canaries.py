import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kontext.safety.canaries import (
    BANK_SIZE,
    TRANSFORMS,
    canary_image,
    canary_items,
    transformed,
)
from kontext.safety.hashes import HashGate
from kontext.safety.ids import Outcome, Reason
from kontext.safety.pdq import MAX_DISTANCE, distances, pdq_dihedral

# Known limits of the perceptual hash itself (ThreatExchange documents the same).
BEYOND_PDQ = {"crop-10%", "border-5%"}


def test_canaries_are_different_hashable_pictures():
    hashes = []
    for number in range(BANK_SIZE):
        (own, *_), quality = pdq_dihedral(np.asarray(canary_image(number)))
        assert quality >= 50
        hashes.append(own)
    apart = distances(np.stack(hashes)[:, None], np.stack(hashes)[None])
    assert apart[~np.eye(BANK_SIZE, dtype=bool)].min() > MAX_DISTANCE


def test_items_depend_only_on_the_seed():
    assert canary_items(3, 5) == canary_items(3, 5)
    assert canary_items(3, 5) != canary_items(3, 6)
    assert len(set(canary_items(BANK_SIZE))) == BANK_SIZE
    code = (
        "import hashlib; from kontext.safety.canaries import canary_items;"
        "print(hashlib.sha256(canary_items(1, 2)[0]).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(canary_items(1, 2)[0]).hexdigest()
    with pytest.raises(ValueError, match="16 canaries"):
        canary_items(17)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_gate_recalls_transformed_canaries(name):
    gate = HashGate()
    outcomes = [gate.check(*transformed(number, name)) for number in range(0, BANK_SIZE, 3)]
    stopped = [result.outcome is Outcome.DROP for result in outcomes]
    if name in BEYOND_PDQ:
        assert not all(stopped)  # if this ever changes, say so in the safety card
    else:
        assert all(stopped)
        assert {result.reason for result in outcomes} == {Reason.CANARY}


def test_there_are_twenty_transforms_and_none_is_idle():
    assert len(TRANSFORMS) >= 20
    plain = np.asarray(canary_image(0))
    for name in TRANSFORMS:
        data, pixels = transformed(0, name)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
        if name != "none":
            assert pixels.shape != plain.shape or not np.array_equal(pixels, plain)
