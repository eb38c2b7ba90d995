import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext.data.buckets import KONTEXT_SIZES, kontext_shapes
from kontext.edit.sizes import check_size, model_size, size_rule, snap, stretches
from kontext.errors import KontextError
from schemas.sections.data import IngestConfig


def tokens(size: tuple[int, int]) -> int:
    return size[0] // 16 * (size[1] // 16)


def test_the_17_sizes_have_their_published_token_counts() -> None:
    assert len(set(KONTEXT_SIZES)) == 17
    golden = [4116, 4042, 4095, 4089, 4150, 4056, 4070, 4071, 4096]
    assert [tokens(size) for size in KONTEXT_SIZES[:9]] == golden
    assert [tokens(size) for size in KONTEXT_SIZES[9:]] == golden[7::-1]
    assert {(h, w) for w, h in KONTEXT_SIZES} == set(KONTEXT_SIZES)
    assert len({tokens(size) for size in KONTEXT_SIZES}) == 9


def test_sums_of_target_and_context_lengths() -> None:
    lengths = {tokens(size) for size in KONTEXT_SIZES}
    assert len({a + b for a in lengths for b in lengths}) == 42


@pytest.mark.parametrize(
    ("image", "size"),
    [
        ((500, 500), (1024, 1024)),
        ((1920, 1080), (1392, 752)),
        ((3000, 4000), (880, 1184)),
        ((4000, 3000), (1184, 880)),
        ((100, 1000), (672, 1568)),
        ((2000, 100), (1568, 672)),
    ],
)
def test_snap(image: tuple[int, int], size: tuple[int, int]) -> None:
    assert snap(*image) == size


@given(st.sampled_from(KONTEXT_SIZES), st.integers(1, 5))
def test_a_kontext_size_snaps_to_itself_at_any_scale(size: tuple[int, int], k: int) -> None:
    assert snap(size[0] * k, size[1] * k) == size


def test_square_models_keep_their_square() -> None:
    assert model_size("square", 64, 1920, 1080) == (64, 64)
    assert model_size("kontext", 64, 1920, 1080) == (1392, 752)


@given(st.integers(1, 30_000), st.integers(1, 30_000))
def test_every_picture_up_to_four_to_one_has_a_size_near_its_shape(width: int, height: int) -> None:
    aspect = width / height
    if max(aspect, 1 / aspect) > 4:
        with pytest.raises(KontextError, match=f"{width} x {height} is longer than 4 to 1"):
            model_size("kontext", 64, width, height)
        return
    size = check_size(model_size("kontext", 64, width, height))
    assert 0.9 < size[0] / size[1] / aspect < 1.12
    assert 0.95 < size[0] * size[1] / 2**20 < 1.05


@pytest.mark.parametrize("size", [(0, 64), (64, 70), (8, 8), (20_000, 20_000)])
def test_impossible_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(KontextError):
        check_size(size)
    assert check_size((64, 96)) == (64, 96)


def test_a_model_edits_at_the_sizes_of_its_recipe() -> None:
    assert size_rule(IngestConfig()) == "square"
    assert size_rule(IngestConfig(sizes="kontext", resolution=1024)) == "kontext"
    small = size_rule(IngestConfig(sizes="kontext"))
    assert small == kontext_shapes(64)
    assert model_size(small, 64, 1000, 500) == (96, 48)
    assert model_size(small, 64, 300, 310) == (64, 64)
    listed = size_rule(IngestConfig(sizes=((64, 96), (96, 64))))
    assert model_size(listed, 64, 500, 500) in {(64, 96), (96, 64)}
    with pytest.raises(KontextError, match="4 to 1"):
        model_size(small, 64, 900, 100)


def test_a_picture_is_stretched_a_little_or_gets_a_border() -> None:
    sizes = ((64, 96), (96, 64))
    assert stretches(sizes, (150, 100), (96, 64)) and stretches(sizes, (160, 100), (96, 64))
    assert not stretches(sizes, (200, 100), (96, 64)) and not stretches(sizes, (100, 100), (96, 64))
    assert stretches("kontext", (200, 100), (1392, 752)) and not stretches("square", (9, 9), (9, 9))
