"""Turns of one conversation in one row of a table, in the three shapes that sets have.

- SEED-Data-Edit: columns `source_image, edit_image_1, instruction_1, edit_image_2, …`, as many as
  the longest conversation has;
- ImgEdit: a list `data` of `{"input_images": […], "output_images": […], "prompt": "…"}`;
- Pico-Banana: a list `files` of `{"id": "edit_turn1", "url": "…"}` whose last is `final_image`, and
  the texts in `metadata_edit_turn_prompts`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Cell = tuple[str, Any]  # column, value
_SEED = re.compile(r"^edit_image_(\d+)$")
_PICO = re.compile(r"^edit_turn_?(\d+)$")


@dataclass(frozen=True)
class Turn:
    """One edit. Without `before` it edits what the turn before it has made."""

    before: tuple[Cell, ...]
    after: Cell
    instruction: Any


def turns_of(values: Mapping[str, Any]) -> list[Turn]:
    """The turns of a row, in their order; none where it is no conversation."""
    if isinstance(values.get("data"), list):
        return _imgedit(values["data"])
    if isinstance(values.get("files"), list):
        return _pico_banana(values["files"], values.get("metadata_edit_turn_prompts"))
    return _seed(values)


def _seed(values: Mapping[str, Any]) -> list[Turn]:
    numbers = sorted((int(found[1]), name) for name in values if (found := _SEED.match(name)))
    turns: list[Turn] = []
    for number, name in numbers:
        text = values.get(f"instruction_{number}")
        if values.get(name) in (None, "") and text in (None, ""):
            break  # a shorter conversation: columns are there for the longest
        before = () if turns else (("source_image", values.get("source_image")),)
        turns.append(Turn(before, (name, values.get(name)), text))
    return turns


def _imgedit(data: list[Any]) -> list[Turn]:
    turns = []
    for one in data:
        if not isinstance(one, dict) or not isinstance(one.get("input_images"), list):
            return []
        after = one.get("output_images")
        last = after[-1] if isinstance(after, list) and after else None
        before = tuple(("input_images", value) for value in one["input_images"])
        turns.append(Turn(before, ("output_images", last), one.get("prompt")))
    return turns


def _pico_banana(files: list[Any], texts: Any) -> list[Turn]:
    named = {str(one.get("id")): one.get("url") for one in files if isinstance(one, dict)}
    numbers = sorted((int(found[1]), name) for name in named if (found := _PICO.match(name)))
    after = [name for _, name in numbers] + ["final_image"] * ("final_image" in named)
    said = texts if isinstance(texts, list) else []
    if len(said) != len(after):
        return []  # which text is of which picture nobody can say
    first: tuple[Cell, ...] = (("original_input_image", named.get("original_input_image")),)
    return [
        Turn(() if number else first, (name, named[name]), text)
        for number, (name, text) in enumerate(zip(after, said, strict=True))
    ]
