"""GenAI-Bench, its 527 texts that people rated six models on, from which pictures are drawn."""

from pathlib import Path

from kontext.errors import BenchError
from kontext.evaluate.benches.files import json_file, word
from kontext.evaluate.benches.public import BenchItem, PublicBench

CHANGES_RESULTS = False  # for users; no stage runs a public bench

BENCH = PublicBench(
    title="GenAI-Bench (527)",
    licence="see github.com/linzhiqiu/t2v_metrics",
    get="curl -Lo FOLDER/genai_image.json "
    "https://raw.githubusercontent.com/linzhiqiu/t2v_metrics/"
    "60ce07b144b9bff24b8dac5317cb28586b1b2509/genai_image.json",
    counts={"all": 527},
    total=527,
    checksums={
        "genai_image.json": "a5974a5e67f530985a12f2d5cda490f3cb1e47064a56c54817d57102a964e9ff"
    },
    judge="drawn",
    mean="items",
    measures=("clip_t", "aesthetic"),
    sets=(),
)


def load(folder: Path) -> list[BenchItem]:
    """Items of `genai_image.json`. The ratings in it are of other models' pictures.

    Raises BenchError.
    """
    listed = folder / "genai_image.json"
    rows = json_file(listed, BENCH.get)
    if not isinstance(rows, dict):
        raise BenchError(f"{listed} is no JSON object")
    found = []
    for key, row in rows.items():
        where = f"{listed}, item {key}"
        if not isinstance(row, dict):
            raise BenchError(f"{where} is no JSON object")
        own = word(row, "id", where)
        found.append(BenchItem(own, "all", word(row, "prompt", where), base=own))
    return found
