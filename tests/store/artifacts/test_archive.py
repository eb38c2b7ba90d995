"""What a tar file may write: files below its own folder, and nothing else."""

import io
import tarfile
from pathlib import Path

import pytest

from kontext.errors import ArtifactError
from kontext.store.artifacts.archive import unpack


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


@pytest.mark.parametrize(
    "bad",
    [
        named("../evil"),
        named("blobs/../../evil"),
        named("/tmp/evil"),
        named("blobs/link", tarfile.SYMTYPE, "/etc/passwd"),
        named("blobs/hard", tarfile.LNKTYPE, "../evil"),
        named("blobs/pipe", tarfile.FIFOTYPE),
        named("blobs/device", tarfile.CHRTYPE),
    ],
    ids=lambda member: member.name,
)
def test_what_would_leave_the_folder_is_refused_before_anything_is_written(
    tmp_path: Path, bad: tarfile.TarInfo
) -> None:
    with (
        tarfile.open(written(tmp_path / "a.tar", named("blobs/good"), bad)) as tar,
        pytest.raises(ArtifactError, match="is no file below"),
    ):
        unpack(tar, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "evil").exists()
