"""The hash gate: known-bad lists are matched before anything of an image is written.

A list file is CSV or JSONL, and is a secret: keep it out of repositories, stores and logs. Entries
are never printed, also not in errors. CSV:

    # provider: example-ngo
    # version: 2026-01
    # date: 2026-01-31
    type,value
    sha256,<64 hex>
    pdq,<64 hex>

JSONL: the first line is `{"provider": …, "version": …, "date": …}`, the others
`{"type": "md5", "value": "<32 hex>"}`. Types are md5, sha1, sha256 (of the file's bytes) and pdq.
A list that was fetched from an exchange is such a CSV, encrypted (`kontext.safety.sealed`).
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from kontext.errors import GateError
from kontext.safety import sealed
from kontext.safety.canaries import BANK_SIZE, PROVIDER, canary_image, canary_png
from kontext.safety.ids import Outcome, Reason
from kontext.safety.index_files import folder_in, memory_folder
from kontext.safety.list_files import SUFFIXES, list_files
from kontext.safety.opt_outs import opt_outs
from kontext.safety.pdq import MIN_QUALITY, Bytes, enlarged, pdq_dihedral, without_borders
from kontext.safety.pdq_index import PdqIndex
from schemas.paths import file_or_in_home
from schemas.sections.data import IngestConfig

STALE_DAYS = 30
PROFILE, REQUIRED = "KONTEXT_HASH_LISTS", "required"  # of the environment
OPERATOR = "operator-canary"  # provider of the list by which kontext.safety.proof proves the gate
_EXACT_BYTES = {"md5": 16, "sha1": 20, "sha256": 32}
_HEADER_KEYS = ("provider", "version", "date")


class GateResult(NamedTuple):
    """What the gate says of one image. On DROP the caller keeps nothing of the image."""

    outcome: Outcome  # PASS, DROP or UNMATCHABLE (PDQ quality below 50, and near no listed hash)
    reason: Reason | str  # empty for PASS
    provider: str  # list and version that matched, else every list consulted
    pdq: bytes  # 32 bytes
    pdq_quality: int  # 0-100


@dataclass(repr=False)
class HashList:
    """One loaded list. Its repr shows no entries."""

    provider: str
    version: str
    date: dt.date
    exact: dict[str, set[bytes]] = field(default_factory=dict)
    pdq: Bytes = field(default_factory=lambda: np.empty((0, 32), np.uint8))  # [N, 32]
    reason: Reason = Reason.HASH_MATCH

    @property
    def name(self) -> str:
        """`provider@version`, the only thing about a list that is ever recorded."""
        return f"{self.provider}@{self.version}"

    def __len__(self) -> int:
        return len(self.pdq) + sum(len(entries) for entries in self.exact.values())

    def __repr__(self) -> str:
        return f"HashList({self.name}, {len(self)} entries)"


class HashGate:
    """Exact hashes of the raw bytes, then PDQ in all 8 orientations, against every list."""

    def __init__(
        self,
        lists: Iterable[HashList] = (),
        notes: tuple[str, ...] = (),
        home: Path | None = None,
        opted_out: frozenset[str] = frozenset(),
        on_disk: bool = True,
    ) -> None:
        """The canary bank is always part of the gate. `notes` are for the manifest.

        `opted_out` are SHA-256 of files whose owners do not want them in (kontext.safety.opt_outs).

        The index of long lists is kept in `home`, where one is named; in memory alone where not
        `on_disk`.
        """
        self.lists = (_canary_list(), *lists)
        self.notes = notes
        self._opted_out = opted_out
        self.version = "+".join(item.name for item in self.lists if item.provider != OPERATOR)
        sizes = [len(item.pdq) for item in self.lists]
        self._owner = np.repeat(np.arange(len(self.lists), dtype=np.uint16), sizes)
        hashes = np.concatenate([item.pdq for item in self.lists])
        folder = None
        if home is not None:
            folder = folder_in(home) if on_disk else memory_folder(home, len(hashes))
        self._index = PdqIndex(hashes, folder)
        if (rows := self._index.rows) is not None:  # in memory once, for all processes
            parts = np.split(rows, np.cumsum(sizes[:-1]))
            self.lists = tuple(map(_with_pdq, self.lists, parts))

    @classmethod
    def from_config(
        cls, config: IngestConfig, home: Path, today: dt.date | None = None
    ) -> HashGate:
        """The gate an ingest section asks for, with every list in `home/hash-lists`.

        Relative list paths are tried in `home` too.

        Raises:
            GateError: a list is missing, malformed or dated ahead; or one is older than 30 days or
                there is none, and `allow_unlisted` is false or KONTEXT_HASH_LISTS is `required`.
                Else those become notes.
        """
        for name in config.hash_lists:
            if file_or_in_home(name, home) is None:
                raise GateError(f"hash list {name} does not exist")
        paths = list_files(config.hash_lists, home)
        stamps = tuple(path.stat().st_mtime_ns for path in paths)
        today = today or dt.date.today()
        opted_out = opt_outs(home).digests
        allowed = config.allow_unlisted and not lists_required()
        return _load_gate(paths, stamps, allowed, today, home, opted_out)

    def check(self, data: bytes, rgb: NDArray[np.uint8]) -> GateResult:
        """Check one image before anything of it is written: as it is, and without its border.

        Args:
            data: the original file's bytes.
            rgb: uint8 [H, W, 3], decoded and normalised to RGB, not resized.
        """
        digests = {kind: hashlib.new(kind, data).digest() for kind in _EXACT_BYTES}
        for item in self.lists:
            if any(digests[kind] in entries for kind, entries in item.exact.items()):
                hashes, quality = pdq_dihedral(rgb)
                own = hashes[0].tobytes()
                return GateResult(Outcome.DROP, item.reason, item.name, own, quality)
        if digests["sha256"].hex() in self._opted_out:
            hashes, quality = pdq_dihedral(rgb)
            own = hashes[0].tobytes()
            return GateResult(Outcome.DROP, Reason.OPTED_OUT, "opt-outs", own, quality)
        return self.check_pixels(rgb)

    def check_pixels(self, rgb: NDArray[np.uint8]) -> GateResult:
        """Check a picture that has no file of its own, as a later frame of an animation."""
        hashes, quality = pdq_dihedral(rgb)
        own = hashes[0].tobytes()
        # looked up at every quality: lowered contrast alone makes a listed picture "too plain"
        match, seen = self._index.nearest(hashes), quality
        for view in _other_views(rgb) if match is None else ():
            view_hashes, seen = pdq_dihedral(view)
            if (match := self._index.nearest(view_hashes)) is not None:
                break
        if match is not None:
            item = self.lists[self._owner[match.row]]
            sure = seen >= MIN_QUALITY or item.reason is Reason.CANARY
            reason = item.reason if sure else Reason.HASH_MATCH_LOW_QUALITY
            return GateResult(Outcome.DROP, reason, item.name, own, quality)
        if quality < MIN_QUALITY:
            plain = Reason.PDQ_LOW_QUALITY
            return GateResult(Outcome.UNMATCHABLE, plain, self.version, own, quality)
        return GateResult(Outcome.PASS, "", self.version, own, quality)

    def __reduce__(self) -> NoReturn:
        # a pickled gate could end in a work plan or a cache on disk
        raise TypeError("hash lists are secrets: build the gate in each worker with from_config")


def _other_views(rgb: Bytes) -> Iterator[Bytes]:
    """A picture enlarged where it is small, and what is inside of its borders, both ways."""
    for number, view in enumerate((rgb, *without_borders(rgb))):
        if number:
            yield view
        large = enlarged(view) if number < 2 else None  # further ones are the second but for lines
        if large is not None:
            yield large


def lists_required() -> bool:
    """Whether this is production: nothing is let in, edited or swept without fresh lists.

    Raises:
        GateError: KONTEXT_HASH_LISTS says neither `required` nor nothing.
    """
    said = os.environ.get(PROFILE, "")
    if said not in ("", REQUIRED):
        raise GateError(f"{PROFILE} is {said!a}: it is `{REQUIRED}`, or not set")
    return said == REQUIRED


def _with_pdq(item: HashList, rows: Bytes) -> HashList:
    return replace(item, pdq=rows)


@lru_cache(maxsize=2)
def _load_gate(
    paths: tuple[Path, ...],
    stamps: tuple[int, ...],
    allow_unlisted: bool,
    today: dt.date,
    home: Path,
    opted_out: frozenset[str],
) -> HashGate:
    lists = [load_hash_list(path, home) for path in paths]
    for item in lists:
        if item.date > today + dt.timedelta(days=1):  # a day: clocks and time zones differ
            raise GateError(f"hash list {item.name} is dated ahead: {item.date}")
    problems = [
        f"hash list {item.name} is {(today - item.date).days} days old (limit {STALE_DAYS})"
        for item in lists
        if (today - item.date).days > STALE_DAYS
    ]
    if all(item.provider == OPERATOR for item in lists):
        problems.append("no hash list is configured: only the canary bank is matched")
    if problems and not allow_unlisted:
        instead = "bring lists up to date (`kontext safety fetch`)"
        if not lists_required():
            instead = "set ingest.allow_unlisted=true to run all the same"
        raise GateError(f"{problems[0]}; {instead}")
    notes = tuple(f"allow_unlisted: {problem}" for problem in problems)
    encrypted = any(path.suffix.lower() == sealed.SUFFIX for path in paths)
    return HashGate(lists, notes, home, opted_out, on_disk=not encrypted)


@lru_cache(maxsize=1)
def _canary_list() -> HashList:
    provider, _, version = PROVIDER.partition("@")
    bank = HashList(provider, version, dt.date.max, reason=Reason.CANARY)
    bank.exact["sha256"] = {hashlib.sha256(canary_png(n)).digest() for n in range(BANK_SIZE)}
    images = (np.asarray(canary_image(number)) for number in range(BANK_SIZE))
    bank.pdq = np.stack([pdq_dihedral(image)[0][0] for image in images])
    return bank


def load_hash_list(path: Path, home: Path | None = None) -> HashList:
    """Read a list file (format by suffix: `.csv`, `.jsonl`, or `.age` with the key of `home`).

    Raises:
        GateError: malformed; the message has file and line number, never the entry.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise GateError(f"hash list {path.name}: suffix must be {', '.join(SUFFIXES)}")
    try:
        encrypted = suffix == sealed.SUFFIX
        text = sealed.read(path, home) if encrypted else path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GateError(f"hash list {path.name} is not readable text") from error
    read = _read_jsonl if suffix == ".jsonl" else _read_csv
    header, entries = read(path.name, text.splitlines())
    missing = [key for key in _HEADER_KEYS if not header.get(key)]
    if missing:
        raise GateError(f"hash list {path.name}: the header lacks {', '.join(missing)}")
    try:
        date = dt.date.fromisoformat(header["date"])
    except ValueError:
        raise GateError(f"hash list {path.name}: the header's date is not YYYY-MM-DD") from None
    loaded, pdq = HashList(header["provider"], header["version"], date), bytearray()
    for line, kind, value in entries:
        _add(loaded, pdq, kind.lower(), value, f"hash list {path.name} line {line}")
    loaded.pdq = np.frombuffer(bytes(pdq), np.uint8).reshape(-1, 32)
    if not len(loaded):
        raise GateError(f"hash list {path.name} has no entries")
    return loaded


