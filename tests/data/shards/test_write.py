import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.shards.write import ShardSample, ShardSet, tar_members, write_shards


def sample(number: int, contexts: int = 1) -> ShardSample:
    pair_id = hashlib.sha256(f"pair{number}".encode()).hexdigest()
    ids = tuple(f"image{number}-{i}" for i in range(contexts))
    return ShardSample(pair_id, ids, f"target{number}", {"pair_id": pair_id, "n": number, "é": "ü"})


def png(pixel_id: str) -> bytes:
    return b"\x89PNG" + pixel_id.encode() * 37


def write(folder: Path, numbers: list[int], size: int = 4, split: str = "train") -> ShardSet:
    folder.mkdir(exist_ok=True)
    shards = ShardSet()
    samples = [sample(n, contexts=n % 3) for n in numbers]
    write_shards(samples, split, folder, size, png, shards)
    return shards


def test_the_webdataset_library_reads_them(tmp_path: Path) -> None:
    shards = write(tmp_path, list(range(10)))
    assert [path.name for path in shards.paths] == [f"train-{i:05d}.tar" for i in range(3)]
    urls = [str(path) for path in shards.paths]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    expected = sorted((sample(n, n % 3) for n in range(10)), key=lambda s: s.pair_id)
    assert [row["__key__"] for row in read] == [s.pair_id[:32] for s in expected]
    for row, wanted in zip(read, expected, strict=True):
        assert json.loads(row["json"]) == wanted.record
        assert row["tgt.png"] == png(wanted.target_id)
        contexts = {name: row[name] for name in row if name.startswith("ctx")}
        assert contexts == {f"ctx{i}.png": png(c) for i, c in enumerate(wanted.context_ids)}


def test_same_pairs_same_bytes_in_any_order(tmp_path: Path) -> None:
    first = write(tmp_path / "a", list(range(9)))
    second = write(tmp_path / "b", list(reversed(range(9))))
    assert [p.read_bytes() for p in first.paths] == [p.read_bytes() for p in second.paths]
    assert first.shards == second.shards and first.members == second.members


def test_the_bytes_stay_what_they_were(tmp_path: Path) -> None:
    shards = write(tmp_path, list(range(10)))
    digests = [row["sha256"][:16] for row in shards.shards]
    assert digests == ["bca87b325dc175b8", "e9c5eba64a7f83e2", "39a9c9a8a5bf592d"] and [
        row["bytes"] for row in shards.shards
    ] == [13312, 14336, 5120]


def test_headers_hold_nothing_of_time_or_user(tmp_path: Path) -> None:
    (path, *_) = write(tmp_path, [1, 2, 3]).paths
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
            assert (member.uname, member.gname, member.mode) == ("", "", 0o644)
        names = tar.getnames()
    assert names == sorted(names)
    assert path.read_bytes()[257:263] == b"ustar\0"


def test_rows_describe_the_files(tmp_path: Path) -> None:
    shards = write(tmp_path, list(range(6)))
    table, members = shards.tables()
    assert members.num_rows == 6 and len(set(table["shard_id"].to_pylist())) == 2
    for row, path in zip(table.to_pylist(), shards.paths, strict=True):
        data = path.read_bytes()
        assert (row["name"], row["bytes"]) == (path.name, len(data))
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        keys = [
            m["pair_id"][:32]
            for m in shards.tables()[1].to_pylist()
            if m["shard_id"] == row["shard_id"]
        ]
        assert (row["first_key"], row["last_key"], row["samples"]) == (keys[0], keys[-1], len(keys))


def test_ranged_reads_find_each_sample(tmp_path: Path) -> None:
    shards = write(tmp_path, list(range(5)), size=100)
    data = shards.paths[0].read_bytes()
    for member in shards.tables()[1].to_pylist():
        start, length = member["offset_bytes"], member["length_bytes"]
        found = dict(tar_members(data[start : start + length]))
        places = {f["name"]: (f["offset_bytes"], f["length_bytes"]) for f in member["files"]}
        assert {f"{member['pair_id'][:32]}.{name}" for name in places} == set(found)
        for name, (first, size) in places.items():
            assert data[first : first + size] == found[f"{member['pair_id'][:32]}.{name}"]
        record = next(bytes(v) for k, v in found.items() if k.endswith(".json"))
        assert json.loads(record)["pair_id"] == member["pair_id"]


def test_a_sample_that_lies_in_another_shard_is_copied_with_its_headers(tmp_path: Path) -> None:
    there = write(tmp_path / "there", [0, 1, 4, 5, 8])
    lying = {}
    for row in there.tables()[1].to_pylist():
        (path,) = [p for p, s in zip(there.paths, there.shards, strict=True)
                   if s["shard_id"] == row["shard_id"]]  # fmt: skip
        start, length = row["offset_bytes"], row["length_bytes"]
        lying[row["pair_id"]] = memoryview(path.read_bytes())[start : start + length]
    fresh, copied = write(tmp_path / "fresh", list(range(9))), ShardSet()
    samples = [sample(n, contexts=n % 3) for n in range(9)]
    samples = [replace(one, packed=lying.get(one.pair_id)) for one in samples]
    assert sum(one.packed is not None for one in samples) == 5
    asked: set[str] = set()

    def of_new(pixel_id: str) -> bytes:
        asked.add(pixel_id)
        return png(pixel_id)

    (tmp_path / "copied").mkdir()
    write_shards(samples, "train", tmp_path / "copied", 4, of_new, copied)
    assert [p.read_bytes() for p in copied.paths] == [p.read_bytes() for p in fresh.paths]
    assert copied.shards == fresh.shards and copied.members == fresh.members
    assert asked == {i for one in samples if not one.packed
                     for i in (*one.context_ids, one.target_id)}  # fmt: skip


def test_shard_names_tell_their_content(tmp_path: Path) -> None:
    one = write(tmp_path / "a", [1, 2]).shards[0]["shard_id"]
    assert one == write(tmp_path / "b", [2, 1]).shards[0]["shard_id"]
    assert one != write(tmp_path / "c", [1, 3]).shards[0]["shard_id"]
    assert one != write(tmp_path / "d", [1, 2], split="test").shards[0]["shard_id"]


def test_no_pairs_no_files(tmp_path: Path) -> None:
    assert write(tmp_path, []).paths == []


names = st.text("abcdef0123456789._", min_size=1, max_size=60).filter(lambda n: n.strip("."))
members = st.dictionaries(names, st.binary(max_size=1500), max_size=8)


@settings(max_examples=60)
@given(members)
def test_tar_members_are_those_that_the_standard_library_wrote(files: dict[str, bytes]) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, body in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    assert {name: bytes(body) for name, body in tar_members(packed.getvalue())} == files
