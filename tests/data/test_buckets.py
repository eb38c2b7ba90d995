import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kontext.data.buckets import (
    KONTEXT_SIZES,
    WHOLE,
    Buckets,
    Size,
    fit,
    kept_change,
    kontext_shapes,
    nearest,
    same_shape,
    scaled,
    shrunk,
)
from kontext.data.pixels import Pixels
from schemas.sections.data import IngestConfig

# shapes between 1 to 4 and 4 to 1, in multiples of 16
BUCKETS = Buckets(((64, 256), (80, 208), (96, 176), (112, 144), (128, 128), (144, 112), (176, 96)))
SIDES = st.integers(48, 400)
GREY, MARK = 64, 192
Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the sides


def marked(size: Size, box: Box) -> Pixels:
    """A grey picture with a lighter box; pixels on its edges are mixed exactly."""
    columns, rows = (
        np.clip(np.minimum(np.arange(1, n + 1), high * n) - np.maximum(np.arange(n), low * n), 0, 1)
        for n, low, high in ((size[0], box[0], box[2]), (size[1], box[1], box[3]))
    )
    grey = np.rint(GREY + (MARK - GREY) * rows[:, None] * columns[None]).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def seen(picture: Pixels) -> NDArray[np.float64]:
    """Where the box is: its middle (x, y) and its sides (x, y), in pixels."""
    weight = picture[..., 0].astype(np.float64) - GREY
    weight[abs(weight) < 1.5] = 0  # rounding
    rows, columns = (np.arange(n) + 0.5 for n in picture.shape[:2])
    shares = [weight.sum(axis) / weight.sum() for axis in (0, 1)]
    middle = [(share * at).sum() for share, at in zip(shares, (columns, rows), strict=True)]
    spread = [
        ((at - mean) ** 2 * share).sum()
        for share, at, mean in zip(shares, (columns, rows), middle, strict=True)
    ]
    return np.array([*middle, *np.sqrt(12 * np.array(spread))])  # of an even box


@settings(max_examples=80, deadline=None)
@given(SIDES, SIDES, st.floats(0.3, 3.0), st.floats(0.3, 0.7), st.floats(0.3, 0.7))
def test_a_marker_stays_where_it_is_in_context_and_target(
    width: int, height: int, scale: float, x: float, y: float
) -> None:
    target, context = (width, height), (round(width * scale), round(height * scale))
    assume(min(context) >= 24)
    assert same_shape(context, target)
    fits = [BUCKETS.fit(target), BUCKETS.fit(context, beside=target)]
    assert fits[0] == fits[1]
    kept = fits[0]
    across, down = kept.right - kept.left, kept.bottom - kept.top
    x, y = kept.left + x * across, kept.top + y * down
    box = (x - 0.2 * across, y - 0.2 * down, x + 0.2 * across, y + 0.2 * down)
    pictures = [marked(size, box) for size in (target, context)]
    one, other = (seen(do(picture)) for do, picture in zip(fits, pictures, strict=True))
    assert abs(one - other).max() <= 0.5  # no shift and no zoom between the two
    wanted = [(x - kept.left) / across * kept.size[0], (y - kept.top) / down * kept.size[1]]
    assert abs(one - [*wanted, 0.4 * kept.size[0], 0.4 * kept.size[1]]).max() <= 0.5


@settings(max_examples=3, deadline=None)
@given(st.floats(0.97, 1.03), st.floats(0.35, 0.65), st.floats(0.35, 0.65))
@pytest.mark.parametrize("size", KONTEXT_SIZES, ids=str)
def test_a_marker_stays_in_its_place_in_all_of_kontexts_sizes(
    size: Size, stretch: float, x: float, y: float
) -> None:
    """A target near each of the 17 shapes, and a context of it with a third of its pixels."""
    kontext = Buckets(KONTEXT_SIZES)
    target = round(0.6 * size[0] * stretch), round(0.6 * size[1])
    context = round(target[0] / 3**0.5), round(target[1] / 3**0.5)
    fits = kontext.fit(target), kontext.fit(context, beside=target)
    assert fits[0] == fits[1]
    kept = fits[0]
    if size[0] != size[1]:
        assert (kept.size[0] > kept.size[1]) == (target[0] > target[1])
    box = (x - 0.1, y - 0.1, x + 0.1, y + 0.1)
    one, other = (
        seen(do(marked(own, box))) for do, own in zip(fits, (target, context), strict=True)
    )
    assert abs(one - other).max() <= 0.5
    shares = (x, kept.left, kept.right), (y, kept.top, kept.bottom)
    wanted = [
        (at - low) / (high - low) * side
        for (at, low, high), side in zip(shares, kept.size, strict=True)
    ]
    assert abs(one[:2] - wanted).max() <= 0.5


