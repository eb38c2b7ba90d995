"""PartiPrompts: 1,632 texts in twelve categories, from which pictures are drawn."""

from pathlib import Path

from kontext.evaluate.benches.files import table_rows, word
from kontext.evaluate.benches.public import BenchItem, PublicBench

CHANGES_RESULTS = False  # for users; no stage runs a public bench

BENCH = PublicBench(
    title="PartiPrompts",
    licence="Apache-2.0",
    get="curl -Lo FOLDER/PartiPrompts.tsv "
    "https://raw.githubusercontent.com/google-research/parti/main/PartiPrompts.tsv",
    counts={
        "Abstract": 51,
        "Animals": 314,
        "Artifacts": 287,
        "Arts": 66,
        "Food & Beverage": 74,
        "Illustrations": 124,
        "Indoor Scenes": 40,
        "Outdoor Scenes": 131,
        "People": 177,
        "Produce & Plants": 50,
        "Vehicles": 104,
        "World Knowledge": 214,
    },
    total=1632,
    checksums={
        "PartiPrompts.tsv": "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb"
    },
    judge="drawn",
    mean="items",
    measures=("clip_t", "aesthetic"),
    sets=(),
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
