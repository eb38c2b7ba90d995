"""Artifacts from outside meet the hash gate before a byte of them is in the store.

Whoever made them may have had other lists than we have, or none. Every picture in them is matched:
files, columns of Parquet files, members of tars, and pictures inside of HTML pages. Latents are not
pictures any more and cannot be matched; what they were made of is.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kontext.data.decode import decode_image
from kontext.data.decode.sniff import sniff
from kontext.data.shards.write import map_file, tar_members
from kontext.errors import DecodeError, GateError
from kontext.safety.hashes import HashGate
from kontext.safety.ids import Outcome
from kontext.store.artifacts.artifact_store import Artifact

CHANGES_RESULTS = False  # lets artifacts in or keeps them out; no stage calls it

_EMBEDDED = re.compile(rb"data:image/[a-z+]+;base64,([A-Za-z0-9+/=]+)")
_ROWS, _HEAD = 256, 4096
_WEAK = ("bmp", "ppm")  # kinds that are told by two bytes


def check_pictures(artifact: Artifact, gate: HashGate) -> int:
    """Match every picture of an artifact; how many there were.

    Raises:
        GateError: one is on a list, or cannot be decoded and so cannot be matched. The message
            names the artifact, never the picture.
    """
    count = 0
    ref = f"{artifact.stage}/{artifact.digest}"
    for name in artifact.names():
        for data in _pictures(name, artifact.path(name)):
            try:
                decoded = decode_image(data, resolution=None, background="#ffffff")
            except DecodeError as error:
                if sniff(data) in _WEAK:  # two bytes are no proof that it is a picture
                    continue
                raise GateError(f"{ref}: a picture cannot be checked ({error.reason})") from None
            count += 1
            if gate.check(data, decoded.rgb).outcome is Outcome.DROP:
                raise GateError(f"{ref}: a picture is on a hash list; nothing was imported")
    return count


def _pictures(name: str, path: Path) -> Iterator[bytes]:
    """The bytes of every picture in a file."""
    if name.endswith(".parquet"):
        yield from filter(sniff, _cells(path))
    elif name.endswith(".tar"):
        yield from filter(sniff, (bytes(body) for _, body in tar_members(map_file(path))))
    elif name.endswith(".html"):
        yield from _embedded(path.read_bytes())
    else:
        with path.open("rb") as file:
            kind = sniff(file.read(_HEAD))
        if kind == "svg":
            yield from _embedded(path.read_bytes())
        elif kind:
            yield path.read_bytes()


def _cells(path: Path) -> Iterator[bytes]:
    """Binary values of a Parquet file, some rows at a time."""
    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    names = [
        f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)
    ]
    for batch in file.iter_batches(_ROWS, columns=names) if names else ():
        for column in batch.columns:
            yield from (cell.as_py() for cell in column if cell.is_valid)


def _embedded(page: bytes) -> Iterator[bytes]:
    for found in _EMBEDDED.finditer(page):
        try:
            yield base64.b64decode(found[1], validate=True)
        except binascii.Error as error:
            raise GateError("a page holds a picture that cannot be read") from error
