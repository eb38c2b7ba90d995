"""GEdit-Bench v2: 1,200 instructions of users in 23 tasks, one of them without a kind of its own.

The set's own score is pairwise, of editors against each other: `--against` another run is nearest
to that, by judges of yours. The columns are those that its own code and others' read; the names of
its tasks are not all known, so they are taken as they come and only counted.
"""

from pathlib import Path

from kontext.evaluate.benches.files import picture_rows, word
from kontext.evaluate.benches.public import EDITS, TEXTS, BenchItem, PublicBench
from kontext.evaluate.benches.quoted import edit_item

CHANGES_RESULTS = False  # for users; no stage runs a public bench

BENCH = PublicBench(
    title="GEdit-Bench v2",
    licence="see its card: not to be passed on without",
    get="hf download --repo-type dataset GEditBench-v2/GEditBench-v2 --local-dir FOLDER",
    counts={},
    categories=23,
    total=1200,
    measures=(*EDITS, *TEXTS),
    only=dict.fromkeys(TEXTS, ("text_editing",)),
    note="the set's own score is pairwise: use --against",
)
_WORDS = ["key", "task", "instruction"]


def load(folder: Path) -> list[BenchItem]:
    """Items of `data/*.parquet`. Raises BenchError."""
    found = []
    for where, row, base, picture in picture_rows(folder, BENCH.get, _WORDS, "source_image"):
        key, task, said = (word(row, name, where) for name in _WORDS)
        found.append(edit_item(key, task, said, base, picture))
    return found
