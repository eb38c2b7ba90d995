"""GEdit-Bench, its 606 English instructions in eleven tasks, as the hub's Parquet files."""

from pathlib import Path

from kontext.evaluate.benches.files import picture_rows, word
from kontext.evaluate.benches.public import EDITS, FACES, TEXTS, BenchItem, PublicBench
from kontext.evaluate.benches.quoted import edit_item

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
    measures=(*EDITS, *TEXTS, *FACES),
    only={
        **dict.fromkeys(TEXTS, ("text_change",)),
        **dict.fromkeys(FACES, ("ps_human",)),
    },
)
_LANGUAGE = "en"
_WORDS = ["key", "task_type", "instruction", "instruction_language"]


def load(folder: Path) -> list[BenchItem]:
    """The English items of `data/*.parquet`. Raises BenchError."""
    found = []
    for where, row, base, picture in picture_rows(folder, BENCH.get, _WORDS, "input_image"):
        if word(row, "instruction_language", where) != _LANGUAGE:
            continue
        key, task, said = (word(row, name, where) for name in _WORDS[:3])
        found.append(edit_item(key, task, said, base, picture))
    return found
