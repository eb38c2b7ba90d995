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
    measures=(
        *("l1", "l2", "clip_i", "dino", "clip_t", "clip_direction", "psnr", "ssim", "lpips"),
        *("inside", "inside_psnr", "inside_ssim", "outside", "outside_psnr", "outside_ssim"),
        *("changed", "copied", "aesthetic"),
    ),
)


def load(folder: Path) -> list[BenchItem]:
    """Items of `test/edit_sessions.json`; `test/images/ID/` has a session's pictures.

    Captions are those of `global_descriptions.json` beside it, where it is there.

    Raises BenchError.
    """
    listed = first_there(folder, "test/edit_sessions.json", "edit_sessions.json")
    sessions = json_file(listed, BENCH.get)
    if not isinstance(sessions, dict):
        raise BenchError(f"{listed} is no JSON object")
    captions = _captions(listed.parent / "global_descriptions.json")
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
                    caption=captions.get((session, target.path.name), ""),
                    context_caption=captions.get((session, context.path.name), ""),
                )
            )
    return found


def _captions(path: Path) -> dict[tuple[str, str], str]:
    """(session, picture) -> what it shows; nothing without the file. Raises BenchError."""
    if not path.exists():
        return {}
    rows = json_file(path, BENCH.get)
    if not isinstance(rows, dict) or not all(isinstance(own, dict) for own in rows.values()):
        raise BenchError(f"{path} is no JSON object of objects")
    return {(session, name): str(own[name]) for session, own in rows.items() for name in own}
