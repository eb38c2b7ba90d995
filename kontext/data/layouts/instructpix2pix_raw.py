"""InstructPix2Pix as its generator writes it: a folder per prompt, a picture pair per seed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kontext.data.layouts.base import (
    Opened,
    Picture,
    Problem,
    Row,
    is_image,
    parsed_json,
    shown,
    walk,
)

ORDER = 1
SHOWS = """\
    set/0000123/prompt.json    {"caption": "…", "edit": "…", "output": "…"}
    set/0000123/77_0.jpg       before, by seed
    set/0000123/77_1.jpg       after"""

_PROMPT, _RECORD = "prompt.json", "metadata.jsonl"
_PICTURE = re.compile(r"^(?P<seed>\d+)_(?P<side>[01])$")


def matches(path: Path) -> bool:
    """Whether folders in `path` have a prompt.json."""
    return path.is_dir() and any(path.glob("*/prompt.json"))


def rows(path: Path) -> Iterator[Row | Problem | Opened]:
    """One row per seed that has both pictures."""
    folders: dict[Path, list[Path]] = {}
    prompts: set[Path] = set()
    for one, reason in walk(path):
        if not reason and is_image(one):
            folders.setdefault(one.parent, []).append(one)
        elif not reason and one.name == _PROMPT:
            prompts.add(one)
        elif not reason and one.name == _RECORD:
            yield Problem(shown(one, path), "other_kind", "how the generator made its pictures")
    for folder, pictures in folders.items():
        prompt = {}
        if (file := folder / _PROMPT) in prompts:
            prompt = _prompt(file)
            yield Opened(file)
        edit = prompt.get("edit") if prompt else None
        seeds: dict[str, dict[str, Path]] = {}
        for one in pictures:
            found = _PICTURE.match(one.stem)
            if found:
                seeds.setdefault(found["seed"], {})[found["side"]] = one
            else:
                yield Problem(shown(one, path), "not_used", "its name has no seed and side")
        for both in seeds.values():
            yield from _row(path, folder, both, edit, _caption(prompt))


def _row(
    root: Path, folder: Path, both: dict[str, Path], edit: Any, caption: str
) -> Iterator[Row | Problem]:
    if set(both) != {"0", "1"}:
        for one in both.values():
            yield Problem(shown(one, root), "not_used", "the other picture of its seed is missing")
        return
    before, after = (Picture(shown(both[side], root), both[side]) for side in "01")
    if isinstance(edit, str) and edit.strip():
        yield Row(after.ref, after, (before,), edit, shown(folder, root), target_caption=caption)
    else:
        why = f"{_PROMPT} has no edit"
        yield Problem(after.ref, "instruction_missing", why, (both["0"],))


def _prompt(path: Path) -> dict[str, Any]:
    """The prompt file; empty where there is none that can be read."""
    try:
        found = parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _caption(prompt: dict[str, Any]) -> str:
    output = prompt.get("output")
    return output if isinstance(output, str) else ""
