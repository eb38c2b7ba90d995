"""Proof that the hash gate works: canaries in the forms that real pictures come in.

Every chunk of ingest asks for it before a picture of it is written, every import before anything is
copied, every edit before it is handed out, and every sweep. Each probe needs another part of the
gate: exact hashes of each kind, PDQ after JPEG and after turning, the view without borders,
look-ups at low quality, later frames of an animation, and the operator's own lists. For the last
one, a list of canaries is read from a file just as an operator's are. Those for crops know the
recipe's sizes (`kontext.data.forms`).
"""

import datetime as dt
import hashlib
import io
import os
import secrets
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from kontext.errors import CanaryError
from kontext.safety.canaries import PROVIDER, canary_image, canary_png
from kontext.safety.classifiers.base import Pixels
from kontext.safety.hashes import OPERATOR, HashGate, HashList, load_hash_list
from kontext.safety.ids import Outcome, Reason
from kontext.safety.list_files import list_files
from kontext.safety.pdq import pdq_dihedral
from kontext.safety.texts import prove_texts
from schemas.sections.data import IngestConfig

LIST = "cache/canary-list.csv"  # in the home: written for every day, read as an operator's list
LATER = "later frames"  # the probe that lies behind the first picture of its file
_BY_SHA256, _BY_SHA1, _BY_MD5, _BY_PDQ, _INNOCENT = range(16, 21)  # canaries beyond the bank
_FIRST, _SECOND = 14, 15  # of the bank; a run injects others


class Probe(NamedTuple):
    """A file that the gate must stop, and what it must say."""

    name: str  # the part of the gate that it proves
    data: bytes
    provider: str  # list that must match
    reason: Reason


def proved_gate(config: IngestConfig, home: Path) -> HashGate:
    """The gate of an ingest section with the canaries' own list among the operator's.

    Raises GateError as `HashGate.from_config`, CanaryError where a list in force is not in it,
    or where text rules or classifier, which read what comes with pictures, do not work.
    """
    prove_texts()
    return whole_gate(config, home)


def whole_gate(config: IngestConfig, home: Path) -> HashGate:
    """The gate of an ingest section, with every list in force and the canaries' own one.

    Raises GateError as `HashGate.from_config`, CanaryError where a list in force is not in it.
    """
    own = config.model_copy(update={"hash_lists": (*config.hash_lists, str(_list_file(home)))})
    gate = HashGate.from_config(own, home)
    wanted = len(list_files(config.hash_lists, home))
    if len(gate.lists) != wanted + 2:  # the canary bank and the canaries' own list
        raise CanaryError(
            f"the hash gate holds not all of {wanted} hash lists: nothing of this run is kept"
        )
    return gate


@lru_cache(maxsize=1)
def probes() -> tuple[Probe, ...]:
    """All probes, made once per process."""
    first, second, listed = (canary_image(n) for n in (_FIRST, _SECOND, _BY_PDQ))
    turned = first.transpose(Image.Transpose.ROTATE_90)
    plain = ImageEnhance.Contrast(second).enhance(0.3)
    framed = ImageOps.expand(second, 26, (255, 255, 255))
    bank = {
        "PDQ after JPEG": as_file(first, "JPEG", quality=70),
        "PDQ after turning": as_file(turned, "JPEG", quality=80),
        "pictures with a border": as_file(framed, "PNG"),
        "pictures with little contrast": as_file(plain, "PNG"),
        LATER: animation([canary_image(_INNOCENT), first], "GIF"),
    }
    exact = {"SHA-256": _BY_SHA256, "SHA-1": _BY_SHA1, "MD5": _BY_MD5}
    own, sure = f"{OPERATOR}@1", Reason.HASH_MATCH
    return (
        *(Probe(name, data, PROVIDER, Reason.CANARY) for name, data in bank.items()),
        *(Probe(f"{n} of operators' lists", canary_png(c), own, sure) for n, c in exact.items()),
        # a gate that takes every picture for a plain one calls this a match of low quality
        Probe("PDQ of operators' lists", as_file(listed, "JPEG", quality=80), own, sure),
    )


def prove_gate(gate: HashGate) -> None:
    """See that a gate stops every probe as what it is listed for. Its bytes are decoded here.

    Raises CanaryError otherwise; also where the gate does not have the canaries' own list, since
    nobody can tell then whether it has an operator's.
    """
    failed = [probe.name for probe, seen in _decoded() if not _stops(gate, probe, seen)]
    if failed:
        raise failure(failed, len(probes()) - len(failed), len(probes()))


def listed_canary() -> Pixels:
    """The picture whose PDQ hash is on the canaries' own list: uint8 [H, W, 3]."""
    return np.asarray(canary_image(_BY_PDQ))


def canary_list() -> HashList:
    """The canaries' own list, as it is read from a file: for a gate that has no home."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(LIST).name)
        path.write_text(_list_text(dt.date.today()), "utf-8")
        return load_hash_list(path)


def failure(failed: Sequence[str], stopped: int, expected: int) -> CanaryError:
    """The error of a gate that let canaries through; `failed` are the names of probes."""
    said = f"not stopped: {', '.join(failed)}; " if failed else ""
    return CanaryError(
        f"{said}the hash gate stopped {stopped} of {expected} canaries: nothing of this run is kept"
    )


def animation(frames: Sequence[Image.Image], kind: str) -> bytes:
    """A file of several pictures, each shown for a second."""
    return as_file(frames[0], kind, save_all=True, append_images=frames[1:], duration=1000, loop=0)


def _stops(gate: HashGate, probe: Probe, seen: Pixels) -> bool:
    later = probe.name == LATER
    found = gate.check_pixels(seen) if later else gate.check(probe.data, seen)
    said = (found.provider, found.outcome, found.reason)
    return said == (probe.provider, Outcome.DROP, probe.reason)


@lru_cache(maxsize=1)
def _decoded() -> tuple[tuple[Probe, Pixels], ...]:
    """Each probe with its pixels uint8 [H, W, 3]; of an animation those of the second frame."""
    found = []
    for probe in probes():
        with Image.open(io.BytesIO(probe.data)) as image:
            image.seek(int(probe.name == LATER))
            found.append((probe, np.asarray(image.convert("RGB"))))
    return tuple(found)


def as_file(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file of a picture, in a format that Pillow names."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _list_file(home: Path) -> Path:
    """The canaries' own list, dated today: whole or not at all."""
    path, text = home / LIST, _list_text(dt.date.today())
    if not path.exists() or path.read_text("utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        draft.write_text(text, "utf-8")
        draft.replace(path)
    return path


@lru_cache(maxsize=1)
def _list_text(today: dt.date) -> str:
    hashes, _ = pdq_dihedral(np.asarray(canary_image(_BY_PDQ)))
    rows = [
        f"sha256,{hashlib.sha256(canary_png(_BY_SHA256)).hexdigest()}",
        f"sha1,{hashlib.sha1(canary_png(_BY_SHA1)).hexdigest()}",
        f"md5,{hashlib.md5(canary_png(_BY_MD5)).hexdigest()}",
        f"pdq,{hashes[0].tobytes().hex()}",
    ]
    head = [f"# provider: {OPERATOR}", "# version: 1", f"# date: {today}", "type,value"]
    return "\n".join([*head, *rows]) + "\n"
