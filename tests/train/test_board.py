"""Read back by the format's own definition: records first, then the messages in them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from kontext.data.pixels import encode_png
from kontext.train import board
from kontext.train.board import Board, crc32c


def records(path: Path) -> Iterator[bytes]:
    """TFRecords, with both checksums checked."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert unmasked(data[8:12]) == crc32c(data[:8])
        body, data = data[12 : 12 + length], data[12 + length :]
        assert unmasked(data[:4]) == crc32c(body)
        yield body
        data = data[4:]


def unmasked(data: bytes) -> int:
    value = struct.unpack("<I", data)[0] - 0xA282EAD8 & 0xFFFFFFFF
    return (value >> 17 | value << 15) & 0xFFFFFFFF


def fields(message: bytes) -> dict[int, list[bytes | int | float]]:
    """A protocol buffer's fields by number."""
    found: dict[int, list[bytes | int | float]] = {}
    while message:
        key, message = varint(message)
        kind, number = key & 7, key >> 3
        value: bytes | int | float
        if kind == 0:
            value, message = varint(message)
        elif kind == 1:
            value, message = struct.unpack("<d", message[:8])[0], message[8:]
        elif kind == 5:
            value, message = struct.unpack("<f", message[:4])[0], message[4:]
        else:
            length, message = varint(message)
            value, message = message[:length], message[length:]
        found.setdefault(number, []).append(value)
    return found


def varint(data: bytes) -> tuple[int, bytes]:
    number = shift = 0
    for count, byte in enumerate(data, 1):
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, data[count:]
    raise AssertionError("cut off")


def events(folder: Path) -> list[dict[int, list[bytes | int | float]]]:
    (path,) = folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    return [fields(record) for record in records(path)]


def test_checksums_are_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_numbers_come_with_their_step_and_what_is_unknown_is_left_out(tmp_path: Path) -> None:
    board = Board(tmp_path / "run")
    board.scalars(3, {"flow/loss": 0.5, "flow/utilisation": None})
    board.scalars(70_000, {"flow/loss": 0.25})
    version, *rest = events(tmp_path / "run")
    assert version[3] == [b"brain.Event:2"]
    found = []
    for event in rest:
        (summary,) = event[5]
        assert isinstance(summary, bytes)
        for value in map(fields, fields(summary)[1]):  # type: ignore[arg-type]
            found.append((event[2][0], value[1][0], value[2][0]))
    assert found == [(3, b"flow/loss", 0.5), (70_000, b"flow/loss", 0.25)]


def test_pictures_are_the_png_with_its_size(tmp_path: Path) -> None:
    import numpy as np

    picture = encode_png(np.zeros((20, 300, 3), np.uint8))
    Board(tmp_path / "run").picture(5, "flow/samples", picture)
    (summary,) = events(tmp_path / "run")[1][5]
    (value,) = fields(summary)[1]  # type: ignore[arg-type]
    (image,) = fields(value)[4]  # type: ignore[arg-type]
    assert fields(image) == {1: [20], 2: [300], 3: [3], 4: [picture]}  # type: ignore[arg-type]


def test_a_run_without_events_leaves_nothing(tmp_path: Path) -> None:
    Board(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboards_own_reader_reads_them(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    Board(tmp_path / "run").scalars(3, {"flow/loss": 0.5})
    (path,) = (tmp_path / "run").iterdir()
    _, event = loader.LegacyEventFileLoader(str(path)).Load()
    assert (event.step, event.summary.value[0].simple_value) == (3, 0.5)


def test_two_boards_of_a_process_share_a_file_whenever_they_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(board.time, "time", lambda: now[0])
    monkeypatch.setattr(board.time, "time_ns", lambda: int(now[0] * 1e9))
    Board(tmp_path).scalars(0, {"loss": 1.0})
    now[0] += 60
    Board(tmp_path).scalars(1, {"val_loss": 2.0})
    (path,) = tmp_path.iterdir()
    heads = [fields(record) for record in records(path)]
    assert [3 in head for head in heads] == [True, False, False]
