"""KontextBench: 1,026 edits of 108 pictures in five categories, as an image folder."""

from pathlib import Path

from kontext.evaluate.benches.files import PictureAt, inside, json_lines, word
from kontext.evaluate.benches.public import EDITS, FACES, TEXTS, BenchItem, PublicBench
from kontext.evaluate.benches.quoted import edit_item

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_CATEGORIES = {
    "Instruction Editing - Local": "local",
    "Instruction Editing - Global": "global",
    "Text Editing": "text",
    "Style Reference": "style",
    "Character Reference": "character",
}
BENCH = PublicBench(
    title="KontextBench",
    licence="MIT",
    get="hf download --repo-type dataset black-forest-labs/kontext-bench --local-dir FOLDER",
    counts={"local": 416, "global": 262, "text": 92, "style": 63, "character": 193},
    total=1026,
    pictures=108,
    measures=(*EDITS, *TEXTS, *FACES, "style", "style_vgg"),
    only={
        **dict.fromkeys(TEXTS, ("text",)),
        **dict.fromkeys(FACES, ("character",)),
        **dict.fromkeys(("style", "style_vgg"), ("style",)),
    },
)


def load(folder: Path) -> list[BenchItem]:
    """Items of `test/metadata.jsonl`, whose pictures are beside it. Raises BenchError."""
    found = []
    for where, row in json_lines(folder / "test" / "metadata.jsonl", BENCH.get):
        picture = word(row, "file_name", where)
        category = word(row, "category", where)
        found.append(
            edit_item(
                word(row, "key", where),
                _CATEGORIES.get(category, category),
                word(row, "instruction", where),
                picture,
                PictureAt(inside(folder / "test", picture, where)),
            )
        )
    return found
