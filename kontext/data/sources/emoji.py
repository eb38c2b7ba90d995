"""Emoji sets, labelled exactly from their Unicode code points.

Art style is an attribute like any other: two sets drawing one concept differ in `art_style` only.
Skin tone, gender and hair come from the modifiers in the code points; `families` has the rest.
"""

import json
import re
from functools import cache
from typing import Literal

from pydantic import Field

from kontext.data.sources.base import SourceItem
from kontext.data.sources.codepoints import EXCLUDED, parse_codes
from kontext.data.sources.families import FAMILIES, EmojiFamily, differs_in_label_only, member
from kontext.data.sources.iconify import IconSet, load_icon_set
from kontext.data.sources.openmoji_wheel import OpenMojiWheelSource
from kontext.data.sources.stable import shuffled
from kontext.errors import SourceError
from schemas.paths import node_modules
from schemas.sections.sources import SourceConfig

ART_STYLES = {
    "fluent-emoji-flat": "flat Fluent",
    "fluent-emoji-high-contrast": "black and white",
    "fluent-emoji": "glossy 3D",
    "noto": "Noto",
    "noto-v1": "old Noto",
    "twemoji": "Twemoji",
    "openmoji": "outlined OpenMoji",
    "emojione": "EmojiOne",
}
_FLUENT_TONE = re.compile(r"-(light|medium-light|medium|medium-dark|dark)$")


ATTRIBUTION = """
| Fluent Emoji | npm `@iconify-json/fluent-emoji` 1.2.7 | Microsoft Corporation | MIT | https://github.com/microsoft/fluentui-emoji |
| Fluent Emoji Flat | npm `@iconify-json/fluent-emoji-flat` 1.2.6 | Microsoft Corporation | MIT | https://github.com/microsoft/fluentui-emoji |
| Fluent Emoji High Contrast | npm `@iconify-json/fluent-emoji-high-contrast` 1.2.6 | Microsoft Corporation | MIT | https://github.com/microsoft/fluentui-emoji |
| Noto Emoji | npm `@iconify-json/noto` 1.2.9 | Google Inc | Apache-2.0 | https://github.com/googlefonts/noto-emoji |
| Noto Emoji (v1) | npm `@iconify-json/noto-v1` 1.2.5 | Google Inc | Apache-2.0 | https://github.com/googlefonts/noto-emoji |
| Twitter Emoji (Twemoji) | npm `@iconify-json/twemoji` 1.2.5 | Twitter and contributors (jdecked) | **CC-BY-4.0** | https://github.com/jdecked/twemoji |
| OpenMoji | npm `@iconify-json/openmoji` 1.2.29 | OpenMoji, the open-source emoji and icon project of HfG Schwäbisch Gmünd | **CC-BY-SA-4.0** | https://github.com/hfg-gmuend/openmoji |
| Emoji One (Colored) | npm `@iconify-json/emojione` 1.2.3 | Emoji One | **CC-BY-4.0** | https://github.com/EmojiTwo/emojitwo |
"""  # noqa: E501


class EmojiSource(SourceConfig):
    """Iconify emoji sets from npm (`node_modules/@iconify-json/*`)."""

    kind: Literal["emoji"] = "emoji"
    sets: tuple[str, ...] = Field(tuple(ART_STYLES), title="Icon sets")
    max_concepts: int = Field(140, title="Concepts to sample", ge=1)
    max_people: int = Field(30, title="People and hands to sample, in all skin tones", ge=0)
    people_sets: tuple[str, ...] = Field(("fluent-emoji-flat", "noto"), title="Sets for people")
    families: tuple[EmojiFamily, ...] = Field(FAMILIES, title="Families with one label each")
    seed: int = Field(0, title="Seed of the choice")


def without_npm(config: EmojiSource) -> tuple[OpenMojiWheelSource, str]:
    """The source that stands in where npm's images are missing, and a line that says so."""
    stand_in = OpenMojiWheelSource(
        # one set has fewer drawings of a concept than eight, so it gives more concepts
        max_concepts=4 * config.max_concepts,
        max_people=2 * config.max_people,
        families=config.families,
        seed=config.seed,
    )
    return stand_in, (
        f"npm's images are not installed: the emoji of {len(config.sets)} icon sets are replaced "
        "by OpenMoji from pip, in the three styles its layers give; styles of other sets cannot "
        "be mined"
    )


def plan(config: EmojiSource) -> list[SourceItem]:
    """Sampled concepts in every set, all skin tones of sampled people, and small families."""
    items: list[SourceItem] = []
    concepts, people = _sample(config)
    for prefix in config.sets:
        icons, style = load_icon_set(prefix), ART_STYLES.get(prefix, prefix)
        for codes, name in sorted(_aligned(prefix).items()):
            family = member(codes, config.families)
            base, labels = parse_codes(codes)
            words = _FLUENT_TONE.sub("", name.removesuffix("-skin-tone")).replace("-", " ")
            if family:
                if differs_in_label_only(prefix, family):
                    look = {family.attribute: family.value}
                    group = f"{family.family}:{prefix}"
                    items.append(_item(icons, name, family.family, look, group))
            elif base in people and prefix in config.people_sets and "skin_tone" in labels:
                look = {**labels, "art_style": style}
                items.append(_item(icons, name, words, look, f"person:{base}"))
            elif base in concepts and not labels:
                items.append(_item(icons, name, words, {"art_style": style}, f"concept:{base}"))
    return items


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


def _item(
    icons: IconSet, name: str, concept: str, labels: dict[str, str], group: str
) -> SourceItem:
    return SourceItem(
        source=f"emoji:{icons.prefix}",
        ref=name,
        group_key=f"emoji:{group}",
        concept=concept,
        license_spdx=icons.license_spdx,
        author=icons.author,
        attributes=labels,
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
