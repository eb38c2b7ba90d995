"""A listed picture in each way in, in five forms: it is stopped, and nothing of it is left.

The listed picture is a benign canary that is on an operator's list alone. All files below home,
store and the temporary folder are searched for its bytes, hashes, pixels and name, and so are the
log and what a run shows.
"""

import base64
import datetime as dt
import hashlib
import io
import logging
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from kontext.data.layouts.bucket_object import bucket
from kontext.data.outside import check_pictures
from kontext.data.sources import external
from kontext.data.sources.bucket import BucketSource
from kontext.data.sources.folder import FolderSource
from kontext.data.sources.pairs import PairsSource
from kontext.data.sources.video import VideoSource
from kontext.engine.remake import import_artifacts
from kontext.errors import GateError
from kontext.safety.canaries import canary_image
from kontext.safety.hashes import HashGate
from kontext.safety.pdq import pdq_dihedral
from kontext.safety.proof import animation
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.objects import open_store
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig
from tests.data.layouts.files import lines, parquet, put
from tests.data.layouts.test_webdataset import tar_bytes
from tests.data.pictures import scene_png
from tests.data.videos import write
from tests.data.web_server import Give, web
from tests.safety.traces import Traces
from tests.stages.stage_harness import Harness

LISTED = 30  # of no bank
NAME = "secretname"
SAID = "a secretsaying about it"
GOOD = [scene_png(number, 64) for number in range(8)]
Sources = tuple[object, ...]


def forms() -> dict[str, bytes]:
    """The listed picture as it comes."""
    image = canary_image(LISTED)
    innocent = canary_image(LISTED + 1)
    return {
        "plain.png": saved(image, "PNG"),
        "repacked.jpg": saved(image, "JPEG", quality=70),
        "framed.png": saved(ImageOps.expand(image, 24, (255, 255, 255)), "PNG"),
        "second.gif": animation([innocent, image], "GIF"),
        "pale.png": saved(ImageEnhance.Contrast(image).enhance(0.3), "PNG"),
    }


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


FORMS = {f"{NAME}-{name}": data for name, data in forms().items()}


@contextmanager
def folder(root: Path) -> Iterator[Sources]:
    put(
        root, {**FORMS, "one.png": GOOD[0], f"house/a__mood={NAME}.png": FORMS[f"{NAME}-plain.png"]}
    )
    yield (FolderSource(path=str(root), license_spdx="CC0-1.0"),)


@contextmanager
def paired_folders(root: Path) -> Iterator[Sources]:
    files: dict[str, bytes | str | int] = {
        "source/one.png": GOOD[0], "target/one.png": GOOD[1], "target/one.txt": "make it warm",
    }  # fmt: skip
    for number, (name, data) in enumerate(FORMS.items()):
        stem = name.partition(".")[0]
        files |= {f"source/{stem}.png": GOOD[2 + number], f"target/{name}": data}
        files[f"target/{stem}.txt"] = SAID
    yield (PairsSource(path=str(put(root, files))),)


@contextmanager
def reference(root: Path) -> Iterator[Sources]:
    """A further picture beside the one that is edited."""
    files: dict[str, bytes | str | int] = {}
    for number, (name, data) in enumerate({**FORMS, "one.png": GOOD[7]}.items()):
        stem = name.partition(".")[0]
        files |= {f"source/{stem}.png": GOOD[number], f"target/{stem}.png": scene_png(20 + number)}
        files |= {f"reference/{name}": data, f"target/{stem}.txt": SAID if number < 5 else "warm"}
    yield (PairsSource(path=str(put(root, files))),)


@contextmanager
def table(root: Path) -> Iterator[Sources]:
    cells = [{"bytes": data, "path": name} for name, data in FORMS.items()]
    rows = [
        {"source": {"bytes": GOOD[n], "path": f"{n}.png"}, "target": cell, "instruction": SAID}
        for n, cell in enumerate(cells)
    ]
    good = {"source": {"bytes": GOOD[6], "path": "6"}, "target": {"bytes": GOOD[7], "path": "7"}}
    rows.append({**good, "instruction": "warm"})
    path = parquet(root / "rows.parquet", rows, ("source", "target"))
    yield (PairsSource(path=str(path)),)


@contextmanager
def tar(root: Path) -> Iterator[Sources]:
    members: list[tuple[str, bytes | str | int]] = [("one.png", GOOD[0]), ("one.txt", "a house")]
    for name, data in FORMS.items():
        members += [(name, data), (f"{name.partition('.')[0]}.txt", SAID)]
    yield (PairsSource(path=str(put(root, {"a.tar": tar_bytes(members)}) / "a.tar")),)


@contextmanager
def addresses(root: Path) -> Iterator[Sources]:
    routes = {f"/{name}": Give(data) for name, data in {**FORMS, "one.png": GOOD[0]}.items()}
    with web(routes) as server:
        rows = [
            {"url": server.url + path, "caption": "a house" if path == "/one.png" else SAID}
            for path in routes
        ]
        path = put(root, {"list.jsonl": lines(rows)}) / "list.jsonl"
        yield (PairsSource(path=str(path), layout="url-list"), server.host)


@contextmanager
def video(root: Path) -> Iterator[Sources]:
    """The listed picture as it is and pale, between others."""
    root.mkdir()
    size = (96, 64)
    listed = canary_image(LISTED).resize(size)
    good = Image.open(io.BytesIO(GOOD[0])).convert("RGB").resize(size)
    shown = [np.asarray(one) for one in (good, listed, ImageEnhance.Contrast(listed).enhance(0.3))]
    write(root / "film.mp4", (rgb for rgb in shown for _ in range(10)))
    yield (VideoSource(path=str(root), license_spdx="CC0-1.0", every=0.5),)


