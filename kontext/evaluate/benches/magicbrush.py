"""MagicBrush's test split: 1,053 turns of 535 sessions, each with its target and mask.

Every turn edits the picture that people made in the turn before ("single turn" in the paper).
"""

from pathlib import Path

from kontext.errors import BenchError
from kontext.evaluate.benches.files import PictureAt, first_there, inside, json_file, word
from kontext.evaluate.benches.public import BenchItem, PublicBench

CHANGES_RESULTS = False  # for users; no stage runs a public bench

BENCH = PublicBench(
    title="MagicBrush test (single turn)",
    licence="CC-BY-4.0; the test split is not to be passed on",
    get="the test split is a zip file with a password: see github.com/OSU-NLP-Group/MagicBrush, "
    "and unzip it into FOLDER",
    counts={"turn 1": 535, "turn 2": 0, "turn 3": 0},
    total=1053,
    pictures=535,
    mean="items",
    measures=("l1", "l2", "psnr", "ssim", "outside", "changed", "copied"),
)


def load(folder: Path) -> list[BenchItem]:
    """Items of `test/edit_sessions.json`; `test/images/ID/` has a session's pictures.

    Raises BenchError.
    """
    listed = first_there(folder, "test/edit_sessions.json", "edit_sessions.json")
    sessions = json_file(listed, BENCH.get)
    if not isinstance(sessions, dict):
        raise BenchError(f"{listed} is no JSON object")
    found = []
    for session, turns in sessions.items():
        at = inside(listed.parent / "images", session, str(listed))
        for number, row in enumerate(turns, 1):
            where = f"{listed}, session {session}, turn {number}"
            context, target, mask = (
                PictureAt(inside(at, word(row, name, where), where))
                for name in ("input", "output", "mask")
            )
            found.append(
                BenchItem(
                    id=f"{session}_{number}",
                    category=f"turn {number}",
                    instruction=word(row, "instruction", where),
                    base=session,
                    context=context,
                    target=target,
                    mask=mask,
                )
            )
    return found
