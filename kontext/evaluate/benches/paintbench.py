"""PaintBench: 1,920 drawn edits in twenty tasks whose answers are exact, to the pixel."""

from pathlib import Path

from kontext.errors import BenchError
from kontext.evaluate.benches.files import PictureAt, first_there, json_lines, word
from kontext.evaluate.benches.public import BenchItem, PublicBench

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_TASKS = (
    *("translation", "rotation", "reflection", "scaling", "shearing"),
    *("construction", "removal", "copying", "border", "cropping"),
    *("recolor", "flood_fill", "blending", "gradient", "point_operations"),
    *("comparison", "ordering", "pattern", "counting", "legend"),
)
BENCH = PublicBench(
    title="PaintBench",
    licence="MIT",
    get="git clone https://github.com/PaintBench/PaintBench && cd PaintBench && "
    "python src/generate_benchmark.py --paintbench --output FOLDER",
    counts=dict.fromkeys(_TASKS, 96),
    total=1920,
    judge="",
    note="the 96 cases of `preservation` are no part of the score, and are not run",
    measures=("iou", "changed", "copied"),
    sets=(),
)


def load(folder: Path) -> list[BenchItem]:
    """Items of `PaintBench/problems.jsonl`, without `preservation`. Raises BenchError."""
    listed = first_there(folder, "PaintBench/problems.jsonl", "problems.jsonl")
    found = []
    for where, row in json_lines(listed, BENCH.get):
        task, number = word(row, "task", where), word(row, "problem_id", where)
        if task == "preservation":
            continue
        if not number.isdigit() or not task.replace("_", "").isalnum():
            raise BenchError(f"{where}: no problem of a task")
        at = listed.parent / task / f"{int(number):03d}"
        found.append(
            BenchItem(
                id=f"{task}-{int(number):03d}",
                category=task,
                instruction=word(row, "instruction", where),
                base=f"{task}-{int(number):03d}",
                context=PictureAt(at.with_name(f"{at.name}_input.png")),
                target=PictureAt(at.with_name(f"{at.name}_answer.png")),
            )
        )
    return found
