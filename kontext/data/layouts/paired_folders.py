"""Two folders with pictures of the same names, as fine-tuners keep them."""

from collections.abc import Iterator
from pathlib import Path

from kontext.data.layouts.base import Problem, Row, is_image, shown, walk
from kontext.data.layouts.texts import Texts, worded

ORDER = 2
SHOWS = """\
    pairs/control/cat.png      before; more references in control_2/, reference/ …
    pairs/target/cat.png       after, of the same name
    pairs/target/cat.txt       the instruction; or in control/, in captions/, beside the folders,
                               in metadata.jsonl or .csv, or one instruction.txt for all"""

CONTEXTS = ("control", "source", "input", "before", "context", "original", "src", "image_in")
TARGETS = ("target", "edited", "output", "after", "edit", "tgt", "result", "image_out")
REFERENCES = ("reference", "ref", "subject", "style")


def matches(path: Path) -> bool:
    """Whether `path` holds a folder of pictures before and one after."""
    return _folders(path) is not None


def rows(path: Path) -> Iterator[Row | Problem]:
    """One row per picture after, with all pictures of its name in the folders before."""
    found = _folders(path)
    assert found is not None
    before, target = found
    texts = Texts(path, (target, *before))
    pictures = {folder: dict(_pictures(folder, path)) for folder in (*before, target)}
    used: set[Path] = set()
    for key, (after, reason) in pictures[target].items():
        at = shown(after, path)
        mine = [pictures[folder][key] for folder in before if key in pictures[folder]]
        contexts = [one for one, why in mine if not why]
        used.update(contexts)
        first = pictures[before[0]].get(key)
        if reason:
            yield Problem(at, reason)
        elif first is None or first[1]:
            yield Problem(at, "context_missing", f"no picture {key} in {before[0].name}/")
        else:
            yield worded(texts, (key,), path, after, contexts)
    for folder in before:
        for picture, reason in pictures[folder].values():
            if reason or picture not in used:
                yield Problem(shown(picture, path), reason or "not_used", "no target of its name")
    yield from texts.unused()


def _pictures(folder: Path, root: Path) -> Iterator[tuple[str, tuple[Path, str]]]:
    """(name without suffix, (picture, why it is not read)) of all pictures in a folder."""
    for path, reason in walk(folder):
        if is_image(path) or reason in ("denied", "undecodable_name", "not_regular"):
            key = shown(path.with_suffix(""), folder)
            yield key, (path, reason)


def _folders(path: Path) -> tuple[list[Path], Path] | None:
    """(folders before, folder after); the one that is edited first."""
    if not path.is_dir():
        return None
    folders = {one.name.lower(): one for one in sorted(path.iterdir()) if one.is_dir()}
    target = next((folders[name] for name in TARGETS if name in folders), None)
    context = next((name for name in CONTEXTS if name in folders), None)
    if target is None or context is None:
        return None
    more = [
        folder
        for name, folder in folders.items()
        if name != context and folder != target and _is_reference(name, context)
    ]
    return [folders[context], *more], target


def _is_reference(name: str, context: str) -> bool:
    """Whether a folder's name says that it has further pictures: control_2, reference, ref1."""
    stem = name.rstrip("0123456789").rstrip("_- ")
    return stem in REFERENCES or stem == context