WAYS = {
    "folder": folder, "paired folders": paired_folders, "reference": reference, "table": table,
    "tar": tar, "addresses": addresses, "video": video,
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with an operator's list, in which a file's digest is kept at once."""
    monkeypatch.setattr(external, "_SETTLED_NS", -(1 << 62))
    path = tmp_path / "home"
    hashes, _ = pdq_dihedral(np.asarray(canary_image(LISTED)))
    put(path, {"hash-lists/ngo.csv": "\n".join([
        "# provider: ngo", "# version: 1", f"# date: {dt.date.today()}", "type,value",
        f"pdq,{hashes[0].tobytes().hex()}",
    ])})  # fmt: skip
    return path


def left(root: Path, *texts: object, name: str = NAME) -> dict[str, set[str]]:
    """What is left of any form below home, store and the temporary folder, and in the texts."""
    places = [root / name for name in ("home", "store", "cache", "scratch", "tmp")]
    found: dict[str, set[str]] = {}
    for form, data in FORMS.items():
        shown = canary_image(LISTED) if form.endswith("gif") else None
        of = Traces(data, name, "secretsaying", image=shown)
        for where, what in of.left(
            *places, texts=texts, without=[root / "home/hash-lists"]
        ).items():
            found.setdefault(where, set()).update(f"{form}: {one}" for one in what)
    return found


def ingest(root: Path, sources: Sources) -> Harness:
    hosts = [one for one in sources if isinstance(one, str)]
    settings = {"allowed_hosts": hosts, "host_wait": 0, "first_wait": 0.01}
    config = IngestConfig.model_validate(
        {"sources": [s for s in sources if s not in hosts], "web": settings, "processes": 1}
    )
    external.fingerprint(config, root / "home")
    used = Harness(root, Recipe(name="test", ingest=config))
    used.run("ingest")
    return used


@pytest.mark.parametrize("way", WAYS)
def test_a_listed_picture_is_stopped_and_leaves_nothing(
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with caplog.at_level(logging.DEBUG), WAYS[way](tmp_path / "source") as sources:
        used = ingest(tmp_path, sources)
    made = used.inputs["ingest"]
    reasons = made.table("rejects.parquet")["reason"].to_pylist()
    stopped = sum(reason.startswith("hash_match") for reason in reasons)
    expected = {"folder": 6, "video": 4}.get(way, 5)
    assert stopped == expected
    assert made.table("images").num_rows  # others are kept
    shown = [used.report.tables, used.report.texts, *used.report.images.values(), caplog.text]
    # in folders of pairs an innocent picture has the same name, and keeps it
    name = {"paired folders": f"target/{NAME}", "reference": f"reference/{NAME}"}.get(way, NAME)
    assert not left(tmp_path, *shown, name=name)


@pytest.mark.s3
def test_a_listed_picture_in_a_bucket_leaves_nothing(
    tmp_path: Path, home: Path, s3_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(s3_url)
    for name, data in {**FORMS, "one.png": GOOD[0]}.items():
        store.put(name, data)
    bucket.cache_clear()
    with caplog.at_level(logging.DEBUG, "kontext"):
        used = ingest(tmp_path, (BucketSource(path=s3_url, license_spdx="CC0-1.0"),))
    reasons = used.inputs["ingest"].table("rejects.parquet")["reason"].to_pylist()
    assert sum(reason.startswith("hash_match") for reason in reasons) == 5
    assert not left(tmp_path, used.report.tables, used.report.texts, caplog.text)


@pytest.mark.parametrize("name", FORMS)
def test_an_artifact_with_a_listed_picture_is_not_imported(
    tmp_path: Path, home: Path, name: str
) -> None:
    outside = ArtifactStore(open_store(f"file://{tmp_path}/outside"), tmp_path / "elsewhere")
    used = Harness(tmp_path / "made", Recipe(name="test"))
    used.store = outside

    def fill(writer) -> None:  # type: ignore[no-untyped-def]
        path = put(tmp_path / "files", {name: FORMS[name]}) / name
        writer.add_file(f"sheets/{name}", path)

    used.make("publish", fill)
    target = ArtifactStore(open_store(f"file://{tmp_path}/store"), tmp_path / "cache")
    gate = HashGate.from_config(IngestConfig(), home)
    with pytest.raises(GateError, match="on a hash list; nothing was imported") as caught:
        import_artifacts(outside, target, None, home=home, check=lambda a: check_pictures(a, gate))
    assert not left(tmp_path, caught.value) and not target.list()


def test_the_search_finds_what_there_is(tmp_path: Path) -> None:
    """Bytes in a table, a name in a database, a hash in a text, pixels in base64."""
    data = FORMS[f"{NAME}-plain.png"]
    put(tmp_path, {"page.html": "<img src='data:image/png;base64," + b64(data) + "'>"})
    parquet(tmp_path / "rows.parquet", [{"a": {"bytes": data, "path": ""}}], ("a",))
    with sqlite3.connect(tmp_path / "cache.sqlite") as database:
        database.execute("CREATE TABLE t (name TEXT)")
        database.execute("INSERT INTO t VALUES (?)", (f"x{NAME}",))
    of = Traces(data, NAME)
    found = {Path(path).name: what for path, what in of.left(tmp_path).items()}
    assert (
        "bytes of the file" in found["page.html"] and "bytes of the file" in found["rows.parquet"]
    )
    assert found["cache.sqlite"] == {"name"}
    for kind in ("md5", "sha1", "sha256"):
        assert of.in_bytes(hashlib.new(kind, data).hexdigest().encode())
    assert not of.in_bytes(b"nothing of it")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
