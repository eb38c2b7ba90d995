"""ImgEdit-Bench, single turn: 737 edits in nine types, each type with the set's own rubric."""

from pathlib import Path

from kontext.errors import BenchError
from kontext.evaluate.benches.files import PictureAt, first_there, inside, json_file, word
from kontext.evaluate.benches.public import BenchItem, PublicBench

CHANGES_RESULTS = False  # for users; no stage runs a public bench

BENCH = PublicBench(
    title="ImgEdit-Bench (single turn)",
    licence="none stated: not to be passed on",
    get="hf download --repo-type dataset sysuyy/ImgEdit Benchmark.tar --local-dir FOLDER "
    "&& tar -xf FOLDER/Benchmark.tar -C FOLDER",
    counts={
        "add": 95,
        "adjust": 94,
        "extract": 117,
        "replace": 92,
        "remove": 86,
        "background": 94,
        "style": 100,
        "compose": 23,
        "action": 36,
    },
    total=737,
    judge="imgedit",
    note="the file has 737 items, papers say 734",
)
_PLACES = ("Benchmark/singleturn", "singleturn", ".")


def load(folder: Path) -> list[BenchItem]:
    """Items of `singleturn.json` (`basic_edit.json`), with `judge_prompt.json`'s rubrics.

    Raises BenchError, also where a type has no rubric.
    """
    names = [f"{at}/{name}" for at in _PLACES for name in ("singleturn.json", "basic_edit.json")]
    listed = first_there(folder, *names)
    at = listed.parent
    rows = json_file(listed, BENCH.get)
    rubrics = json_file(first_there(at, "judge_prompt.json", "prompts.json"), BENCH.get)
    if not isinstance(rows, dict) or not isinstance(rubrics, dict):
        raise BenchError(f"{listed} and its rubrics have to be JSON objects")
    found = []
    for key, row in rows.items():
        where = f"{listed}, item {key}"
        if not isinstance(row, dict):
            raise BenchError(f"{where} is no JSON object")
        category, picture = word(row, "edit_type", where), word(row, "id", where)
        if category in BENCH.counts and not isinstance(rubrics.get(category), str):
            raise BenchError(f"there is no rubric for '{category}' beside {listed}")
        found.append(
            BenchItem(
                id=key,
                category=category,
                instruction=word(row, "prompt", where),
                base=picture,
                context=PictureAt(inside(at, picture, where)),
                rubric=str(rubrics.get(category, "")),
            )
        )
    return found
