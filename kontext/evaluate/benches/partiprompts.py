"""PartiPrompts: 1,632 texts in twelve categories, from which pictures are drawn."""

from pathlib import Path

from kontext.evaluate.benches.files import table_rows, word
from kontext.evaluate.benches.public import BenchItem, PublicBench

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_CATEGORIES = (
    "Abstract",
    "Animals",
    "Artifacts",
    "Arts",
    "Food & Beverage",
    "Illustrations",
    "Indoor Scenes",
    "Outdoor Scenes",
    "People",
    "Produce & Plants",
    "Vehicles",
    "World Knowledge",
)
BENCH = PublicBench(
    title="PartiPrompts",
    licence="Apache-2.0",
    get="curl -Lo FOLDER/PartiPrompts.tsv "
    "https://raw.githubusercontent.com/google-research/parti/main/PartiPrompts.tsv",
    counts=dict.fromkeys(_CATEGORIES, 0),
    total=1632,
    judge="drawn",
    mean="items",
    measures=(),
)


def load(folder: Path) -> list[BenchItem]:
    """One item a row, numbered from 1: the set has no ids. Raises BenchError."""
    rows = table_rows(folder / "PartiPrompts.tsv", BENCH.get, "\t")
    return [
        BenchItem(
            id=f"{number:04d}",
            category=word(row, "Category", where),
            instruction=word(row, "Prompt", where),
            base=f"{number:04d}",
        )
        for number, (where, row) in enumerate(rows, 1)
    ]
