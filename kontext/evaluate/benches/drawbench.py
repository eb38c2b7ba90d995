"""DrawBench: 200 texts in eleven categories, from which pictures are drawn."""

from pathlib import Path

from kontext.evaluate.benches.files import table_rows, word
from kontext.evaluate.benches.public import BenchItem, PublicBench

CHANGES_RESULTS = False  # for users; no stage runs a public bench

BENCH = PublicBench(
    title="DrawBench",
    licence="not stated: not to be passed on",
    get="curl -Lo FOLDER/DrawBench.csv "
    "https://raw.githubusercontent.com/mwomick/VaReSynth/main/data/DrawBench.csv",
    counts={
        "Colors": 25,
        "Conflicting": 10,
        "Counting": 19,
        "DALL-E": 20,
        "Descriptions": 20,
        "Gary Marcus et al.": 10,
        "Misspellings": 10,
        "Positional": 20,
        "Rare Words": 7,
        "Reddit": 38,
        "Text": 21,
    },
    total=200,
    checksums={"DrawBench.csv": "5f50241927354d1879b5b0b27cd3c83e8e6816a19fcc9c559053e8d09781c392"},
    judge="drawn",
    mean="items",
    measures=("clip_t", "aesthetic"),
    sets=(),
)


def load(folder: Path) -> list[BenchItem]:
    """One item a row, numbered from 1: the set has no ids. Raises BenchError."""
    rows = table_rows(folder / "DrawBench.csv", BENCH.get, ",")
    return [
        BenchItem(
            id=f"{number:03d}",
            category=word(row, "Category", where).strip(),
            instruction=word(row, "Prompts", where),
            base=f"{number:03d}",
        )
        for number, (where, row) in enumerate(rows, 1)
    ]