def test_shapes_of_another_area_are_kontexts_in_multiples_of_16() -> None:
    assert kontext_shapes(1024) == KONTEXT_SIZES
    for side in (64, 128, 256, 512):
        for width, height in kontext_shapes(side):
            assert width % 16 == height % 16 == 0
            assert 0.5 <= width * height / side**2 <= (1.5 if side < 256 else 1.1)
    assert Buckets.of(IngestConfig(sizes="kontext", resolution=64)).sizes == kontext_shapes(64)
    assert Buckets.of(IngestConfig(sizes=((64, 96),))).sizes == ((64, 96),)
    for wrong in ((), ((60, 64),), "round"):
        with pytest.raises(ValueError, match="sizes"):
            IngestConfig.model_validate({"sizes": wrong})


def test_photographs_shapes_are_there_at_a_small_area_too() -> None:
    """Where a rounded side would be another shape: 4:3, 3:2, 5:3 and 2:1 at 64 pixels."""
    sizes = kontext_shapes(64)
    assert {(64, 64), (64, 48), (96, 64), (80, 48), (96, 48)} <= set(sizes)
    assert set(sizes) == {(height, width) for width, height in sizes}
    for side, most in ((64, 1.1), (128, 1.06), (256, 1.05)):
        for shape in KONTEXT_SIZES:
            width, height = nearest(kontext_shapes(side), shape)
            apart = width * shape[1] / (height * shape[0])
            assert max(apart, 1 / apart) <= most, (side, shape)


@given(st.integers(8, 4000), st.integers(8, 4000))
def test_what_is_kept_is_centred_inside_and_of_the_buckets_shape(width: int, height: int) -> None:
    transform = BUCKETS.fit((width, height))
    left, top, right, bottom = transform.box((width, height))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert left == pytest.approx(width - right, abs=1e-6)
    assert top == pytest.approx(height - bottom, abs=1e-6)
    assert min(left, top) == 0  # cut on one axis alone
    aspect = transform.size[0] / transform.size[1]
    assert (right - left) / (bottom - top) == pytest.approx(aspect, rel=1e-6)


@given(st.integers(8, 4000), st.integers(8, 4000))
def test_width_and_height_are_never_swapped(width: int, height: int) -> None:
    size = nearest(KONTEXT_SIZES, (width, height))
    assert size in KONTEXT_SIZES
    if abs(width - height) > 0.1 * max(width, height):
        assert (size[0] > size[1]) == (width > height)
    assert scaled(np.zeros((16, 48, 3), np.uint8), (32, 80)).shape == (80, 32, 3)


def test_no_border_appears() -> None:
    for size in ((500, 250), (250, 500), (401, 399), (64, 64)):
        white = np.full((size[1], size[0], 3), 255, np.uint8)
        assert (BUCKETS.fit(size)(white) == 255).all()


def test_an_edit_of_nothing_is_nothing() -> None:
    """A context and a target of the same pixels stay the same, and their edges the picture's."""
    draw = np.random.default_rng(0)
    for width, height in ((500, 250), (137, 301), (401, 399)):
        rgb = draw.integers(100, 256, (height, width, 3), dtype=np.uint8)
        size = (width, height)
        context, target = BUCKETS.fit(size, beside=size)(rgb), BUCKETS.fit(size)(rgb)
        assert np.array_equal(context, target)
        edges = (target[0], target[-1], target[:, 0], target[:, -1])
        assert all(edge.mean() > 100 for edge in edges)


def test_a_picture_of_a_buckets_size_is_left_as_it_is() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (112, 144, 3), dtype=np.uint8)
    assert BUCKETS.fit((144, 112))(rgb) is rgb


def test_a_square_is_what_it_has_always_been() -> None:
    """Lanczos over the centred square: datasets of one square size keep their pixels."""
    rgb = np.random.default_rng(0).integers(0, 256, (200, 256, 3), dtype=np.uint8)
    box = (28.0, 0.0, 228.0, 200.0)
    wanted = Image.fromarray(rgb).resize((64, 64), Image.Resampling.LANCZOS, box=box)
    assert np.array_equal(Buckets(((64, 64),)).fit((256, 200))(rgb), np.asarray(wanted))


