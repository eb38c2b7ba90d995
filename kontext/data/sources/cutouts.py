"""Captioned cut-outs on landscape photographs, from two Debian packages of free art.

`make debian-art` fetches them: endless-sky-data (273 photographs of landscapes, named by kind) and
tuxpaint-stamps-default (cut-outs with alpha and a sentence each). Putting a cut-out on a photograph
gives edits with a known answer: add and remove it, or move it to another place.
"""

from __future__ import annotations

import io
import os
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kontext.data.sources.base import SourceItem
from kontext.data.sources.stable import shuffled, stable_hash
from kontext.errors import SourceError
from schemas.sections.sources import SourceConfig

if TYPE_CHECKING:
    from PIL import Image

_LAND = "usr/share/games/endless-sky/images/land"
_STAMPS = "usr/share/tuxpaint/stamps"
# people and weapons stay out: nobody asked them, and nobody needs them
_KINDS = ("animals", "food", "plants", "vehicles", "household", "sports", "clothes")
_PLACES = {
    **{name: name for name in ("beach", "canyon", "city", "desert", "fog", "forest", "mountain")},
    **{"sky": "sky", "snow": "snow", "valley": "valley", "water": "water", "lava": "lava"},
    **{"dune": "dunes", "fields": "fields", "badlands": "badlands", "station": "station"},
    **{"earthrise": "space", "space": "space", "loc": "town", "bwerner": "forest"},
}
_SIDE = 320
_MOST_WORDS = 4


def art_folder() -> Path:
    """Where `make debian-art` puts the packages: KONTEXT_DEBIAN_ART, or debian_art."""
    return Path(os.environ.get("KONTEXT_DEBIAN_ART", "debian_art"))


ATTRIBUTION = """
| landscape photographs | Debian `endless-sky-data`, `images/land` | Michael Zahniser and contributors | public domain, CC-BY-SA-3.0 or **CC-BY-SA-4.0** by file; recorded as CC-BY-SA-4.0 | https://github.com/endless-sky/endless-sky |
| captioned cut-outs | Debian `tuxpaint-stamps-default` | Tux Paint's contributors | **GPL-2.0** | https://tuxpaint.org/stamps |
"""  # noqa: E501


class CutoutSource(SourceConfig):
    """Cut-outs on landscape photographs, from two Debian packages (`make debian-art`)."""

    kind: Literal["cutouts"] = "cutouts"
    scenes: int = Field(130, title="Groups of two places and two cut-outs", ge=1)
    seed: int = Field(0, title="Seed of the choice")


def plan(config: CutoutSource) -> list[SourceItem]:
    """`config.scenes` groups of two places and two cut-outs, a place in one group only.

    Raises:
        SourceError: the packages are not there.
    """
    folder = art_folder()
    places = _places(folder / _LAND)
    stamps = _stamps(folder / _STAMPS)
    if not places or len(stamps) < 2:
        raise SourceError(f"no Debian art in {folder}: run `make debian-art`")
    kinds = shuffled(sorted(places), "kinds", config.seed)
    items: list[SourceItem] = []
    for number in range(config.scenes):
        found = _two_places(places, kinds, number)
        if found is None:
            break
        objects = shuffled(sorted(stamps), "stamps", config.seed, number)[:2]
        for kind, photo in found:
            for name in ("none", *objects):
                items.append(_item(config, number, kind, photo, name, stamps.get(name)))
    return items


def _item(
    config: CutoutSource, number: int, kind: str, photo: Path, name: str, stamp: Path | None
) -> SourceItem:
    key = f"{config.seed}-{number}"
    return SourceItem(
        source="cutouts",
        ref=f"{key}/{kind}/{name}",
        group_key=f"cutouts:{key}",
        concept=f"{kind} landscape",
        # endless-sky: mostly public domain, the rest CC-BY-SA; the stamps: GPL-2
        license_spdx="CC-BY-SA-4.0" if stamp is None else "GPL-2.0-only",
        author="Endless Sky contributors" if stamp is None else "Tux Paint contributors",
        attributes={"place": kind, "object": name},
        payload=_composed(photo, stamp, key),
    )


def _two_places(
    places: dict[str, list[Path]], kinds: list[str], number: int
) -> list[tuple[str, Path]] | None:
    """Two photographs of different kinds that no other group takes; None where they run out."""
    turns = [(turn, kind) for turn in range(max(map(len, places.values()))) for kind in kinds]
    pool = [(kind, places[kind][turn]) for turn, kind in turns if turn < len(places[kind])]
    pair = pool[2 * number : 2 * number + 2]
    if len(pair) < 2 or pair[0][0] == pair[1][0]:
        return None
    return pair


def _places(folder: Path) -> dict[str, list[Path]]:
    """Kind of landscape -> its photographs."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*.jpg")):
        stem = re.match(r"[a-z]+", path.stem)
        if stem and stem.group() in _PLACES:
            found[_PLACES[stem.group()]].append(path)
    return dict(found)


def _stamps(folder: Path) -> dict[str, Path]:
    """What a cut-out shows, in words -> its file; only those that a short noun phrase names."""
    found: dict[str, Path] = {}
    for kind in _KINDS:
        for path in sorted((folder / kind).rglob("*.png")):
            text = path.with_suffix(".txt")
            if not text.is_file():
                continue
            line = text.read_text(errors="replace").split("\n", 1)[0].strip().rstrip(".").lower()
            words = re.fullmatch(r"an? ([a-z][a-z -]+)", line)
            if words and len(words[1].split()) <= _MOST_WORDS:
                found.setdefault(words[1], path)
    return found


def _composed(photo: Path, stamp: Path | None, key: str) -> bytes:
    """PNG of a square of the photograph, with the cut-out in its lower half where there is one."""
    from PIL import Image

    image = _square(photo).copy()
    if stamp is not None:
        cut = _cut(stamp)
        size = _SIDE * (40 + stable_hash("size", key) % 20) // 100
        cut = cut.copy()
        cut.thumbnail((size, size), Image.Resampling.LANCZOS)
        left = (stable_hash("left", key) % 100) * (_SIDE - cut.width) // 100
        image.paste(cut, (left, _SIDE - cut.height - _SIDE // 20), cut)
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    return data.getvalue()


@cache
def _square(photo: Path) -> Image.Image:
    from PIL import Image

    with Image.open(photo) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    crop = rgb.crop((left, top, left + side, top + side))
    return crop.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def _cut(stamp: Path) -> Image.Image:
    from PIL import Image

    with Image.open(stamp) as image:
        rgba = image.convert("RGBA")
    box = rgba.getchannel("A").getbbox()
    return rgba.crop(box) if box else rgba
