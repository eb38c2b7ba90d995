"""GEdit-Bench, its 606 English instructions in eleven tasks, as the hub's Parquet files."""

import hashlib
from pathlib import Path

from kontext.errors import BenchError
from kontext.evaluate.benches.files import PictureAt, parquet_rows, word
from kontext.evaluate.benches.public import BenchItem, PublicBench

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_TASKS = (
    "background_change",
    "color_alter",
    "material_alter",
    "motion_change",
    "ps_human",
    "style_change",
    "subject-add",
    "subject-remove",
    "subject-replace",
    "text_change",
    "tone_transfer",
)
BENCH = PublicBench(
    title="GEdit-Bench-EN",
    licence="MIT",
    get="hf download --repo-type dataset stepfun-ai/GEdit-Bench --local-dir FOLDER",
    counts=dict.fromkeys(_TASKS, 0),
    total=606,
)
_LANGUAGE, _PICTURE = "en", "input_image"
_WORDS = ["key", "task_type", "instruction", "instruction_language"]


def load(folder: Path) -> list[BenchItem]:
    """The English items of `data/*.parquet`. Raises BenchError.

    Equal pictures are one base picture, whatever their names.
    """
    files = sorted((folder / "data").glob("*.parquet"))
    if not files:
        raise BenchError(f"there is no {folder}/data/*.parquet; get the data with: {BENCH.get}")
    found = []
    for path in files:
        for group, number, row in parquet_rows(path, [*_WORDS, _PICTURE]):
            where = f"{path}, row {number} of group {group}"
            if word(row, "instruction_language", where) != _LANGUAGE:
                continue
            cell = row[_PICTURE]
            data = (cell.get("bytes") if isinstance(cell, dict) else cell) or b""
            found.append(
                BenchItem(
                    id=word(row, "key", where),
                    category=word(row, "task_type", where),
                    instruction=word(row, "instruction", where),
                    base=hashlib.sha256(data).hexdigest()[:16],
                    context=PictureAt(path, column=_PICTURE, group=group, row=number),
                )
            )
    return found
