"""Pairs told apart by the end of their names: cat_in.png and cat_out.png."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from kontext.data.layouts.base import Opened, Problem, Row, is_image, shown, walk
from kontext.data.layouts.texts import Texts, worded

ORDER = 3
SHOWS = """\
    pairs/cat_in.png           before (also _input, _before, _source, _original, _control)
    pairs/cat_out.png          after (also _output, _after, _target, _edited, _result)
    pairs/cat_ref.png          a further reference (also _in2, _ref2 …), if you have one
    pairs/cat.txt              the instruction; or cat_out.txt, metadata.jsonl, instruction.txt"""

_BEFORE = "in|input|before|source|src|original|orig|control|context"
_AFTER = "out|output|after|target|tgt|edited|edit|result"
_NAME = re.compile(
    rf"^(?P<key>.+)[_-](?:(?P<before>(?:{_BEFORE}))(?P<number>\d*)|(?P<after>{_AFTER})|"
    r"(?P<ref>ref\d*|reference\d*))$",
    re.IGNORECASE,
)


def matches(path: Path) -> bool:
    """Whether a folder holds pairs of such names, and most of its pictures are in them."""
    if not path.is_dir():
        return False
    pictures = [one for one, reason in walk(path) if not reason and is_image(one)]
    roles = [_role(one) for one in pictures]
    before = {key for key, role in roles if role == "0"}
    after = {key for key, role in roles if role == "after"}
    paired = [key for key, _ in roles if key in before & after]
    return bool(paired) and 2 * len(paired) > len(pictures)


def rows(path: Path) -> Iterator[Row | Problem | Opened]:
    """One row per key that has a picture before and one after."""
    texts = Texts(path, (path,))
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for one, reason in walk(path):
        if not reason and is_image(one):
            key, role = _role(one)
            relative = one.parent.relative_to(path).as_posix()
            pictures = found[key if relative == "." else f"{relative}/{key}"]
            if role in pictures:
                yield Problem(shown(one, path), "same_name", f"as {pictures[role].name}")
            pictures.setdefault(role, one)
    for key, pictures in sorted(found.items()):
        yield from _row(path, key, pictures, texts)
    yield from texts.outcomes()


def _row(path: Path, key: str, pictures: dict[str, Path], texts: Texts) -> Iterator[Row | Problem]:
    after, first = pictures.get("after"), pictures.get("0")
    if after is None or first is None:
        why = "no picture before" if first is None else "no picture after"
        for picture in pictures.values():
            yield Problem(shown(picture, path), "not_used", f"{key}: {why}")
        return
    keys = (key, shown(after.with_suffix(""), path), shown(first.with_suffix(""), path))
    more = [pictures[role] for role in sorted(pictures) if role not in ("0", "after")]
    yield worded(texts, keys, after, [first, *more])


def _role(picture: Path) -> tuple[str, str]:
    """(key, role): "0" the picture that is edited, "after", or a further reference's name."""
    found = _NAME.match(picture.stem)
    if found is None:
        return picture.stem, picture.name  # belongs to no pair
    if found["after"]:
        return found["key"], "after"
    if found["ref"]:
        return found["key"], f"ref {found['ref']:>12}"
    number = found["number"]
    return found["key"], "0" if number in ("", "0", "1") else f"{int(number):06}"
