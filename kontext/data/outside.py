"""Artifacts from outside meet the hash gate before a byte of them is in the store.

Whoever made them may have had other lists than we have, or none. Every picture in them is matched:
files, values of Parquet files, members of tars, and pictures that lie in a text. Latents are not
pictures any more and cannot be matched; what they were made of is.

Of each artifact it is proved, after the last of its pictures, that canaries are found where
pictures lie (in a table, a tar, a text), decoded, and stopped by the lists in force.
"""

import base64
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kontext.data.decode import decode_image
from kontext.data.decode.sniff import sniff
from kontext.data.forms import Crops, crop_probes, gated
from kontext.data.gating import Later
from kontext.data.outside_texts import prove_outside_texts, refused_text
from kontext.data.shards.write import map_file, tar_places
from kontext.engine.stage import section_of
from kontext.errors import CanaryError, DecodeError, GateError
from kontext.safety.edit_log import EditLog
from kontext.safety.hashes import GateResult, HashGate
from kontext.safety.ids import Check, Decision, Outcome, Reason
from kontext.safety.proof import failure, probes
from kontext.safety.texts import CANARIES, judged_by
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import parquet_bytes
from schemas.sections.data import IngestConfig

CHANGES_RESULTS = False  # lets artifacts in or keeps them out; no stage calls it

# base64 with the line breaks and escapes that JSON, CSS and addresses allow: what is called a
# picture, and what begins as a PNG, GIF, WebP or JPEG does
_CALLED = rb"(?i:data:image\\?/[^,\"']{1,200};\s*)(?:base|Base|BASE)64\s*(?:,|%2[Cc])\s*"
_BEGINS = rb"(?=iVBORw0KGgo|R0lGOD[dl]|UklGR|\\?/9j\\?/[247]|%2[Ff]9j%2[Ff][247]|_9j_[247])"
_EMBEDDED = re.compile(
    rb"(?:" + _CALLED + rb"|" + _BEGINS + rb")"
    rb"((?:[A-Za-z0-9+/_-]++|%2[BbFf]|\\[/nr]|[\r\n]++[ \t]*+)++)"
)
# one of these is in what the pattern finds, and each alone is looked for ten times faster
_HINTS = [
    re.compile(hint)
    for hint in (
        rb"base64", rb"Base64", rb"BASE64", rb"iVBORw0KGgo", rb"R0lGOD", rb"UklGR",
        rb"/9j\\?/", rb"%2F9j", rb"%2f9j", rb"_9j_",
    )
]  # fmt: skip
_ESCAPED = re.compile(rb"\\[nr]|[\\\s]")
_SMALLEST = 32  # bytes: no picture that we take has fewer
_ROWS, _HEAD = 256, 4096
_WEAK = ("bmp", "ppm")  # kinds that are told by two bytes
# nothing that a stage writes is packed, and what is packed cannot be looked at
_PACKED = (
    b"\x1f\x8b\x08", b"PK\x03\x04", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x04\x22\x4d\x18",
)  # fmt: skip
_TAR, _TYPE, _PLAIN, _MUCH = slice(257, 262), 156, b"0\0", 1 << 20
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def check_pictures(artifact: Artifact, gate: HashGate, log: EditLog | None = None) -> int:
    """Match every picture of an artifact and read its texts; how many pictures there were.

    Of an ingest artifact's, the crops that its recipe's sizes read are matched too.

    Args:
        log: where one that is on a list is written down, by its keyed id.

    Raises:
        GateError: a text is refused; or a picture is on a list, or cannot be decoded and so cannot
            be matched. The message names the artifact, never the picture. Or a file is packed, or
            no tar or table that can be read to its end.
        CanaryError: a canary is not stopped, so none of the pictures is known to be on no list.
    """
    count, crops = 0, None
    if artifact.stage == "ingest":
        crops = Crops.of(section_of(artifact.manifest, IngestConfig))
    ref = f"{artifact.stage}/{artifact.digest}"
    for name in artifact.names():
        for data in _pictures(f"{ref}: {name}", artifact.path(name)):
            try:
                found, pixels = _matched(data, gate, crops)
            except DecodeError as error:
                if sniff(data) in _WEAK:  # two bytes are no proof that it is a picture
                    continue
                raise GateError(f"{ref}: a picture cannot be checked ({error.reason})") from None
            count += 1
            if found.outcome is Outcome.DROP:
                if log is not None:
                    log.write([_hit(found, log.subject(pixels))], kind="import")
                raise GateError(f"{ref}: a picture is on a hash list; nothing was imported")
    for name in artifact.names():
        refused = refused_text(f"{ref}: {name}", artifact.path(name))
        if refused is not None:
            reason, text = refused
            if log is not None:
                log.write([_words(reason, log.subject(f"text {text}"))], kind="import")
            raise GateError(f"{ref}: a text is refused ({reason}); nothing was imported")
    try:
        _prove(gate, crops)
    except CanaryError:
        if log is not None:
            log.write([_broken(log.subject(f"import {ref}"))], kind="import")
        raise
    return count


