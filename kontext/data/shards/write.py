"""Deterministic WebDataset shards: the same pairs give the same bytes, on any machine.

webdataset's TarWriter writes them: USTAR, mtime 0, uid and gid 0, no names of users, samples in
pair-id order, members in name order. An archive ends with two empty blocks, without more padding.
A sample's key is the first 32 characters of its pair id; its members are `.ctx0.png` (one per
context), `.json` and `.tgt.png`. The PNG bytes are those that ingest stored.
"""

import hashlib
import json
import mmap
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from kontext.store.objects import sha256_file
from schemas.tables import SHARD_MEMBERS, SHARDS

BLOCK = 512
KEY_LENGTH = 32
Record = dict[str, Any]


@dataclass(frozen=True)
class ShardSample:
    """One pair on its way into a shard. `record` becomes the JSON member."""

    pair_id: str
    context_ids: tuple[str, ...]
    target_id: str
    record: Record
    packed: memoryview | None = None  # where another shard holds just this sample: its bytes there

    @property
    def key(self) -> str:
        """Sample key inside the shard: hexadecimal, so it holds no dot."""
        return self.pair_id[:KEY_LENGTH]

    @property
    def text(self) -> bytes:
        """The JSON member."""
        text = json.dumps(self.record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return text.encode()

    def members(self, png: Callable[[str], bytes]) -> dict[str, str | bytes]:
        """What webdataset writes: the bytes of every member by its suffix, and `__key__`."""
        return {
            "__key__": self.key,
            "json": self.text,
            "tgt.png": png(self.target_id),
            **{f"ctx{i}.png": png(pixel_id) for i, pixel_id in enumerate(self.context_ids)},
        }


@dataclass
class ShardSet:
    """Shards written so far: local paths, the rows of SHARDS, and SHARD_MEMBERS of each."""

    paths: list[Path] = field(default_factory=list)
    shards: list[Record] = field(default_factory=list)
    members: list[pa.Table] = field(default_factory=list)

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """(shards, shard_members)."""
        members = pa.concat_tables([SHARD_MEMBERS.empty_table(), *self.members])
        return pa.Table.from_pylist(self.shards, SHARDS), members.combine_chunks()


def write_shards(
    samples: Iterable[ShardSample],
    split: str,
    folder: Path,
    max_pairs: int,
    png: Callable[[str], bytes],
    into: ShardSet,
) -> None:
    """Write `split-00000.tar` and so on into `folder`, at most `max_pairs` samples each.

    A list is sorted by pair id. What comes one by one is in that order already, and only one
    shard's samples are held.
    """
    in_order = sorted(samples, key=_pair_id) if isinstance(samples, Sequence) else samples
    rest, last = iter(in_order), ""
    for number in count():
        shard = list(islice(rest, max_pairs))
        if not shard:
            return
        ids = [last, *map(_pair_id, shard)]
        assert ids == sorted(ids), "pairs are not in the order of their ids"
        _write_shard(shard, split, folder / f"{split}-{number:05d}.tar", png, into)
        last = ids[-1]


def _pair_id(sample: ShardSample) -> str:
    return sample.pair_id


def _write_shard(
    samples: Sequence[ShardSample],
    split: str,
    path: Path,
    png: Callable[[str], bytes],
    into: ShardSet,
) -> None:
    keys = [sample.key for sample in samples]
    assert len(set(keys)) == len(keys), "two pairs share a key"
    ids = "\n".join(sample.pair_id for sample in samples)
    shard_id = hashlib.sha256(f"{split}\n{ids}".encode()).hexdigest()[:KEY_LENGTH]
    places = _write_tar(path, samples, png)
    rows = [
        {"shard_id": shard_id, "pair_id": sample.pair_id, **place}
        for sample, place in zip(samples, places, strict=True)
    ]
    into.members.append(pa.Table.from_pylist(rows, SHARD_MEMBERS))
    into.paths.append(path)
    into.shards.append(
        {
            "shard_id": shard_id,
            "split": split,
            "name": path.name,
            "sha256": sha256_file(path),
            "bytes": path.stat().st_size,
            "samples": len(samples),
            "first_key": keys[0],
            "last_key": keys[-1],
        }
    )


def _write_tar(
    path: Path, samples: Iterable[ShardSample], png: Callable[[str], bytes]
) -> list[Record]:
    """Write samples as webdataset does; returns where each one's bytes lie.

    A place has `offset_bytes` and `length_bytes` of the sample with its headers, and the same with
    `name` for the bytes of each of its `files`.
    """
    from webdataset import TarWriter

    places = []
    with path.open("wb") as file:
        writer = TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False)
        tar = writer.tarstream
        for sample in samples:
            start = tar.offset
            if sample.packed is None:
                members = sample.members(png)
                writer.write(members)
                files = _files(members, start)
            else:  # headers and padding too, as the same writer wrote them
                tar.fileobj.write(bytes(sample.packed))
                tar.offset += len(sample.packed)
                files = _packed_files(sample.packed, start)
            place = {"offset_bytes": start, "length_bytes": tar.offset - start}
            places.append({**place, "files": files})
        size = tar.offset + 2 * BLOCK
        writer.close()
        file.truncate(size)  # tarfile fills up to 10 KiB
    return places


