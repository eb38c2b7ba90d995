"""Real photographs of many shapes, by `kontext run --source`, to edits that have their shapes.

    make debian-art
    python -m benchmarks.photographs debian_art [--pictures 200] [--keep HOME]

Takes photographs from the folders, cuts them to 15 shapes between 1:2 and 2:1 in turn (Debian's
have few of their own), and gives the folder to the recipe `ci`, which makes an edit of each by
itself. Then one photograph of every shape is edited by what was published. Exits 1 where a stage
fails, fewer pictures or shapes are kept than were given, an edit is lost to a crop, or one has
another shape than its photograph. Takes minutes on two cores; nothing is fetched.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.goals import goal

Size = tuple[int, int]

_WIDE = ((5, 4), (4, 3), (7, 5), (3, 2), (5, 3), (16, 9), (2, 1))
SHAPES: tuple[Size, ...] = ((1, 1), *_WIDE, *((height, width) for width, height in _WIDE))
FEWEST = 12  # shapes
_LONGER, _SMALLEST = 384, 240  # pixels: of a side of what is made, and of what it is made of
_SUFFIXES = (".jpg", ".jpeg")  # what Debian's packages have as PNG is drawn, or cut out
_SIZES = (
    "select count(*) as pictures, count(distinct round(orig_width_px / orig_height_px, 2)) as "
    "shapes from images where not starts_with(source_ref, 'canary')"
)
_LOST = "select count(*) as lost from rejected_pairs where reason = 'edit_cropped'"


def photographs(folders: Iterable[Path]) -> list[Path]:
    """Photographs below the folders that are large enough, in the order of their names."""
    found = sorted(p for root in folders for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES)
    return [path for path in found if min(Image.open(path).size) >= _SMALLEST]


def cut(picture: Image.Image, shape: Size) -> Image.Image:
    """The largest centred part of that shape, with a longer side of 384 pixels."""
    scale = min(side / own for side, own in zip(picture.size, shape, strict=True))
    width, height = (own * scale for own in shape)
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    longer = _LONGER / max(shape)
    size = (round(shape[0] * longer), round(shape[1] * longer))
    return picture.convert("RGB").resize(size, box=(left, top, left + width, top + height))


def make(paths: Sequence[Path], count: int, folder: Path) -> list[Path]:
    """So many photographs, spread over those given, in shapes that take turns; their files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        path = paths[number * len(paths) // count]
        to = folder / f"{number:04}.jpg"
        cut(Image.open(path), SHAPES[number % len(SHAPES)]).save(to, quality=92)
        made.append(to)
    return made


def kontext(home: Path, *words: str) -> str:
    """What a command prints, with that home. Raises CalledProcessError where it fails."""
    kept: Mapping[str, str] = {
        name: value for name, value in os.environ.items() if not name.startswith("KONTEXT_")
    }
    command = [sys.executable, "-m", "flows.cli", *words]
    env = {**kept, "KONTEXT_HOME": str(home)}
    return subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout


def row(home: Path, query: str) -> dict[str, Any]:
    """The one row of a query of the catalog."""
    (found,) = json.loads(kontext(home, "sql", query, "--format", "json"))
    return dict(found)


def unlike(home: Path, pictures: Sequence[Path], folder: Path) -> list[str]:
    """Edits, one of each picture, whose size is not their picture's."""
    folder.mkdir(exist_ok=True)
    found = []
    for path in pictures:
        out = folder / f"{path.stem}.png"
        model = ("--weights", "kontext-photographs-ci")
        kontext(home, "edit", str(path), "make it black and white", "-o", str(out), *model)
        given, made = Image.open(path).size, Image.open(out).size
        print(f"{path.name}: {given[0]} x {given[1]} -> {made[0]} x {made[1]}", flush=True)
        if given != made:
            found.append(path.name)
    return found


def measured(folders: Iterable[Path], count: int, home: Path) -> bool:
    """Run and edit; whether every goal is reached."""
    paths = photographs(folders)
    if len(paths) < count:
        raise SystemExit(f"{len(paths)} photographs found: give folders with {count} or more")
    made = make(paths, count, home / "photographs")
    own = ("--source", str(home / "photographs"), "--set", "ingest.edits.per_picture=1")
    kontext(home / "home", "run", "--direct", "--recipe", "ci", *own)
    kept, lost = row(home / "home", _SIZES), row(home / "home", _LOST)
    edits = unlike(home / "home", made[: len(SHAPES)], home / "edits")
    reached = [
        goal("photographs kept, with their edits", kept["pictures"], count, at_least=True),
        goal("shapes of them", kept["shapes"], FEWEST, at_least=True),
        goal("pairs lost as edit_cropped", lost["lost"], 0),
        goal("edits of another shape than their photograph", len(edits), 0),
    ]
    return all(reached)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; exit 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="folder for all that is made")
    args = parser.parse_args(arguments)
    if args.keep:
        reached = measured(args.folders, args.pictures, args.keep)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            reached = measured(args.folders, args.pictures, Path(temporary))
    sys.exit(not reached)


if __name__ == "__main__":
    main()
