import numpy as np
import pytest

from kontext.data.decode import decode_image
from kontext.data.sources import plan
from kontext.data.sources.base import SourceItem
from kontext.data.sources.dicebear import _STYLES, DiceBearSource
from kontext.data.sources.restyle import RESTYLED

SOURCE = DiceBearSource(
    styles=("critters", "moods"), seeds=3, attributes=("expression",), values_per_attribute=1,
    art_styles=("line art", "pixel art"), movement=14,
)  # fmt: skip


def picture(item: SourceItem, side: int = 64) -> np.ndarray:
    svg = item.trusted_svg
    return decode_image(item.read(), resolution=side, background="#ffffff", svg=svg).rgb.astype(int)


def styled(style: str) -> list[SourceItem]:
    return [item for item in plan(SOURCE) if item.attributes["art_style"] == style]


def test_each_drawing_has_one_of_each_style_and_differs_in_nothing_else() -> None:
    for style in RESTYLED:
        found = styled(style)
        assert len(found) == 6 and len({item.group_key for item in found}) == 6
    by_look = {tuple(sorted(item.attributes.items())): item for item in plan(SOURCE)}
    for item in styled("line art"):
        assert tuple(sorted({**item.attributes, "art_style": "flat"}.items())) in by_look


def test_line_art_is_ink_on_white() -> None:
    for item in styled("line art"):
        made = picture(item, 256)
        assert (made.max(axis=2) - made.min(axis=2)).max() < 40  # ink is a dark blue
        assert (made > 250).all(axis=2).mean() > 0.5 > (made.max(axis=2) < 80).mean() > 0.01
        assert (made[0, 0] > 250).all()  # and no frame around it


def test_pixel_art_is_sixteen_squares_a_side() -> None:
    for item in styled("pixel art"):
        made = picture(item, 256)
        blocks = made.reshape(16, 16, 16, 16, 3)
        assert (blocks == blocks[:, :1, :, :1]).all()
        assert len(np.unique(made.reshape(-1, 3), axis=0)) > 8


def test_the_shapes_stay_where_they_are() -> None:
    for flat, made in zip(styled("flat")[::2], styled("pixel art"), strict=True):
        assert flat.group_key == made.group_key
        small = picture(flat, 256).reshape(16, 16, 16, 16, 3).mean(axis=(1, 3))
        assert np.abs(small - picture(made, 256)[8::16, 8::16]).mean() < 12


def test_movement_moves_a_drawing_and_all_its_variants_alike() -> None:
    still = plan(SOURCE.model_copy(update={"movement": 0}))
    for before, after in zip(still, plan(SOURCE), strict=True):
        assert before.attributes == after.attributes
        assert (picture(before) != picture(after)).any()


def test_only_the_attributes_asked_for_are_edited() -> None:
    looks = [item.attributes for item in plan(SOURCE)]
    for one in range(0, len(looks), 4):
        assert len({look["accessory"] for look in looks[one : one + 4] if "accessory" in look}) <= 1


@pytest.mark.parametrize("style", sorted(_STYLES))
def test_every_style_of_figures_can_be_redrawn(style: str) -> None:
    config = DiceBearSource(
        styles=(style,), seeds=3, values_per_attribute=1, art_styles=("line art", "pixel art")
    )
    for item in plan(config):
        made = picture(item, 128)
        if item.attributes["art_style"] == "line art":
            assert (made.max(axis=2) - made.min(axis=2) > 80).mean() < 0.01
            assert (made > 250).all(axis=2).mean() > 0.3
