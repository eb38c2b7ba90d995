"""Runs of benches with targets, masks and turns, through the real guard."""

import io
import sys
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kontext.errors import BenchError
from kontext.evaluate.benches.public import Loaded, known_benches, load_bench
from kontext.evaluate.judges.judging import Judges
from kontext.evaluate.public.editing import mask_of
from kontext.evaluate.public.editors import Command, Identity
from kontext.evaluate.public.run import BenchRequest, run_bench
from kontext.safety.canaries import canary_png
from kontext.safety.guard import EditGuard
from kontext.store.objects import open_store
from tests.data.chat_server import Say, completion, pictures, serving
from tests.evaluate.benches import made
from tests.evaluate.judges.scripted import kind_of

INVERTS = """
import sys
from PIL import Image, ImageOps
ImageOps.invert(Image.open(sys.argv[1])).save(sys.argv[3])
"""


def bench(folder: Path, name: str) -> Loaded:
    """What is there, as if it were what was published."""
    found = load_bench(name, folder, partial=True)
    return replace(found, problems=())


def run(request: BenchRequest, home: Path) -> dict[str, Any]:
    return run_bench(request, EditGuard.of(home, open_store(f"file://{home}/store")), home)


def scores(summary: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one["scores"] for one in summary["columns"] if one["name"] == name]
    return dict(found)


def test_magicbrush_is_measured_against_targets_and_masks(tmp_path: Path) -> None:
    made.magicbrush(tmp_path / "data", (2,))
    loaded = bench(tmp_path / "data", "magicbrush")

    def speak(body: dict[str, Any], times: int) -> Say:
        if kind_of(body) == "viescore_quality":
            return completion({"reasons": "", "natural": 9, "clean": 9})
        same = pictures(body)[0] == pictures(body)[1]
        return completion({"reasons": "", "success": 0 if same else 9, "restraint": 9})

    with serving(speak) as server:
        judges = Judges(("vlm",), server.url)
        request = BenchRequest(loaded, Identity(), tmp_path / "out", judges=judges)
        summary = run(request, tmp_path / "home")
    first, second = loaded.items[0], loaded.items[1]
    assert first.context and first.target and second.target
    shown = [
        np.asarray(Image.open(p.path), np.float64)
        for p in (first.context, first.target, second.target)
    ]
    by_hand = [np.abs(a - b).mean() / 255 for a, b in pairwise(shown)]
    assert [scores(summary, "l1")[f"turn {n}"]["value"] for n in (1, 2)] == pytest.approx(by_hand)
    assert scores(summary, "copied")["all"]["value"] == 1
    assert scores(summary, "outside")["all"]["value"] == 0 and summary["main"] == "o"
    (card,) = summary["judges"]["cards"]
    assert card["canaries"] == {
        "identity": {"asked": 2, "answered": 2, "passed": 2},
        "oracle": {"asked": 2, "answered": 2, "passed": 2},
    }
    assert scores(summary, "o")["all"]["value"] == 0, "an edit that did nothing has no success"


def test_a_turn_edits_what_the_turn_before_made(tmp_path: Path) -> None:
    made.edival(tmp_path / "data", 2)
    with zipfile.ZipFile(tmp_path / "data" / "input_images_resize_512.zip", "w") as archive:
        archive.writestr("0_input_raw.jpg", made.png(made.picture(0)))
        archive.writestr("1_input_raw.jpg", canary_png(0))
    (tmp_path / "invert.py").write_text(INVERTS)
    editor = Command(f"{sys.executable} {tmp_path}/invert.py {{input}} {{instruction}} {{output}}")
    request = BenchRequest(bench(tmp_path / "data", "edival"), editor, tmp_path / "out")
    summary = run(request, tmp_path / "home")
    assert summary["outcomes"] == {
        "turn 1": {"edited": 1, "refused": 1},
        "turn 2": {"edited": 1, "no_context": 1},
        "turn 3": {"edited": 1, "no_context": 1},
        "all": {"edited": 3, "refused": 1, "no_context": 2},
    }
    results = [
        np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "edits").iterdir())
    ]
    before = np.asarray(made.picture(0))
    assert [np.array_equal(one, before) for one in results] == [False, True, False]


def test_failed_edits_are_rows_and_are_made_again_where_that_is_asked(tmp_path: Path) -> None:
    made.paintbench(tmp_path / "data", ("removal",), 2)
    loaded = bench(tmp_path / "data", "paintbench")
    flag, script = tmp_path / "flag", tmp_path / "editor.py"
    answer = str(tmp_path / "data" / "PaintBench" / "removal" / "000_answer.png")
    script.write_text(
        f"import os, shutil, sys\n"
        f"sys.exit('out of memory') if not os.path.exists({str(flag)!r}) else None\n"
        f"shutil.copy({answer!r}, sys.argv[2])\n"
    )
    editor = Command(f"{sys.executable} {script} {{instruction}} {{output}}")
    request = BenchRequest(loaded, editor, tmp_path / "out")
    assert run(request, tmp_path / "home")["outcomes"]["all"] == {"failed": 2}
    assert "out of memory" in (tmp_path / "out" / "index.html").read_text()
    flag.touch()
    assert run(request, tmp_path / "home")["outcomes"]["all"] == {"failed": 2}, "not by itself"
    summary = run(replace(request, retry=True), tmp_path / "home")
    assert summary["outcomes"]["all"] == {"edited": 2} and summary["main"] == "iou"
    # the second answer's box is 9 pixels wide, the first one's 8
    assert scores(summary, "iou")["all"]["value"] == pytest.approx((1 + 8 / 9) / 2)
    with pytest.raises(BenchError, match="needs no judge"):
        replace(request, judges=Judges(("vlm",), "http://127.0.0.1:1/v1"))


def test_a_mask_may_be_transparent_or_white() -> None:
    clear = Image.new("RGBA", (6, 4), (9, 9, 9, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 3, 4))
    white = Image.new("L", (6, 4), 0)
    white.paste(255, (0, 0, 3, 4))
    for image in (clear.resize((60, 40), 0), white.resize((60, 40), 0)):
        out = io.BytesIO()
        image.save(out, "PNG")
        found = mask_of(out.getvalue())
        assert found.shape == (40, 60) and found[:, :30].all() and not found[:, 30:].any()


def test_the_line_that_papers_print_is_the_sets_own_mean() -> None:
    assert known_benches()["gedit"].BENCH.mean == "categories"
    assert known_benches()["magicbrush"].BENCH.mean == "items"
