"""What stages read of a picture: crops that the gate, the lists of later and classifiers meet."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kontext.data.buckets import KONTEXT_SIZES, Buckets, Size
from kontext.data.forms import Crops, crop_probes, gated, stops, together
from kontext.data.pixels import Pixels
from kontext.safety.canaries import canary_image
from kontext.safety.hashes import HashGate
from kontext.safety.ids import Outcome, Reason
from kontext.safety.pdq import distances, pdq_dihedral
from schemas.sections.data import IngestConfig

SQUARE = Crops(Buckets(((64, 64),)))
KONTEXT = Crops(Buckets(KONTEXT_SIZES))


def textured(number: int, side: int) -> Pixels:
    """A canary of the bank between two strips of another one, `side` pixels wide."""
    picture = canary_image(20).resize((256 + 2 * side, 256))
    picture.paste(canary_image(number), (side, 0))
    return np.asarray(picture)


@pytest.mark.parametrize("side", [13, 26, 64, 128])
def test_what_textured_sides_hide_is_stopped_by_its_crop(side: int) -> None:
    gate, picture = HashGate(), textured(3, side)
    whole = gate.check_pixels(picture)
    assert not stops(whole)  # PDQ does not know it behind them
    (crop,) = SQUARE(picture)
    own = pdq_dihedral(np.asarray(canary_image(3)))[0][0]
    assert distances(pdq_dihedral(crop)[0][0], own) <= 4
    found = gated(gate, whole, [crop])
    assert together(found).reason is Reason.CANARY and together(found).outcome is Outcome.DROP


@given(st.integers(16, 4000), st.integers(16, 4000))
def test_whatever_is_read_of_a_picture_is_a_form_of_it(width: int, height: int) -> None:
    forms = KONTEXT.buckets.forms((width, height))
    assert forms[0] == KONTEXT.buckets.fit((width, height))
    assert len(forms) == len({form.size for form in forms}) <= 3
    cut = {form.box((width, height)) for form in forms if not form.cuts_nothing}
    assert KONTEXT.count((width, height)) == len(cut)


@given(st.integers(256, 2048), st.integers(256, 2048), st.floats(0.25, 4))
def test_a_context_of_its_targets_shape_finds_the_targets_size_among_its_forms(
    width: int, height: int, scale: float
) -> None:
    context = round(width * scale), round(height * scale)
    if min(context) < 64 or max(context) > 4 * min(context):
        return
    wanted = KONTEXT.buckets.fit(context, (width, height)).size
    assert wanted in [form.size for form in KONTEXT.buckets.forms(context)]


@pytest.mark.parametrize("picture", [(300, 200), (2048, 1365), (97, 131)])
def test_a_crop_is_what_a_shard_holds_but_for_its_number_of_pixels(picture: Size) -> None:
    rgb = np.asarray(canary_image(21).resize(picture))
    for crops in (SQUARE, Crops(Buckets(((256, 256), (512, 512))))):
        for crop, form in zip(crops(rgb), crops.buckets.forms(picture), strict=False):
            shown = form(rgb)
            size = shown.shape[1], shown.shape[0]
            same = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.LANCZOS), float)
            assert np.abs(same - shown).mean() < 3


def test_nothing_is_cut_of_a_picture_that_has_its_sizes_shape() -> None:
    assert SQUARE(np.zeros((96, 96, 3), np.uint8)) == [] and SQUARE.count((96, 96)) == 0


@pytest.mark.parametrize("sizes", ["square", "kontext", ((64, 256),)])
@pytest.mark.parametrize("resolution", [32, 1024])
def test_probes_are_stopped_by_their_crops_alone(sizes: object, resolution: int) -> None:
    crops = Crops.of(IngestConfig.model_validate({"sizes": sizes, "resolution": resolution}))
    gate = HashGate()
    for probe in crop_probes(crops):
        rgb = np.asarray(Image.open(io.BytesIO(probe.data)))
        whole = gate.check(probe.data, rgb)
        assert not stops(whole)
        assert together(gated(gate, whole, crops(rgb))).reason is probe.reason is Reason.CANARY


def test_one_decision_says_of_a_picture_what_is_worst_of_its_forms() -> None:
    gate = HashGate()
    flat = gate.check_pixels(np.full((64, 64, 3), 9, np.uint8))
    fine = gate.check_pixels(np.asarray(canary_image(20)))
    stopped = gate.check_pixels(np.asarray(canary_image(3)))
    assert together([fine, flat]) is flat and together([fine]) is fine
    assert together([flat, fine, stopped]) is stopped
    listed = np.asarray(canary_image(3))
    assert len(gated(gate, fine, [listed, listed])) == 2  # no further look where one is stopped
