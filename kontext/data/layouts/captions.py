"""Pictures with a caption each: text-to-image pairs, without a picture to edit."""

from collections.abc import Iterator
from pathlib import Path

from kontext.data.layouts.base import Opened, Problem, Row, is_image, shown, walk
from kontext.data.layouts.texts import Texts, worded

ORDER = 5
SHOWS = """\
    pictures/cat.png           a picture
    pictures/cat.txt           what it shows; also metadata.jsonl or .csv with file_name and text"""


def matches(path: Path) -> bool:
    """Whether a folder holds pictures, and texts of their names for most."""
    if not path.is_dir():
        return False
    found = [one for one, reason in walk(path) if not reason]
    pictures = [one for one in found if is_image(one)]
    texts = {one.with_suffix("") for one in found if one.suffix.lower() in (".txt", ".caption")}
    captioned = sum(one.with_suffix("") in texts for one in pictures)
    return captioned > 0 and 2 * captioned > len(pictures)


def rows(path: Path) -> Iterator[Row | Problem | Opened]:
    """One row without contexts per picture that has a caption."""
    texts = Texts(path, (path,))
    for one, reason in walk(path):
        if not reason and is_image(one):
            yield worded(texts, (shown(one.with_suffix(""), path),), one, ())
    yield from texts.outcomes()
