import numpy as np
import pytest

from kontext.data.decode import decode_image
from kontext.data.sources import plan
from kontext.data.sources.scenes import SceneSource, draw


def picture(key: str, weather: str) -> np.ndarray:
    return decode_image(draw(key, weather), resolution=64, background="#ffffff").rgb.astype(int)


def test_every_scene_comes_in_every_weather_and_alike_every_time() -> None:
    weathers = ("sunny", "stormy", "rainy", "snowy", "cloudy")
    config = SceneSource(scenes=3, weathers=weathers)
    items = plan(config)
    assert items == plan(config)
    assert [item.attributes["weather"] for item in items] == list(weathers) * 3
    assert len({item.group_key for item in items}) == 3
    assert len({item.payload for item in items}) == 15


def test_an_unknown_weather_or_a_single_one_is_refused() -> None:
    for weathers in (("sunny", "foggy"), ("sunny",)):
        with pytest.raises(ValueError, match="weathers"):
            SceneSource.model_validate({"weathers": weathers})


@pytest.mark.parametrize("index", range(6))
def test_lightning_comes_from_the_cloud_and_ends_above_the_hills(index: int) -> None:
    stormy, cloudy = picture(f"0-{index}", "stormy"), picture(f"0-{index}", "cloudy")
    flash = np.argwhere((np.abs(stormy - [0xFF, 0xE1, 0x4D]) < 40).all(axis=2))
    cloud = np.argwhere((cloudy > 235).all(axis=2))
    assert len(flash) > 20
    assert cloud[:, 1].min() <= flash[:, 1].min() and flash[:, 1].max() <= cloud[:, 1].max()
    assert flash[:, 0].max() < 40


@pytest.mark.parametrize("index", range(6))
def test_the_cloud_is_where_the_sun_was(index: int) -> None:
    sunny, cloudy = picture(f"0-{index}", "sunny"), picture(f"0-{index}", "cloudy")
    sun = (sunny[..., 0] > 240) & (sunny[..., 2] < 120)  # yellow
    cloud = (cloudy > 235).all(axis=2)
    (top, left), (low, right) = (np.argwhere(sun).min(axis=0), np.argwhere(sun).max(axis=0))
    middle = ((top + low) // 2, (left + right) // 2)
    assert cloud[middle]


@pytest.mark.parametrize("index", range(6))
def test_rain_and_snow_fall_below_the_cloud_only(index: int) -> None:
    cloudy, rainy = picture(f"0-{index}", "cloudy"), picture(f"0-{index}", "rainy")
    columns = np.argwhere((cloudy > 235).all(axis=2))[:, 1]
    ink = (np.abs(rainy - [0x3E, 0x58, 0x70]) < 20).all(axis=2)
    assert ink.any()
    drops = np.argwhere(ink)[:, 1]
    assert columns.min() - 4 <= drops.min() and drops.max() <= columns.max() + 4


def test_the_ground_keeps_its_colour_but_for_snow() -> None:
    rows = np.s_[58:, :]
    sunny, cloudy = picture("0-1", "sunny")[rows], picture("0-1", "cloudy")[rows]
    snowy = picture("0-1", "snowy")
    assert (sunny == cloudy).all()
    assert (snowy > 240).all(axis=2).sum() > (picture("0-1", "sunny") > 240).all(axis=2).sum() + 50
