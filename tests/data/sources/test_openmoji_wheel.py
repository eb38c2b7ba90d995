import re
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kontext.data.decode import decode_image
from kontext.data.mine.attributes import overlap, silhouette
from kontext.data.sources import plan
from kontext.data.sources.base import SourceItem
from kontext.data.sources.openmoji_wheel import COLORS, DRAWN, LINES, OpenMojiWheelSource, layers

SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">
  <g id="color"><rect x="16" y="16" width="40" height="40" fill="#ff0000"/></g>
  <g id="hair"/>
  <g id="line-supplement"/>
  <g id="line"><path d="M16 16h40v40h-40z" fill="none" stroke="#000" stroke-width="2"/></g>
</svg>"""


@cache
def items() -> tuple[SourceItem, ...]:
    return tuple(plan(OpenMojiWheelSource(max_concepts=12, max_people=6)))


def draw(svg: bytes) -> NDArray[np.uint8]:
    return decode_image(svg, resolution=64, background="#ffffff", svg=True).rgb


def test_layers_split_a_drawing_into_its_lines_and_its_colours() -> None:
    lines, colors = layers(SVG, True), layers(SVG, False)
    assert lines is not None and colors is not None
    assert draw(lines)[32, 32].tolist() == [255, 255, 255] and draw(lines).min() < 60
    assert draw(colors)[32, 32].tolist() == [255, 0, 0]
    assert draw(colors).max(axis=2).min() == 255  # no black stroke is left
    assert overlap(silhouette(draw(lines)), silhouette(draw(SVG))) > 0.95
    assert layers(b'<svg xmlns="http://www.w3.org/2000/svg"><g id="line"/></svg>', True) is None


def test_three_styles_of_each_concept_differ_in_nothing_else() -> None:
    groups: dict[str, set[str]] = {}
    for item in items():
        if item.group_key.startswith("emoji:concept:"):
            assert set(item.attributes) == {"art_style"} and item.read().count(b"<svg") == 1
            groups.setdefault(item.group_key, set()).add(item.attributes["art_style"])
    assert 8 <= len(groups) <= 12
    assert all(styles == {DRAWN, LINES, COLORS} for styles in groups.values())


def test_people_come_in_all_skin_tones_and_families_are_whole() -> None:
    tones: dict[str, set[str]] = {}
    texts, colors = set(), set()
    for item in items():
        if item.group_key.startswith("emoji:person:"):
            tones.setdefault(item.group_key, set()).add(item.attributes["skin_tone"])
        elif "text" in item.attributes:
            texts.add(item.attributes["text"])
        elif item.group_key.startswith("emoji:heart:"):
            colors.add(item.attributes["color"])
    assert len(tones) == 6 and all(len(found) == 5 for found in tones.values())
    assert set("0123456789") | {"SOS", "CL", "A", "B", "AB", "O"} == texts  # OK is on a green board
    assert len(colors) == 12


def test_the_plan_is_deterministic_named_and_attributed() -> None:
    assert items() == tuple(plan(OpenMojiWheelSource(max_concepts=12, max_people=6)))
    assert len({item.ref for item in items()}) == len(items())
    assert {(item.license_spdx, item.author) for item in items()} == {("CC-BY-SA-4.0", "OpenMoji")}
    assert all(item.concept for item in items())
    assert not any(re.search("child|boy|girl|baby|^white|^black", i.concept) for i in items())
