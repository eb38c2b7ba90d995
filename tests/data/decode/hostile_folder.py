"""The corpus as a folder: good files, bad files, and entries that are no files at all."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from kontext.data.sources.base import LARGEST
from tests.data.decode.hostile_bad import bad_files
from tests.data.decode.hostile_good import Good, good_files
from tests.data.decode.hostile_parts import image, saved
from tests.data.decode.hostile_rare import rare_files


def make(folder: Path) -> tuple[dict[str, Good], dict[str, str]]:
    """Write all of it. Returns what has to be kept, and name -> reason of all that has not."""
    good = {f"good/{one.name}": one for one in (*good_files(), *rare_files())}
    for name, file in good.items():
        _write(folder / name, file.data)
    reasons = {}
    for bad in bad_files():
        _write(folder / f"bad/{bad.name}", bad.data)
        reasons[f"bad/{bad.name}"] = str(bad.reason)
    exact = [file for name, file in good.items() if "misnamed" in name]
    for number, file in enumerate(exact[::4]):
        # the same pixels once more: the first in path order is kept
        _write(folder / f"zz/{number}.png", saved_again(file))
        reasons[f"zz/{number}.png"] = "duplicate"
    with (folder / "bad/sparse.mov").open("wb") as sparse:
        sparse.truncate(20 << 30)
    with (folder / "bad/sparse.png").open("wb") as sparse:
        sparse.write(image_bytes())
        sparse.truncate(LARGEST + 1)
    reasons |= {"bad/sparse.mov": "too_many_bytes", "bad/sparse.png": "too_many_bytes"}
    reasons |= dict(_entries(folder / "entries", folder.parent / "outside"))
    return good, reasons


def saved_again(file: Good) -> bytes:
    return saved(Image.fromarray(file.rgb), "png")


def image_bytes() -> bytes:
    return saved(image(9), "png")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _entries(folder: Path, outside: Path) -> Iterator[tuple[str, str]]:
    """(name in the corpus, reason) of every entry that is no picture of ours."""
    data = image_bytes()
    for name in (".hidden.png", ".git/a.png", "._resource.jpg"):
        _write(folder / name, data)
        yield f"entries/{name.split('/')[0]}", "hidden"
    for name in ("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/a.png", "Thumbs.db", "desktop.ini",
                 "deeper/@eaDir/b.png", "$RECYCLE.BIN/c.png"):  # fmt: skip
        _write(folder / name, data)
        parts = name.split("/")
        yield f"entries/{'/'.join(parts[: 1 + (parts[0] == 'deeper')])}", "junk"
    _write(outside / "private.png", data)
    links = {
        "out.png": (outside / "private.png", "link_outside"),
        "out": (outside, "link_outside"),
        "passwd.png": ("/etc/passwd", "link_outside"),
        "device.png": ("/dev/zero", "link_outside"),
        "process.png": ("/proc/self/mem", "link_outside"),
        "up": ("..", "not_regular"),
        "here": (".", "not_regular"),
        "self.png": ("self.png", "link_loop"),
        "one.png": ("two.png", "link_loop"),
        "two.png": ("one.png", "link_loop"),
        "gone.png": ("nowhere.png", "link_broken"),
        "far.png": ("x" * 300, "link_loop"),  # no such name can be
    }
    for name, (target, reason) in links.items():
        (folder / name).symlink_to(target)
        yield f"entries/{name}", reason
    os.mkfifo(folder / "pipe.png")
    yield "entries/pipe.png", "not_regular"
    _socket(folder / "socket.png")
    yield "entries/socket.png", "not_regular"
    for name in (
        b"caf\xe9.png",
        b"\x93\xfa\x96{.jpg",
        b"\xff\xfe.png",
        b"a\xc0\xaf.png",
        b"\xed\xa0\x80",
    ):
        _write(folder / os.fsdecode(name), data)
        text = os.fsdecode(name).encode("utf-8", "backslashreplace").decode()
        yield f"entries/{text}", "undecodable_name"
    _write(folder / os.fsdecode(b"folder\xe9/a.png"), data)
    yield "entries/folder\\udce9", "undecodable_name"
    if os.geteuid():  # nothing is denied to root
        _write(folder / "locked/a.png", data)
        (folder / "locked").chmod(0)
        _write(folder / "mine.png", data)
        (folder / "mine.png").chmod(0)
        yield from (("entries/locked", "denied"), ("entries/mine.png", "denied"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        folder = os.open(path.parent, os.O_RDONLY)  # a socket's name has 107 bytes at most
        try:
            opened.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
