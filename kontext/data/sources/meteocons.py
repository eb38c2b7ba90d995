"""Meteocons weather icons: day and night, weather, and line or fill, labelled from their names."""

from typing import Literal

from kontext.data.sources.base import SourceItem
from kontext.data.sources.iconify import load_icon_set
from schemas.sections.sources import SourceConfig

# What falls or floats in front of the sky; the rest of a name is the sky itself.
_WEATHER = ("drizzle", "rain", "snow", "sleet", "hail", "fog", "haze", "smoke", "dust", "wind")
_SKIES = ("clear", "partly-cloudy", "overcast", "extreme", "thunderstorms", "cloudy")


ATTRIBUTION = """
| Meteocons | npm `@iconify-json/meteocons` 1.2.4 | Bas Milius | MIT | https://github.com/basmilius/weather-icons |
"""  # noqa: E501


class MeteoconsSource(SourceConfig):
    """Weather icons: day/night and weather changes (`@iconify-json/meteocons`)."""

    kind: Literal["meteocons"] = "meteocons"


def without_npm(_: MeteoconsSource) -> tuple[None, str]:
    """Nothing stands in where npm's images are missing; the line says so."""
    return None, (
        "npm's images are not installed: no weather icons, so day-to-night and weather changes of "
        "icons cannot be mined; DiceBear landscapes and backgrounds still serve 'global'"
    )


def plan(config: MeteoconsSource) -> list[SourceItem]:
    """Icons that show a sky, grouped by sky and line/fill. See SourceItem for the fields."""
    icons = load_icon_set("meteocons")
    items = []
    for name in sorted(icons.bodies):
        labels = parse_name(name)
        if labels is None:
            continue
        sky = labels.pop("sky")
        words = " ".join([*(v for k, v in labels.items() if k != "drawing"), sky, "sky"])
        items.append(
            SourceItem(
                source="meteocons",
                ref=name,
                group_key=f"meteocons:{sky}:{labels.get('weather', '')}",
                concept=f"weather icon of a {words}".replace("-", " "),
                license_spdx=icons.license_spdx,
                author=icons.author,
                attributes=labels,
                payload=icons.svg(name),
                trusted_svg=True,
            )
        )
    return items


def parse_name(name: str) -> dict[str, str] | None:
    """Labels of an icon name (`sky`, `time`, `weather`, `drawing`), or None if it shows no sky.

    >>> parse_name("extreme-day-rain-fill")
    {'sky': 'extreme', 'time': 'day', 'weather': 'rain', 'drawing': 'filled'}
    """
    drawing = "filled" if name.endswith("-fill") else "line"
    stem = name.removesuffix("-fill")
    sky = next((s for s in _SKIES if stem == s or stem.startswith(f"{s}-")), None)
    if sky is None:
        head, _, tail = stem.rpartition("-")
        if head not in _WEATHER or tail not in ("day", "night"):
            return None
        return {"sky": head, "time": tail, "weather": "none", "drawing": drawing}
    parts = [part for part in stem[len(sky) :].split("-") if part]
    labels = {"sky": sky, "weather": "none", "drawing": drawing}
    for part in parts:
        if part in ("day", "night"):
            labels["time"] = part
        elif part in _WEATHER:
            labels["weather"] = part
        else:
            return None
    if "time" not in labels:
        return None
    return {key: labels[key] for key in ("sky", "time", "weather", "drawing")}