def _add(target: HashList, pdq: bytearray, kind: str, value: str, where: str) -> None:
    size = 32 if kind == "pdq" else _EXACT_BYTES.get(kind)
    if size is None:
        raise GateError(f"{where}: unknown hash type (known: {', '.join(_EXACT_BYTES)}, pdq)")
    try:
        entry = bytes.fromhex(value)
    except ValueError:
        entry = b""
    if len(entry) != size or len(value) != 2 * size:
        raise GateError(f"{where}: not {2 * size} hex characters, as {kind} needs")
    if kind == "pdq":
        pdq += entry
    else:
        target.exact.setdefault(kind, set()).add(entry)


_Parsed = tuple[dict[str, str], list[tuple[int, str, str]]]


def _read_csv(name: str, lines: list[str]) -> _Parsed:
    header: dict[str, str] = {}
    body: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            key, _, value = line[1:].partition(":")
            header[key.strip().lower()] = value.strip()
        elif line.strip():
            try:
                body.append((number, [cell.strip() for cell in _cells(line)]))
            except csv.Error:  # a cell of 128 KiB; its text is not shown
                raise GateError(f"hash list {name} line {number}: not a row of CSV") from None
    if not body or body[0][1][:2] != ["type", "value"]:
        raise GateError(f"hash list {name}: the first row must be 'type,value'")
    for number, row in body:
        if len(row) < 2:
            raise GateError(f"hash list {name} line {number}: two columns are needed")
    return header, [(number, kind, value) for number, (kind, value, *_) in body[1:]]


def _cells(line: str) -> list[str]:
    plain = len(line) < 200 and '"' not in line  # nearly all: csv takes three times as long
    return line.split(",") if plain else next(csv.reader([line]))


def _read_jsonl(name: str, lines: list[str]) -> _Parsed:
    rows: list[tuple[int, dict[str, str]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise GateError(f"hash list {name} line {number}: not a JSON object") from None
        if rows and not {"type", "value"} <= row.keys():
            raise GateError(f"hash list {name} line {number}: type and value are needed")
        rows.append((number, {key: str(value) for key, value in row.items()}))
    header = rows[0][1] if rows else {}
    return header, [(number, row["type"].strip(), row["value"].strip()) for number, row in rows[1:]]
