"""Two folders with pictures of the same names, as fine-tuners keep them."""

from collections.abc import Iterator
from pathlib import Path

from kontext.data.layouts.base import Opened, Problem, Row, is_image, shown, walk
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
    """Whether `path`, or a folder in it (train, val …), holds a folder before and one after."""
    return bool(_roots(path))


def rows(path: Path) -> Iterator[Row | Problem | Opened]:
    """One row per picture after, with all pictures of its name in the folders before."""
    for root, before, target in _roots(path):
        yield from _rows(path, root, before, target)


def _rows(
    top: Path, root: Path, before: list[Path], target: Path
) -> Iterator[Row | Problem | Opened]:
    texts = Texts(root, (target, *before), top)
    pictures: dict[Path, dict[str, Path]] = {}
    for folder in (*before, target):
        pictures[folder] = {}
        for key, picture in _pictures(folder, top):
            if pictures[folder].setdefault(key, picture) != picture:
                why = f"as {pictures[folder][key].name}"
                yield Problem(shown(picture, top), "same_name", why)
    used: set[Path] = set()
    for key, after in pictures[target].items():
        contexts = [pictures[folder][key] for folder in before if key in pictures[folder]]
        used.update(contexts)
        if key in pictures[before[0]]:
            yield worded(texts, (key,), after, contexts)
        else:
            why = f"no picture {key} in {before[0].name}/"
            yield Problem(shown(after, top), "context_missing", why, tuple(contexts))
    for folder in before:
        for picture in pictures[folder].values():
            if picture not in used:
                yield Problem(shown(picture, top), "not_used", "no target of its name")
    yield from texts.outcomes()


def _pictures(folder: Path, top: Path) -> Iterator[tuple[str, Path]]:
    """(name without suffix, picture) of all pictures in a folder of the set at `top`."""
    for path, reason in walk(folder, top):
        if not reason and is_image(path):
            yield shown(path.with_suffix(""), folder), path


def _roots(path: Path) -> list[tuple[Path, list[Path], Path]]:
    """(root, folders before, folder after) at `path`, or of the folders in it."""
    if not path.is_dir():
        return []
    below = [one for one, _ in _entries(path)]
    found = [(root, _folders(root)) for root in (path, *below)]
    pairs = [(root, *folders) for root, folders in found if folders is not None]
    return pairs[:1] if pairs and pairs[0][0] == path else pairs


def _entries(path: Path) -> list[tuple[Path, str]]:
    """Folders in `path`, with their names in lower case; links are not followed."""
    try:
        found = [one for one in sorted(path.iterdir()) if one.is_dir() and not one.is_symlink()]
    except OSError:
        return []
    return [(one, one.name.lower()) for one in found]


def _folders(path: Path) -> tuple[list[Path], Path] | None:
    """(folders before, folder after); the one that is edited first."""
    folders = {name: one for one, name in _entries(path)}
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
