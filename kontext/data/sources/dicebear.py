"""DiceBear characters and landscapes: exact labels, because we choose every part.

For each seed one base image is drawn, then for each editable attribute a few variants that change
that attribute and nothing else. DiceBear resolves every other option from the seed, so fixing the
resolved options fixes the picture.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kontext.data.sources.base import SourceItem
from kontext.data.sources.restyle import FLAT, RESTYLED
from kontext.data.sources.stable import choose, shuffled, stable_hash
from kontext.errors import SourceError
from schemas.sections.sources import SourceConfig

Options = Mapping[str, Any]
Values = Mapping[str, Options]  # label -> DiceBear options that draw it


def _colors(option: str, names: str) -> dict[str, Options]:
    """Label -> options for a colour slot; `names` is "red=#d33 blue=#33d …"."""
    pairs = (name.split("=") for name in names.split())
    return {label.replace("_", " "): {option: [value]} for label, value in pairs}


def _parts(**labels: str) -> dict[str, Options]:
    """Label -> options for parts of a picture, "mouth=smile eyes=round …"; "mouth=" has none."""
    found: dict[str, Options] = {}
    for label, text in labels.items():
        parts = dict(part.split("=") for part in text.split())
        found[label.replace("_", " ")] = {
            **{f"{part}Variant": [variant] for part, variant in parts.items() if variant},
            **{f"{part}Probability": 100 if variant else 0 for part, variant in parts.items()},
        }
    return found


_HAIR = (
    "black=#241c1a brown=#6f4a2f blond=#e8c877 red=#b5452c gray=#9a9a9a pink=#e58fb6 blue=#4a7fc1"
)
_CLOTHES = "red=#d8433b blue=#3f73c8 green=#4f9d5b yellow=#efc43f purple=#8a5cc0 black=#2b2b2f"
_BACKGROUND = (
    "white=#ffffff sky_blue=#bfe3f7 yellow=#fbe7a1 pink=#f9cfe0 green=#c5e8c8 navy=#26355d "
    "orange=#f7b977 gray=#b9bec6"
)
_SKIN = "light=#f5cfa0 tan=#d9a06b brown=#9a6540 dark=#5f3a24"
_PLANETS = "red=#e2606c orange=#e08a35 green=#5fb55a blue=#3f8fe0 purple=#a86fd0"


@dataclass(frozen=True)
class _Style:
    subject: str
    attributes: Mapping[str, Values]
    fixed: Options
    # parts that always lie alike: where a part is put must not depend on what no context shows
    still: tuple[str, ...] = ()


_STYLES: dict[str, _Style] = {
    "micah": _Style(
        "person",
        {
            "hair_color": _colors("hairColor", _HAIR),
            "clothing_color": _colors("shirtColor", _CLOTHES),
            "glasses": _parts(no="glasses=", round="glasses=round", square="glasses=square"),
            "expression": _parts(
                smiling="mouth=smile eyebrows=up",
                laughing="mouth=laughing eyebrows=up",
                sad="mouth=sad eyebrows=down",
                surprised="mouth=surprised eyebrows=up",
                frowning="mouth=frown eyebrows=down",
            ),
            "background_color": _colors("backgroundColor", _BACKGROUND),
        },
        {"facialHairProbability": 0, "earringsProbability": 0},
    ),
    "toon-head": _Style(
        "cartoon person",
        {
            "hair_color": _colors("hairColor", _HAIR),
            "clothing_color": _colors("clothesColor", _CLOTHES),
            "skin_color": _colors("skinColor", _SKIN),
            "expression": _parts(
                smiling="mouth=smile eyes=happy eyebrows=happy",
                laughing="mouth=laugh eyes=bow eyebrows=raised",
                sad="mouth=sad eyes=humble eyebrows=sad",
                surprised="mouth=agape eyes=wide eyebrows=raised",
                angry="mouth=angry eyes=wide eyebrows=angry",
                winking="mouth=smile eyes=wink eyebrows=neutral",
            ),
            "background_color": _colors("backgroundColor", _BACKGROUND),
        },
        {"beardProbability": 0},
    ),
    "dylan": _Style(
        "character",
        {
            "hair_color": _colors("hairColor", _HAIR),
            "skin_color": _colors("skinColor", _SKIN),
            "expression": _parts(
                angry="mood=angry",
                confused="mood=confused",
                happy="mood=happy",
                neutral="mood=neutral",
                sad="mood=sad",
                laughing="mood=superHappy",
            ),
            "background_color": _colors("backgroundColor", _BACKGROUND),
        },
        {"facialHairProbability": 0},
    ),
    "big-smile": _Style(
        "character",
        {
            "hair_color": _colors("hairColor", _HAIR),
            "skin_color": _colors("skinColor", _SKIN),
            "accessory": _parts(
                nothing="accessories=",
                glasses="accessories=glasses",
                sunglasses="accessories=sunglasses",
                cat_ears="accessories=catEars",
                clown_nose="accessories=clownNose",
            ),
            "expression": _parts(
                smiling="mouth=openedSmile eyes=cheery",
                sad="mouth=openSad eyes=sad",
                angry="mouth=unimpressed eyes=angry",
                sleepy="mouth=kawaii eyes=sleepy",
                winking="mouth=teethSmile eyes=winking",
                starstruck="mouth=teethSmile eyes=starstruck",
            ),
            "background_color": _colors("backgroundColor", _BACKGROUND),
        },
        {},
    ),
    "critters": _Style(
        "monster",
        {
            "accessory": _parts(
                nothing="top=",
                horns="top=horns",
                antennae="top=antennae",
                round_ears="top=earsRound",
                fin="top=fin",
            ),
            "expression": _parts(
                happy="eyes=round mouth=smile",
                sad="eyes=inward mouth=frown",
                angry="eyes=angry mouth=teeth",
                surprised="eyes=wide mouth=ooh",
                laughing="eyes=happy mouth=laugh",
                sleepy="eyes=sleepy mouth=line",
            ),
        },
        # of what may be added: no context shows its colour
        {"animationVariant": ["none"], "accentColor": ["#fcd34d"]},
    ),
    "moods": _Style(
        "blob",
        {
            "expression": _parts(
                happy="eyes=pupils mouth=smile",
                sad="eyes=lookDown mouth=frown",
                angry="eyes=angry mouth=line",
                surprised="eyes=bigPupils mouth=gasp",
                laughing="eyes=happy mouth=bigSmile",
                sleepy="eyes=sleepy mouth=wavy",
            ),
        },
        {"animationVariant": ["none"]},
    ),
    "sprouts": _Style(
        "potted plant",
        {
            "plant": _parts(
                flower="plant=flower",
                cactus="plant=cactus",
                palm="plant=palm",
                bush="plant=ball",
                leaf="plant=sprout",
            ),
        },
        {"animationVariant": ["none"], "bloomColor": ["#fb7185"]},
    ),
    "planets": _Style(
        "planet",
        {
            "color": _colors("planetColor", _PLANETS),
            "ring": _parts(nothing="ring=", ring="ring=bold"),
        },
        {"animationVariant": ["none"]},
        still=("ring",),
    ),
    "landscape": _Style(
        "landscape",
        {
            "time_of_day": {
                "day": {"backgroundColor": ["#8ccdf0"], "orbColor": ["#fff3b0"]},
                "sunset": {"backgroundColor": ["#f39a5b"], "orbColor": ["#ffe08a"]},
                "night": {"backgroundColor": ["#16213f"], "orbColor": ["#eef1f7"]},
                "dawn": {"backgroundColor": ["#f4c6d0"], "orbColor": ["#fff6e0"]},
            },
            "season": {
                label: {f"hill{i + 1}Color": [color] for i, color in enumerate(colors.split())}
                for label, colors in {
                    "summer": "#9ccf7a #6fb35c #4c9148 #2f6d38",
                    "autumn": "#e9b872 #d98d4a #b8642f #8a4526",
                    "winter": "#f4f8fb #dde8f0 #c3d4e2 #a5bbcf",
                    "desert": "#f1d9a6 #e2bf80 #cfa262 #b28249",
                }.items()
            },
        },
        {"orbProbability": 100, "animationVariant": ["none"]},
    ),
}


ATTRIBUTION = """
| Micah (character parts) | PyPI `dicebear-styles` 10.6.0 | Micah Lanier, https://dribbble.com/micahlanier | **CC-BY-4.0** | remix of “Avatar Illustration System”, https://www.figma.com/community/file/829741575478342595 |
| Toon Head (character parts) | PyPI `dicebear-styles` 10.6.0 | Johan Melin, https://www.johanmelin.com | **CC-BY-4.0** | remix of “ToonHead”, https://www.figma.com/community/file/1589627891082866389 |
| Dylan (character parts) | PyPI `dicebear-styles` 10.6.0 | Natalia Spivak, https://nataspvk.tilda.ws/ | **CC-BY-4.0** | remix of “Dylan! The Avatar Generator”, https://www.figma.com/community/file/1356575240759683500 |
| Big Smile (character parts) | PyPI `dicebear-styles` 10.6.0 | Ashley Seo, http://www.ashleyseo.com/ | **CC-BY-4.0** | remix of “Custom Avatar”, https://www.figma.com/community/file/881358461963645496 |
| Critters, Moods, Sprouts, Planets (parts of figures) | PyPI `dicebear-styles` 10.6.0 | DiceBear | CC0-1.0 | https://www.dicebear.com |
| Landscape (scene parts) | PyPI `dicebear-styles` 10.6.0 | DiceBear | CC0-1.0 | https://www.dicebear.com |
"""  # noqa: E501


class DiceBearSource(SourceConfig):
    """Parametric characters: one base per seed plus single-attribute variants with exact labels."""

    kind: Literal["dicebear"] = "dicebear"
    styles: tuple[str, ...] = Field(
        ("micah", "toon-head", "dylan", "big-smile", "landscape"), title="Art styles"
    )
    seeds: int = Field(40, title="Characters or scenes per style", ge=1)
    values_per_attribute: int = Field(3, title="Values tried per attribute", ge=1)
    attributes: tuple[str, ...] = Field((), title="Attributes that are edited (empty: all)")
    art_styles: tuple[Literal["line art", "pixel art"], ...] = Field(
        (), title="Further styles of each drawing"
    )
    movement: int = Field(0, title="How far a picture is moved, in % of its side", ge=0, le=50)
    seed: int = Field(0, title="Seed of the choice")


def plan(config: DiceBearSource) -> list[SourceItem]:
    """Base and single-attribute variants for every style and seed.

    Raises:
        SourceError: a style this source has no exact labels for, or an attribute of no style.
    """
    for name in config.styles:
        if name not in _STYLES:
            raise SourceError(
                f"dicebear style '{name}' has no labels (known: {', '.join(_STYLES)})"
            )
    editable = {name for style in config.styles for name in _STYLES[style].attributes}
    for name in config.attributes:
        if name not in editable:
            raise SourceError(
                f"dicebear has no attribute '{name}' in {', '.join(config.styles)} "
                f"(known: {', '.join(sorted(editable))})"
            )
    return [
        item
        for name in config.styles
        for index in range(config.seeds)
        for item in _group(config, name, f"{config.seed}-{index}")
    ]


def _group(config: DiceBearSource, name: str, seed: str) -> list[SourceItem]:
    style = _STYLES[name]
    base = {
        attribute: choose(sorted(values), name, seed, attribute)
        for attribute, values in style.attributes.items()
    }
    looks = [base]
    for attribute, values in style.attributes.items():
        if config.attributes and attribute not in config.attributes:
            continue
        others = [label for label in values if label != base[attribute]]
        for label in shuffled(others, name, seed, attribute)[: config.values_per_attribute]:
            looks.append({**base, attribute: label})
    if config.art_styles:
        looks = [{**look, "art_style": FLAT} for look in looks]
        looks += [{**looks[0], "art_style": label} for label in config.art_styles]
    place = _moved(config.movement, name, seed)
    return [_item(name, style, seed, place, look) for look in looks]


def _moved(most: int, *parts: object) -> Options:
    """DiceBear's options of a place and a size, by hash of the parts: at most `most` % away."""
    if not most:
        return {}
    right, down, smaller = (
        stable_hash(way, *parts) % 1001 / 1000 for way in ("right", "down", "smaller")
    )
    return {
        "translateX": most * (2 * right - 1),
        "translateY": most * (2 * down - 1),
        "scale": 1 - most / 100 * smaller,
    }


