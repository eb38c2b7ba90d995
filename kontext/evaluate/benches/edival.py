"""EdiVal's scripts: 572 sessions of three turns; a turn edits what the editor made before."""

import ast
from pathlib import Path

from kontext.errors import BenchError
from kontext.evaluate.benches.files import PictureAt, table_rows, word
from kontext.evaluate.benches.public import BenchItem, PublicBench

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_TABLE, _PICTURES = "oai_instruction_generation_output.csv", "input_images_resize_512.zip"
_TURNS = 3
BENCH = PublicBench(
    title="EdiVal (3 turns)",
    licence="MIT (scripts), CC-BY-SA-4.0 (data)",
    get="hf download --repo-type dataset C-Tianyu/EdiVal input_images_resize_512.zip --local-dir "
    "FOLDER, and the CSV from github.com/TianyuCodings/EdiVal into FOLDER",
    counts=dict.fromkeys(("turn 1", "turn 2", "turn 3"), 572),
    total=3 * 572,
    pictures=572,
    checksums={  # of copies in use since 2025; the authors publish none
        _TABLE: "1c17f9f579c5337d3846f45714153f87f27cc0f85119d897dcb62e5301351555",
        _PICTURES: "c15d9010ab50dd6ddaed81c3ef0f573591149ee31ca266124e39f4e8518d0c79",
    },
)


def load(folder: Path) -> list[BenchItem]:
    """Items of the CSV's rows with three turns, in zipped pictures' order. Raises BenchError."""
    found = []
    for where, row in table_rows(folder / _TABLE, BENCH.get, ","):
        if word(row, "turns", where) != str(_TURNS):
            continue  # the table has each session's beginnings as rows of their own
        session = word(row, "image_index", where)
        picture = PictureAt(folder / _PICTURES, member=f"{session}_input_raw.jpg")
        for number, instruction in enumerate(_instructions(row, where), 1):
            before = f"{session}_{number - 1}" if number > 1 else ""
            found.append(
                BenchItem(
                    id=f"{session}_{number}",
                    category=f"turn {number}",
                    instruction=instruction,
                    base=session,
                    context=picture,
                    after=before,
                )
            )
    return found


def _instructions(row: dict[str, str], where: str) -> list[str]:
    """The cell is a Python list of texts."""
    try:
        said = ast.literal_eval(word(row, "instructions", where))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise BenchError(f"{where}: 'instructions' is no list of texts") from error
    if not (isinstance(said, list) and all(isinstance(text, str) for text in said)):
        raise BenchError(f"{where}: 'instructions' is no list of texts")
    if len(said) != _TURNS:
        raise BenchError(f"{where}: {len(said)} instructions where there are {_TURNS} turns")
    return said
