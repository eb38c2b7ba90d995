"""The part of YAML that recipes use: mappings, lists and values, each key with its line.

Written values are JSON, or text: `true`, `1e-3` and `null` mean what they mean in `--set`, and `no`
is the text "no". Aliases and tags are refused, so a small file stays small when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemas.changes import Path, json_or_text

if TYPE_CHECKING:
    from yaml.events import Event

CHANGES_RESULTS = False  # a recipe's values are part of every digest

_DEEPEST = 32  # levels; a recipe has six
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")  # text that needs no quotes
_UNPRINTABLE: re.Pattern[str] = re.compile("[\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class YamlError(ValueError):
    """A text that is not YAML, or more of it than recipes use. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Document:
    """What a text says. `lines` has the line of every key and list entry, by path."""

    data: Any
    lines: dict[Path, int]


def parse(text: str) -> Document:
    """The only document of a text; its data is None where the text is empty. Raises YamlError."""
    import yaml  # here, because a machine that only trains has no use for it

    try:
        return _Reader(yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(line, f"character #x{ord(text[error.position]):04x} is not text") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(
            mark.line + 1 if mark else 1, str(error.problem or error.context)
        ) from error


@dataclass
class _Reader:
    """Builds data from events, which come one by one: what is refused is never expanded."""

    events: Iterator[Event]
    lines: dict[Path, int] = field(default_factory=dict)

    def document(self) -> Document:
        data, found = None, 0
        for event in self.events:
            if type(event).__name__ == "DocumentStartEvent":
                found += 1
                if found > 1:
                    raise YamlError(_line(event), "a second document: a recipe is one")
                data = self._value(next(self.events), ())
        return Document(data, self.lines)

    def _value(self, event: Event, path: Path) -> Any:
        kind = type(event).__name__.removesuffix("Event").removesuffix("Start")
        if kind == "Alias":
            raise YamlError(_line(event), f"alias '*{event.anchor}': recipes have none")
        if event.tag not in (None, "!"):  # "!" is the tag of what is in quotes
            raise YamlError(_line(event), f"tag '{event.tag}': recipes have none")
        if kind == "Scalar":
            return _scalar(event)
        if len(path) == _DEEPEST:
            raise YamlError(_line(event), f"more than {_DEEPEST} levels")
        return self._mapping(path) if kind == "Mapping" else self._sequence(path)

    def _mapping(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self.events:
            if type(event).__name__ == "MappingEndEvent":
                break
            if type(event).__name__ != "ScalarEvent":
                raise YamlError(_line(event), "a key is a word")
            key = event.value
            if key in found:
                raise YamlError(_line(event), f"'{key}' is there twice")
            self.lines[*path, key] = _line(event)
            found[key] = self._value(next(self.events), (*path, key))
        return found

    def _sequence(self, path: Path) -> list[Any]:
        found: list[Any] = []
        for event in self.events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            self.lines[*path, len(found)] = _line(event)
            found.append(self._value(event, (*path, len(found))))
        return found


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1


def _scalar(event: Event) -> Any:
    if not event.implicit[0]:  # in quotes
        return str(event.value)
    return None if event.value in ("", "~") else json_or_text(event.value)


def inline(value: Any) -> str:
    """A value on one line, such that `parse` gives it back."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(key)}: {inline(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value) and json_or_text(value) == value:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