def _files(members: Mapping[str, str | bytes], start: int) -> list[Record]:
    found = []
    for name in sorted(set(members) - {"__key__"}):
        size = len(members[name])
        found.append({"name": name, "offset_bytes": start + BLOCK, "length_bytes": size})
        start += BLOCK + size + -size % BLOCK
    return found


def _packed_files(packed: memoryview, start: int) -> list[Record]:
    return [
        {
            "name": name.partition(".")[2],
            "offset_bytes": start + header + BLOCK,
            "length_bytes": len(body),
        }
        for name, body, header, _ in tar_places(packed)
    ]


def map_file(path: Path) -> memoryview:
    """The bytes of a file that is not empty, read from disk where they are looked at."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def tar_members(data: bytes | memoryview) -> Iterator[tuple[str, memoryview]]:
    """(name, bytes) of the regular files in a shard, or in a sample's byte range of one."""
    for name, body, _, _ in tar_places(data):
        yield name, body


def tar_places(data: bytes | memoryview) -> Iterator[tuple[str, memoryview, int, int]]:
    """`tar_members` with the byte where each file's header starts and where its padding ends."""
    view, offset = memoryview(data), 0
    while offset + BLOCK <= len(view):
        header = bytes(view[offset : offset + BLOCK])
        if not header[0] and not header.strip(b"\0"):
            return
        name, size, regular = _parsed(header)
        start = offset + BLOCK
        end = start + size + -size % BLOCK
        if regular:
            yield name, view[start : start + size], offset, end
        offset = end


def tar_samples(
    data: bytes | memoryview,
) -> Iterator[tuple[str, dict[str, memoryview], int, int]]:
    """Key, members by suffix, first byte and end of a shard's samples, as in any WebDataset."""
    for key, group in groupby(tar_places(data), lambda place: place[0].partition(".")[0]):
        places = list(group)
        members = {name.partition(".")[2]: body for name, body, _, _ in places}
        yield key, members, places[0][2], places[-1][3]


_ADLER = 65521


def _sum(data: bytes) -> int:
    """Sum of the bytes modulo 65521: the lower half of Adler-32, which starts at 1."""
    return ((zlib.adler32(data) & 0xFFFF) - 1) % _ADLER


def _parsed(header: bytes) -> tuple[str, int, bool]:
    """(name, size, whether a regular file); of our own headers without tarfile, ten times faster.

    Raises:
        tarfile.HeaderError: the header's checksum is wrong.
    """
    ours = header[156:157] == b"0" and header[257:265] == b"ustar\x0000" and not header[345]
    if not ours or _sum(header[:148] + b" " * 8 + header[156:]) != int(header[148:154], 8) % _ADLER:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        return info.name, info.size, info.isreg()
    return header[:100].rstrip(b"\0").decode(), int(header[124:135], 8), True