def _item(name: str, style: _Style, seed: str, place: Options, look: dict[str, str]) -> SourceItem:
    from dicebear import Avatar

    options: dict[str, Any] = {"seed": f"kontext-{name}-{seed}", **style.fixed, **place}
    art_style = look.get("art_style", FLAT)
    for attribute, label in look.items():
        options.update(style.attributes.get(attribute, {}).get(label, {}))
    svg = str(Avatar(_style(name), options).to_string()).encode()
    meta = _definition(name)["meta"]
    return SourceItem(
        source=f"dicebear:{name}",
        ref=seed + "/" + ",".join(f"{k}={v}" for k, v in sorted(look.items())),
        group_key=f"dicebear:{name}:{seed}",
        concept=style.subject,
        license_spdx=_SPDX.get(meta["license"]["name"], "LicenseRef-unknown"),
        author=str(meta.get("creator", {}).get("name", "unknown")),
        attributes=look,
        synthetic=True,
        payload=RESTYLED[art_style](svg) if art_style in RESTYLED else svg,
        trusted_svg=art_style != "pixel art",
    )


_SPDX = {"CC BY 4.0": "CC-BY-4.0", "CC0 1.0": "CC0-1.0", "MIT": "MIT"}


@cache
def _definition(name: str) -> dict[str, Any]:
    import dicebear_styles

    for root in dicebear_styles.__path__:
        for path in sorted(Path(root).rglob(f"{name}.json")):
            definition: dict[str, Any] = json.loads(path.read_text())
            return definition
    raise SourceError(f"dicebear-styles has no style '{name}'")


@cache
def _style(name: str) -> Any:
    from dicebear import Style

    definition = copy.deepcopy(_definition(name))
    for part in _STYLES[name].still:
        for movement in ("rotate", "translate"):
            definition["components"][part].pop(movement, None)
    return Style(definition)