def _matched(data: bytes, gate: HashGate, crops: Crops | None = None) -> tuple[GateResult, str]:
    """What the gate says of a picture, of its crops and of those behind it, and its pixel id.

    Raises DecodeError.
    """
    later = Later(gate)
    decoded = decode_image(data, resolution=None, background="#ffffff", later=later)
    found = later.hit or gate.check(data, decoded.rgb)
    if crops is not None:
        found = gated(gate, found, crops(decoded.rgb))[-1]
    return found, decoded.pixel_id


def _prove(gate: HashGate, crops: Crops | None) -> None:
    """Raise CanaryError unless every probe is found and stopped, as what comes is."""
    failed = []
    asked = (*probes(), *(crop_probes(crops) if crops else ()))
    for probe in asked:
        found, _ = _matched(probe.data, gate, crops)
        said = (found.provider, found.outcome, found.reason)
        if said != (probe.provider, Outcome.DROP, probe.reason):
            failed.append(probe.name)
    picture = probes()[0].data
    with tempfile.TemporaryDirectory() as folder:
        for name, data in _wrapped(picture).items():
            path = Path(folder, name)
            path.write_bytes(data)
            if list(_pictures(name, path)) != [picture]:
                failed.append(f"pictures in a {path.suffix[1:]}")
        prove_outside_texts(Path(folder, "a.parquet"), Path(folder, "a.tar"))
    if failed:
        total = len(asked) + len(_wrapped(picture))
        raise failure(failed, total - len(failed), total)


def _wrapped(data: bytes) -> dict[str, bytes]:
    """Files of each kind that pictures lie in, by name."""
    tar, said = io.BytesIO(), json.dumps({"instruction": CANARIES[0]}).encode()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, body in (("canary.tgt", data), ("canary.json", said)):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            file.addfile(member, io.BytesIO(body))
    page = b"<img src='data:image/png;base64," + base64.b64encode(data) + b"'>"
    table = parquet_bytes(pa.table({"canary": [data], "instruction": [CANARIES[-1]]}))
    return {"a.picture": data, "a.parquet": table, "a.tar": tar.getvalue(), "a.html": page}


def _words(reason: Reason, subject: str) -> Decision:
    check, drop = Check.TEXT_RULE, Outcome.DROP
    return Decision("text", subject, check, judged_by(), drop, reason, "texts/1")


def _broken(subject: str) -> Decision:
    check, error = Check.HASH_GATE, Outcome.ERROR
    return Decision("import", subject, check, "", error, Reason.GATE_ERROR, "hash-gate/1")


def _hit(found: GateResult, subject: str) -> Decision:
    check, drop = Check.HASH_GATE, Outcome.DROP
    return Decision("image", subject, check, found.provider, drop, found.reason, "hash-gate/1")


