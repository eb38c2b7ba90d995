"""Emoji sets, labelled exactly from their Unicode code points.

Art style is an attribute like any other: two sets drawing one concept differ in `art_style` only.
Skin tone, gender and hair come from the modifiers in the code points; `families` has the rest.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Literal

from pydantic import Field

from kontext.data.sources.base import SourceItem
from kontext.data.sources.families import FAMILIES, EmojiFamily, Member, drawn_alike, member
from kontext.data.sources.iconify import IconSet, load_icon_set, node_modules
from kontext.data.sources.stable import shuffled
from kontext.errors import SourceError
from schemas.sections.sources import SourceConfig

ART_STYLES = {
    "fluent-emoji": "glossy 3D",
    "fluent-emoji-flat": "flat Fluent",
    "fluent-emoji-high-contrast": "black and white",
    "noto": "Noto",
    "noto-v1": "old Noto",
    "twemoji": "Twemoji",
    "openmoji": "outlined OpenMoji",
    "emojione": "EmojiOne",
}
_TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
_HAIR = {"1f9b0": "red", "1f9b1": "curly", "1f9b2": "bald", "1f9b3": "white"}
_PERSON = {"1f468": "man", "1f469": "woman", "1f9d1": "person"}
_SIGN = {"2642": "man", "2640": "woman"}
_FLUENT_TONE = re.compile(r"-(light|medium-light|medium|medium-dark|dark)$")
# Kept out of a demo that edits people: intimacy, rude gestures, nursing and swimwear.
EXCLUDED = re.compile(
    r"kiss|couple|middle-finger|feeding|pregnan|bikini|bath|no-one-under|sauna|underwear"
)


class EmojiSource(SourceConfig):
    """Iconify emoji sets from npm (`node_modules/@iconify-json/*`)."""

    kind: Literal["emoji"] = "emoji"
    sets: tuple[str, ...] = Field(
        (
            "fluent-emoji-flat",
            "fluent-emoji-high-contrast",
            "fluent-emoji",
            "noto",
            "noto-v1",
            "twemoji",
            "openmoji",
            "emojione",
        ),
        title="Icon sets",
    )
    max_concepts: int = Field(140, title="Concepts to sample", ge=1)
    max_people: int = Field(30, title="People and hands to sample, in all skin tones", ge=0)
    people_sets: tuple[str, ...] = Field(("fluent-emoji-flat", "noto"), title="Sets for people")
    families: tuple[EmojiFamily, ...] = Field(FAMILIES, title="Families with one label each")
    seed: int = 0


def plan(config: EmojiSource) -> list[SourceItem]:
    """Sampled concepts in every set, all skin tones of sampled people, and small families."""
    items: list[SourceItem] = []
    concepts, people = _sample(config)
    for prefix in config.sets:
        icons = load_icon_set(prefix)
        for codes, name in sorted(_aligned(prefix).items()):
            family = member(codes, config.families)
            base, labels = parse_codes(codes)
            if family:
                if drawn_alike(prefix, family):
                    items.append(_family_item(icons, name, family))
            elif base in people and prefix in config.people_sets and "skin_tone" in labels:
                items.append(_item(icons, name, base, labels, f"person:{base}"))
            elif base in concepts and not labels:
                items.append(_item(icons, name, base, labels, f"concept:{base}"))
    return items


def parse_codes(codes: str) -> tuple[str, dict[str, str]]:
    """Split `1f469-1f3fd-200d-1f680` into a base key and labels (skin_tone, gender, hair).

    Emoji with two skin tones keep the second in the base key, so they never pair with others.
    """
    labels: dict[str, str] = {}
    base: list[str] = []
    for code in codes.split("-"):
        if code in _TONES and "skin_tone" not in labels:
            labels["skin_tone"] = _TONES[code]
        elif code in _HAIR:
            labels["hair"] = _HAIR[code]
        elif code in _PERSON and "gender" not in labels:
            labels["gender"] = _PERSON[code]
            base.append("person")
        elif code in _SIGN:
            labels["gender"] = _SIGN[code]
        elif code not in ("fe0f", "200d"):
            base.append(code)
    return "-".join(base), labels


def _sample(config: EmojiSource) -> tuple[set[str], set[str]]:
    """Base keys of plain concepts and of people, chosen by hash, whatever their order."""
    groups = _unicode_groups()
    concepts, people = set(), set()
    for prefix in config.sets:
        for codes, name in _aligned(prefix).items():
            if EXCLUDED.search(name) or member(codes, config.families):
                continue
            base, labels = parse_codes(codes)
            if "skin_tone" in labels:
                people.add(base)
            elif not labels and groups.get(codes) not in (None, "Flags", "People & Body"):
                concepts.add(base)
    return (
        set(shuffled(concepts, "concepts", config.seed)[: config.max_concepts]),
        set(shuffled(people, "people", config.seed)[: config.max_people]),
    )


def _item(icons: IconSet, name: str, base: str, labels: dict[str, str], group: str) -> SourceItem:
    concept = _FLUENT_TONE.sub("", name.removesuffix("-skin-tone")).replace("-", " ")
    return SourceItem(
        source=f"emoji:{icons.prefix}",
        ref=name,
        group_key=f"emoji:{group}",
        concept=concept,
        license_spdx=icons.license_spdx,
        author=icons.author,
        attributes={**labels, "art_style": ART_STYLES.get(icons.prefix, icons.prefix)},
        payload=icons.svg(name),
        trusted_svg=True,
    )


def _family_item(icons: IconSet, name: str, family: Member) -> SourceItem:
    return SourceItem(
        source=f"emoji:{icons.prefix}",
        ref=name,
        group_key=f"emoji:{family.family}:{icons.prefix}",
        concept=family.family,
        license_spdx=icons.license_spdx,
        author=icons.author,
        attributes={family.attribute: family.value},
        payload=icons.svg(name),
        trusted_svg=True,
    )


@cache
def _aligned(prefix: str) -> dict[str, str]:
    """Code points (without fe0f) -> icon name for one set; by name where the set has no table."""
    icons = load_icon_set(prefix)
    table = icons.characters or {
        codes: name
        for reference in ("fluent-emoji-flat", "noto")
        for codes, name in load_icon_set(reference).characters.items()
    }
    aligned: dict[str, str] = {}
    for codes, name in sorted(table.items()):
        key = "-".join(code for code in codes.split("-") if code != "fe0f")
        if name in icons.bodies:
            aligned.setdefault(key, name)
    return aligned


@cache
def _unicode_groups() -> dict[str, str]:
    """Code points -> Unicode group, from the `unicode-emoji-json` package."""
    path = node_modules() / "unicode-emoji-json" / "data-by-emoji.json"
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise SourceError(f"{path} is missing: run `npm install`") from error
    return {
        "-".join(f"{ord(char):x}" for char in emoji if char != "\ufe0f"): str(entry["group"])
        for emoji, entry in data.items()
    }