def test_unlike_shapes_keep_their_own_buckets() -> None:
    assert BUCKETS.fit((400, 200), beside=(200, 400)).size == (176, 96)
    assert not same_shape((400, 200), (200, 400)) and not same_shape((64, 64), (64, 66))
    assert same_shape((500, 250), (501, 250)) and same_shape((4000, 3000), (80, 60))


@given(st.integers(8, 5000), st.integers(8, 5000), st.integers(64, 2048))
def test_a_stored_picture_keeps_its_shape_below_the_cap(width: int, height: int, most: int) -> None:
    size = shrunk((width, height), most)
    assert max(size) <= max(most, 0) or size == (width, height)
    assert max(width, height) > most or size == (width, height)
    if min(size) > 1:
        assert same_shape(size, (width, height))


@given(st.integers(16, 3000), st.integers(16, 3000))
def test_drawn_art_is_kept_as_large_as_its_bucket_asks(width: int, height: int) -> None:
    size, bucket = BUCKETS.cover((width, height)), BUCKETS.nearest((width, height))
    assert size[0] <= width and size[1] <= height
    if size != (width, height):
        assert all(own >= side - 1 for own, side in zip(size, bucket, strict=True))
        assert any(abs(own - side) <= 1 for own, side in zip(size, bucket, strict=True))


@pytest.mark.parametrize(("columns", "share"), [((0, 20), 0.0), ((90, 110), 1.0), ((40, 60), 0.5)])
def test_how_much_of_an_edit_a_crop_keeps(columns: tuple[int, int], share: float) -> None:
    context = np.zeros((100, 200, 3), np.uint8)  # its centre square is columns 50 to 150
    target = context.copy()
    target[10:30, slice(*columns)] = 200
    square = fit((200, 100), (64, 64))
    assert kept_change(context, target, square, 16) == share
    assert kept_change(context, context, square, 16) == 1
    assert kept_change(context, target, fit((200, 100), (128, 64)), 16) == 1
    half = scaled(context, (100, 50))
    assert kept_change(half, target, square, 16) == pytest.approx(share, abs=0.01)


PICTURES = st.tuples(st.integers(24, 160), st.integers(24, 160))


def kept_of(changed: NDArray[np.bool_], bucket: Size) -> tuple[float, float, float]:
    """What is kept of an edit of these pixels by `kept_change`, of its pixels, of the picture."""
    size = changed.shape[1], changed.shape[0]
    context = np.zeros((*changed.shape, 3), np.uint8)
    target = context.copy()
    target[changed] = 200
    transform = fit(size, bucket)
    left, top, right, bottom = (round(edge) for edge in transform.box(size))
    inside = changed[top:bottom, left:right]
    score = kept_change(context, target, transform, 16)
    return score, inside.sum() / max(1, changed.sum()), inside.size / changed.size


@given(PICTURES, st.sampled_from(BUCKETS.sizes))
def test_an_edit_of_all_pixels_is_kept_whatever_the_crop(picture: Size, bucket: Size) -> None:
    assert kept_of(np.ones(picture[::-1], bool), bucket)[0] == 1


@given(PICTURES, st.sampled_from(BUCKETS.sizes), st.floats(0, 1), st.integers(0, 99))
def test_a_crop_is_held_against_an_edit_that_it_cuts_more_than_the_picture(
    picture: Size, bucket: Size, share: float, seed: int
) -> None:
    """A box of a share of the picture's area, anywhere in it."""
    draw = np.random.default_rng(seed)
    changed = np.zeros(picture[::-1], bool)
    sides = [max(1, round(n * share**0.5)) for n in changed.shape]
    y, x = (int(draw.integers(0, n - own + 1)) for n, own in zip(changed.shape, sides, strict=True))
    changed[y : y + sides[0], x : x + sides[1]] = True
    score, kept, shown = kept_of(changed, bucket)
    assert kept - 1e-9 <= score <= 1  # never stricter than the share of its pixels
    if changed.mean() < WHOLE:
        assert score == pytest.approx(kept)  # a small edit must be seen itself
    else:
        assert score == pytest.approx(min(1, kept / shown))
        assert (score >= 0.95) == (kept >= 0.95 * shown - 1e-9)


@given(st.integers(0, 99), st.floats(0.5, 1.0))
def test_edits_spread_over_the_picture_pass_and_those_beside_the_crop_do_not(
    seed: int, density: float
) -> None:
    changed = np.random.default_rng(seed).random((100, 200)) < density
    assert kept_of(changed, (64, 64))[0] >= 0.95  # though half of it is cut off
    changed[:, 50:150] = False
    assert kept_of(changed | np.eye(100, 200, dtype=bool), (64, 64))[0] < 0.1
