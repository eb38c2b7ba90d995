"""Read back by TensorBoard's own reader."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from kontext.train.record.board import Board


def events(folder: Path) -> list[Any]:
    (path,) = folder.iterdir()
    version, *rest = LegacyEventFileLoader(str(path)).Load()
    assert version.file_version == "brain.Event:2"
    return rest


def test_numbers_come_with_their_step_and_what_is_unknown_is_left_out(tmp_path: Path) -> None:
    board = Board(tmp_path / "run")
    board.scalars(3, {"flow/loss": 0.5, "flow/utilisation": None})
    board.scalars(70_000, {"flow/loss": 0.25})
    values = [
        (e.step, v.tag, v.simple_value) for e in events(tmp_path / "run") for v in e.summary.value
    ]
    assert values == [(3, "flow/loss", 0.5), (70_000, "flow/loss", 0.25)]


def test_pictures_come_back_with_their_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 300, 3), np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    Board(tmp_path / "run").picture(5, "flow/samples", png.getvalue())
    (event,) = events(tmp_path / "run")
    (value,) = event.summary.value
    assert (event.step, value.tag) == (5, "flow/samples")
    found = Image.open(io.BytesIO(value.image.encoded_image_string))
    assert np.array_equal(np.array(found), pixels)


def test_a_run_without_events_leaves_nothing(tmp_path: Path) -> None:
    Board(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_boards_of_one_folder_write_to_one_file(tmp_path: Path) -> None:
    one, two = Board(tmp_path), Board(tmp_path)
    one.scalars(0, {"loss": 1.0})
    two.scalars(1, {"val_loss": 2.0})
    one.scalars(2, {"loss": 0.5})
    assert [event.step for event in events(tmp_path)] == [0, 1, 2]


def test_without_the_package_training_goes_on_and_the_log_says_so_once(tmp_path: Path) -> None:
    code = f"""
import logging, pathlib, sys
logging.basicConfig()
sys.modules["tensorboard"] = None
from kontext.train.record.board import Board
for step in range(3):
    Board(pathlib.Path({str(tmp_path)!r}, "run")).scalars(step, {{"loss": 1.0}})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.count("nothing is written for TensorBoard") == 1
    assert not (tmp_path / "run").exists()