def _pictures(name: str, path: Path) -> Iterator[bytes]:
    """The bytes of every picture in a file, told by what it holds: its name is not trusted."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"PAR1") or name.endswith(".parquet"):
        try:
            yield from _cells(name, path)
        except (pa.ArrowException, OSError) as error:
            raise GateError(f"{name} is no table that can be read") from error
    elif head[_TAR] == b"ustar" or name.endswith(".tar"):
        yield from _members(name, map_file(path))
    elif head:
        yield from _inside(name, map_file(path))


def _inside(name: str, data: bytes | memoryview) -> Iterator[bytes]:
    """A picture, or the pictures that lie in a text as text."""
    if len(data) < _SMALLEST:
        return
    head = bytes(data[:_HEAD])
    kind = sniff(head)
    if head.startswith(_PACKED):
        raise GateError(f"{name} is packed: what is in it cannot be checked")
    if kind and kind != "svg":
        yield bytes(data)
    if kind is None or kind in (*_WEAK, "svg"):
        yield from _embedded(data)


def _members(name: str, data: memoryview) -> Iterator[bytes]:
    """Pictures in the members of a tar. Ours hold plain files and end in zeros."""
    end = 0
    try:
        for _, body, start, after in tar_places(data):
            if start != end or after > len(data) or data[start + _TYPE] not in _PLAIN:
                raise GateError(f"{name} holds more than plain files")
            yield from _inside(name, body)
            end = after
    except (tarfile.HeaderError, ValueError) as error:
        raise GateError(f"{name} is no tar that can be read") from error
    if any(bytes(data[at : at + _MUCH]).strip(b"\0") for at in range(end, len(data), _MUCH)):
        raise GateError(f"{name} holds more than plain files")


def _cells(name: str, path: Path) -> Iterator[bytes]:
    """Pictures in the values of a Parquet file, however deep, some rows at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS):
            for column in batch.columns:
                for cell in _values(column):
                    yield from _inside(name, cell)
        for text in (file.schema_arrow.metadata or {}).values():
            yield from _inside(name, text)


def _values(column: pa.Array) -> Iterator[bytes]:
    """Every value of a column that is bytes or text, in lists, structs and maps too."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        yield from _values(column.storage)
    elif pa.types.is_dictionary(kind):
        yield from _values(column.dictionary)
    elif pa.types.is_struct(kind):
        for part in column.flatten():
            yield from _values(part)
    elif pa.types.is_nested(kind):
        if pa.types.is_map(kind):
            yield from _values(column.keys)
            yield from _values(column.items)
        elif kind.value_type in (pa.uint8(), pa.int8()):  # bytes by another name
            yield from (np.asarray(c.values.fill_null(0)).tobytes() for c in column if c.is_valid)
        else:
            yield from _values(column.flatten())
    elif _is_bytes(kind):
        yield from (cell.as_buffer().to_pybytes() for cell in column if cell.is_valid)


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (
        "binary", "large_binary", "binary_view", "fixed_size_binary", "string", "large_string",
        "string_view",
    )  # fmt: skip
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _embedded(page: bytes | memoryview) -> Iterator[bytes]:
    """Pictures that lie in a text in base64."""
    if not any(hint.search(page) for hint in _HINTS):
        return
    for found in _EMBEDDED.finditer(page):
        text = re.sub(rb"%2[Ff]", b"/", re.sub(rb"%2[Bb]", b"+", found[1]))
        text = _ESCAPED.sub(b"", text).translate(_URL_SAFE)
        whole = len(text) - (len(text) % 4 == 1)  # words behind it may have been taken along
        data = base64.b64decode(text[:whole] + b"=" * (-whole % 4))
        if len(data) < _SMALLEST:
            continue
        kind = sniff(data)
        if kind == "svg":
            yield from _embedded(data)
        elif kind or found[0] != found[1]:
            yield data
