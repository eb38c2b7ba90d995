"""WebDataset tars: members of one base name are a sample, and their suffixes say what each is."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kontext.data.layouts.base import (
    IMAGE_SUFFIXES,
    LARGEST,
    Opened,
    Picture,
    Problem,
    Row,
    parsed_json,
    shown,
    walk,
)
from kontext.data.layouts.tar_files import Entry, entries
from kontext.data.layouts.tile import tiles
from kontext.errors import SourceError

ORDER = 6
SHOWS = """\
    shards/train-00000.tar     members of one base name are a sample:
      0001.ctx0.png            before (also .input, .source, .control, .0 …), more in .ctx1, .ref
      0001.tgt.png             after (also .output, .target, .edited, .1 …)
      0001.json                {"instruction": "…"}; or 0001.txt, 0001.instruction.txt
      0002.jpg, 0002.txt       a picture and its caption
      0003.jpg, 0003.json      with {"edit_rewrite": "…"}: both pictures side by side (ByteMorph)"""

_TAR = ".tar"
_COMPRESSED = re.compile(r"\.(?:tar\.\w+|tgz|tbz2?|txz)$", re.IGNORECASE)
_IMAGE = r"(?:_?(?:image|img))?"
_BEFORE = re.compile(
    rf"^(?:ctx|context|control|input|in|source|src|before|original|conditioning|cond){_IMAGE}"
    r"_?(?P<number>\d*)$|^1\.(?P<x2edit>\d+)$|^0$"
)
_REFERENCE = re.compile(rf"^(?:ref|reference){_IMAGE}_?(?P<number>\d*)$")
_AFTER = re.compile(rf"^(?:tgt|target|output|out|edited|after|result){_IMAGE}$|^[12]$")
_EDITED = re.compile(rf"^(?:output|out|edited|after|result){_IMAGE}$|^2$")  # not of any picture
_WORDS = ("instruction", "edit_instruction", "edit_prompt", "edit", "prompt", "text", "caption")
_EDIT_WORDS = _WORDS[:4]  # said of an edit; the others may be said of a picture
_TEXT = ("txt", *_WORDS)
_SIDE_BY_SIDE = "edit_rewrite"  # in the records of ByteMorph alone
_KIND = ("relation_class", "edit_type", "task", "task_type")
_LONGEST_TEXT = 1 << 20  # bytes
_LONGEST_LIST = 1 << 14  # characters
_NONE = frozenset({"", "none", "null", "nan"})


def matches(path: Path) -> bool:
    """Whether it is a tar, or a folder with tars."""
    return any(True for _ in _tars(path))


def rows(path: Path) -> Iterator[Row | Problem | Opened]:
    """One row per sample, tar by tar in path order."""
    root = path if path.is_dir() else path.parent
    for tar in _tars(path):
        name = shown(tar, root)
        if _COMPRESSED.search(tar.name):
            why = "decompress it first: members are read where they lie"
            yield Problem(name, "tar_compressed", why)
        else:
            yield from _samples(tar, name)
            yield Opened(tar)


def _tars(path: Path) -> Iterator[Path]:
    every = [path] if path.is_file() else [one for one, reason in walk(path) if not reason]
    for one in every:
        if one.suffix.lower() == _TAR or _COMPRESSED.search(one.name):
            yield one


@dataclass
class _Sample:
    """Members of one base name by what their suffixes say: contexts by their order, one target."""

    at: str
    contexts: dict[tuple[int, int], Picture] = field(default_factory=dict)
    targets: dict[str, Picture] = field(default_factory=dict)  # "after" named so, "" not named
    texts: dict[str, Entry] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    edited: bool = False  # a name says that the target was made of another picture


def _samples(tar: Path, name: str) -> Iterator[Row | Problem]:
    """Rows of one tar: members of a base name belong together wherever in an archive they are."""
    found: dict[tuple[int, str], _Sample] = {}
    try:
        for entry in entries(tar):
            # the archives put behind each other in one file may use the same names
            mark = f"@{entry.archive}" if entry.archive else ""
            at = f"{name}{mark}:{_printable(entry.name)}" if entry.name else name
            if entry.reason:
                yield Problem(at, entry.reason, entry.detail)
                continue
            key, role, kind = _parts(entry.name)
            sample = found.setdefault((entry.archive, key), _Sample(f"{name}{mark}:{key}"))
            if entry.name in sample.names:
                yield Problem(f"{at}@{entry.member.offset}", "same_name", "a second member")
                continue
            sample.names.add(entry.name)
            if problem := _place(
                sample, Picture(at, tar.absolute(), entry.member), role, kind, entry
            ):
                yield problem
    except SourceError as error:
        yield Problem(name, "unreadable", str(error))
    for sample in found.values():
        yield from _rows(sample)


def _parts(name: str) -> tuple[str, str, str]:
    """(base name, role, format). What is between the dots is a role if it is one that we know.

    >>> _parts("a/01.ctx0.png"), _parts("v1.2.jpg"), _parts("v1.5.jpg")
    (('a/01', 'ctx0', 'png'), ('v1', '2', 'jpg'), ('v1.5', '', 'jpg'))
    """
    folder, slash, file = name.rpartition("/")
    stem, _, kind = file.rpartition(".")
    key, _, role = stem.partition(".")
    role = role.lower()
    known = role in _TEXT or any(one.match(role) for one in (_BEFORE, _REFERENCE, _AFTER))
    if not known and role not in ("image", "mask"):
        key, role = stem, ""
    return folder + slash + key, "" if role == "image" else role, kind.lower()


def _place(sample: _Sample, picture: Picture, role: str, kind: str, entry: Entry) -> Problem | None:
    """Put a member where it belongs in its sample, or say why it belongs nowhere."""
    if kind in _TEXT or kind == "json":
        sample.texts.setdefault(role or kind, entry)
        return None
    if f".{kind}" not in IMAGE_SUFFIXES:
        return Problem(picture.ref, "not_used", "neither a picture nor a text")
    if entry.member.size > LARGEST:
        return Problem(picture.ref, "too_many_bytes", f"{entry.member.size}, at most {LARGEST}")
    before, reference = _BEFORE.match(role), _REFERENCE.match(role)
    places: dict[Any, Picture] = sample.contexts if before or reference else sample.targets
    place: Any = "after" if _AFTER.match(role) else role
    if before:
        place = 0, int(before["number"] or before["x2edit"] or 0)
    elif reference:
        place = 1, int(reference["number"] or 0)
    elif role not in ("", "after") and place != "after":
        return Problem(picture.ref, "not_used", f"a {role}")
    if place in places:
        return Problem(picture.ref, "same_name", f"as {places[place].ref}")
    places[place] = picture
    sample.edited |= _EDITED.match(role) is not None
    return None


def _rows(sample: _Sample) -> Iterator[Row | Problem]:
    target = sample.targets.pop("after", None) or sample.targets.pop("", None)
    contexts = tuple(sample.contexts[place] for place in sorted(sample.contexts))
    for left in sample.targets.values():
        yield Problem(left.ref, "not_used", "another picture is the target")
    if target is None:
        for left in contexts:
            yield Problem(left.ref, "not_used", "no picture after")
        if not contexts and sample.texts:
            yield Problem(sample.at, "not_used", "a text without its picture")
        return
    try:
        record = _record(sample)
        rewritten = "" if contexts else _first(record, (_SIDE_BY_SIDE,))
        text = rewritten or _instruction(sample, record, bool(contexts))
        if not contexts and not rewritten and _of_an_edit(sample, record):
            yield Problem(sample.at, "context_missing", "an edit's words or name, and one picture")
            return
    except SourceError as error:
        yield Problem(sample.at, "instruction_unreadable", str(error))
        return
    if not text:
        yield Problem(sample.at, "instruction_missing", "no text")
        return
    if rewritten:
        before, target = tiles(target)
        contexts = (before,)
    kind = _first(record, _KIND)
    chain = contexts[0].ref if contexts else target.ref
    licence = _first(record, ("license_spdx",))
    yield Row(sample.at, target, contexts, text, chain, kind, licence=licence)


def _of_an_edit(sample: _Sample, record: dict[str, Any]) -> bool:
    """Whether a sample of one picture says what was changed in another, which is not there."""
    if record.get("context_ids") == []:  # of our own shards: its instruction is a caption
        return False
    said = [_text(sample.texts[word]) for word in _EDIT_WORDS if word in sample.texts]
    return sample.edited or any(said) or bool(_first(record, _EDIT_WORDS))


def _instruction(sample: _Sample, record: dict[str, Any], edit: bool) -> str:
    """The text of a sample: what is called an instruction before what may be a caption."""
    named = [sample.texts[word] for word in _EDIT_WORDS if word in sample.texts]
    plain = [sample.texts[word] for word in ("txt", *_WORDS[4:]) if word in sample.texts]
    yours = (_text(entry) for entry in named)
    plainly = (_text(entry) for entry in plain)
    said = _first(record, _EDIT_WORDS), _first(record, _WORDS[4:])
    # a pair's plain text may be the caption of its picture after, where its record has the edit
    candidates = (
        (*yours, said[0], *plainly, said[1]) if edit else (*plainly, said[1], *yours, said[0])
    )
    return next((text for text in candidates if text), "")


def _record(sample: _Sample) -> dict[str, Any]:
    """What a sample's JSON says. Raises SourceError where it is no object."""
    if "json" not in sample.texts:
        return {}
    try:
        record = parsed_json(_bytes(sample.texts["json"]))
    except ValueError as error:
        raise SourceError(f"{sample.texts['json'].name}: {error}") from error
    if not isinstance(record, dict):
        raise SourceError(f"{sample.texts['json'].name}: no JSON object")
    return record


def _first(record: dict[str, Any], names: tuple[str, ...]) -> str:
    found = (record.get(name) for name in names)
    return next((text for text in found if isinstance(text, str) and _says(text)), "")


def _text(entry: Entry) -> str:
    """A text member without the line end that editors add. Raises SourceError."""
    try:
        text = _bytes(entry).decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{entry.name}: {error}") from error
    text = _of_list(text)
    return text if _says(text) else ""


def _of_list(text: str) -> str:
    """The first text of a list as Python prints it, which some of X2Edit's tars have for a text."""
    if not (text.startswith("[") and text.endswith("]")) or len(text) > _LONGEST_LIST:
        return text
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text  # somebody's own brackets
    texts = isinstance(found, list) and found and all(isinstance(one, str) for one in found)
    return next((one for one in found if one.strip()), "") if texts else text


def _bytes(entry: Entry) -> bytes:
    return entry.member.read(_LONGEST_TEXT)


def _says(text: str) -> bool:
    return text.strip().lower() not in _NONE


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
