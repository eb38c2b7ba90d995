"""TensorBoard event files, written without its package: scalars and pictures of a run.

An event file is a row of TFRecords: the length of a message, a masked CRC-32C of those eight bytes,
the message, and its own. Messages are protocol buffers of which five fields are used
(tensorboard/compat/proto/event.proto and summary.proto). `tensorboard --logdir FOLDER` reads them.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

CHANGES_RESULTS = False  # for people

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # wire types
_RGB = 3  # channels of a picture
_STARTED = time.time_ns() // 10**9  # several boards of a process write to one file, at any time


class Board:
    """The one event file of this process in a folder; both are made with the first event."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: Path | None = None

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Numbers of a step; what is not known is left out."""
        rows = [
            _field(1, _message(_text(1, tag), _field(2, struct.pack("<f", value), _FLOAT)))
            for tag, value in values.items()
            if value is not None
        ]
        self._write(step, b"".join(rows))

    def picture(self, step: int, tag: str, png: bytes) -> None:
        """A PNG in RGB."""
        width, height = struct.unpack(">II", png[16:24])  # IHDR comes first
        image = _message(
            _field(1, _varint(height), _VARINT),
            _field(2, _varint(width), _VARINT),
            _field(3, _varint(_RGB), _VARINT),
            _field(4, png),
        )
        self._write(step, _field(1, _message(_text(1, tag), _field(4, image))))

    def _write(self, step: int, summary: bytes) -> None:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = self.folder / f"events.out.tfevents.{_STARTED:010d}.kontext.{os.getpid()}"
            if not self._file.exists():
                self._append(_event(0, _text(3, "brain.Event:2")))
        self._append(_event(step, _field(5, summary)))

    def _append(self, event: bytes) -> None:
        assert self._file is not None
        length = struct.pack("<Q", len(event))
        with self._file.open("ab") as file:
            file.write(length + _masked(length) + event + _masked(event))


def _event(step: int, what: bytes) -> bytes:
    moment = _field(1, struct.pack("<d", time.time()), _DOUBLE)
    return _message(moment, _field(2, _varint(step), _VARINT), what)


def _message(*fields: bytes) -> bytes:
    return b"".join(fields)


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _field(number: int, value: bytes, kind: int = _BYTES) -> bytes:
    head = _varint(number << 3 | kind)
    return head + (_varint(len(value)) if kind == _BYTES else b"") + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _crc_table() -> tuple[int, ...]:
    """CRC-32C (Castagnoli), reflected."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The checksum of TFRecords, without its mask."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
