"""What a tar file may write: files below its own folder, and nothing else."""

import io
import lzma
import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest

from kontext.errors import ArtifactError
from kontext.store.artifacts.archive import open_exported, unpack


def written(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            member.size = 3 if member.isfile() else 0
            tar.addfile(member, io.BytesIO(b"abc") if member.isfile() else None)
    return path


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_files_come_out_with_their_folders(tmp_path: Path) -> None:
    folder, again = named("runs", tarfile.DIRTYPE), named("c", tarfile.LNKTYPE, "runs/a/b.json")
    with tarfile.open(written(tmp_path / "a.tar", folder, named("runs/a/b.json"), again)) as tar:
        unpack(tar, tmp_path / "out")
    file = tmp_path / "out/runs/a/b.json"
    assert file.read_bytes() == b"abc" and file.samefile(tmp_path / "out/c")


EVIL = {
    "above": [named("../evil")],
    "back": [named("blobs/../../evil")],
    "absolute": [named("/tmp/evil")],
    "link": [named("blobs/link", tarfile.SYMTYPE, "/etc/passwd")],
    "folder link": [named("blobs/a", tarfile.SYMTYPE, "/tmp"), named("blobs/a/evil")],
    "link outside": [named("blobs/hard", tarfile.LNKTYPE, "../evil")],
    "link to itself": [named("blobs/hard", tarfile.LNKTYPE, "blobs/hard")],
    "link before": [named("blobs/a", tarfile.LNKTYPE, "blobs/b"), named("blobs/b")],
    "pipe": [named("blobs/pipe", tarfile.FIFOTYPE)],
    "device": [named("blobs/device", tarfile.CHRTYPE)],
    "pax path": [named("blobs/fine")],
    "zero byte": [named("blobs/fine")],
    "twice": [named("blobs/a"), named("blobs/./a")],
    "over a link": [named("blobs/b", tarfile.LNKTYPE, "blobs/good"), named("blobs/b")],
    "link over": [named("blobs/b"), named("blobs/b", tarfile.LNKTYPE, "blobs/good")],
    "file over folder": [named("blobs/a/b"), named("blobs/a")],
    "folder over file": [named("blobs/a"), named("blobs/a/b")],
    "folder again": [named("blobs/a"), named("blobs/a", tarfile.DIRTYPE)],
}
EVIL["pax path"][0].pax_headers = {"path": "../evil"}
EVIL["zero byte"][0].pax_headers = {"path": "blobs/a\0b"}


@pytest.mark.parametrize("bad", EVIL.values(), ids=EVIL)
def test_what_would_leave_the_folder_is_refused_before_anything_is_written(
    tmp_path: Path, bad: list[tarfile.TarInfo]
) -> None:
    with (
        tarfile.open(written(tmp_path / "a.tar", named("blobs/good"), *bad)) as tar,
        pytest.raises(ArtifactError, match=r"is no file below|is twice in|is a file and a folder"),
    ):
        unpack(tar, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "evil").exists()


def test_a_file_with_holes_is_refused(tmp_path: Path) -> None:
    """4 GiB of nothing, in the header of an old GNU tar."""
    header = bytearray(named("blobs/holes", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" * 2
    header[483:495] = b"%011o\0" % (1 << 32)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header) + bytes(1024))
    with tarfile.open(path) as tar, pytest.raises(ArtifactError, match=r"is no file below"):
        unpack(tar, tmp_path / "out")


def test_more_than_there_is_room_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(5))
    path = written(tmp_path / "a.tar", named("blobs/a"), named("blobs/b"))
    with tarfile.open(path) as tar, pytest.raises(ArtifactError, match="room for"):
        unpack(tar, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def header(kind: bytes, size: int) -> bytes:
    info = named("x", kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def broken(path: Path) -> dict[str, bytes]:
    """Files that are no whole tar, each in a way for which tarfile has another error."""
    odd = named("blobs/a")
    odd.pax_headers = {"GNU.sparse.map": "a,b", "GNU.sparse.name": "x", "GNU.sparse.size": "9"}
    large = written(path, *(named(f"blobs/{number}") for number in range(200))).read_bytes()
    packed = bytearray(lzma.compress(large))
    packed[-200] ^= 255
    return {
        "empty": b"",
        "no tar": b"what is this?" * 100,
        "cut off": large[:2000],
        "cut off in a header": large[:2100],
        "cut off between files": large[:2048],
        "packed, damaged": bytes(packed),
        "holes that are no numbers": written(path, odd).read_bytes(),
        "larger than any memory": header(tarfile.XHDTYPE, 1 << 50) + bytes(1024),
        "larger than any number": header(tarfile.GNUTYPE_LONGNAME, 1 << 66) + bytes(1024),
        "deeper than any stack": header(tarfile.XHDTYPE, 0) * 3000 + bytes(1024),
        "a name too long": written(path, named("blobs/" + "x" * 300)).read_bytes(),
    }


BROKEN = ["empty", "no tar", "cut off", "cut off in a header", "cut off between files",
          "packed, damaged", "holes that are no numbers", "larger than any memory",
          "larger than any number", "deeper than any stack",
          "a name too long"]  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_no_tar_is_said_in_a_line(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(broken(tmp_path / "made.tar")[how])
    refused = pytest.raises(ArtifactError, match=r"^cannot read .*a\.tar: .+\Z")
    with refused as said, open_exported(str(path), tmp_path / "scratch"):
        pass
    assert "scratch" not in str(said.value) and not list((tmp_path / "scratch").iterdir())
