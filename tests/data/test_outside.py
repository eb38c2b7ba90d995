"""What comes from outside meets the hash gate, in whatever file its pictures lie."""

import base64
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows import cli
from kontext.data.outside import check_pictures
from kontext.errors import GateError
from kontext.safety.canaries import canary_image, canary_png
from kontext.safety.hashes import HashGate
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore, ArtifactWriter
from kontext.store.objects import open_store
from kontext.store.parquet import parquet_bytes
from schemas.manifest import Manifest
from tests.data.pictures import scene


def png(rgb: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "png")
    return file.getvalue()


GOOD = png(scene(0))
TURNED = io.BytesIO()
canary_image(4).convert("RGB").rotate(90).save(TURNED, "jpeg", quality=80)
BAD = {"as it is": canary_png(4), "turned, as JPEG": TURNED.getvalue()}


def tar_of(*pictures: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, data in enumerate(pictures):
            member = tarfile.TarInfo(f"{number}.tgt.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def table_of(*pictures: bytes) -> bytes:
    names = [str(number) for number in range(len(pictures))]
    hashes = [b"BM" + bytes(30)] * len(pictures)  # as a bitmap begins, and is none
    return parquet_bytes(pa.table({"pixel_id": names, "pdq": hashes, "png": list(pictures)}))


def page_of(*pictures: bytes) -> bytes:
    shown = (base64.b64encode(data).decode() for data in pictures)
    return "".join(f'<img src="data:image/png;base64,{text}">' for text in shown).encode()


FILES = {
    "pixels/000.parquet": table_of,
    "train-000000.tar": tar_of,
    "report/index.html": page_of,
    "report/drawing.svg": lambda *data: b"<svg>" + page_of(*data) + b"</svg>",
    "sheet.png": lambda *data: data[-1],
}


def commit(store: ArtifactStore, files: dict[str, bytes], stage: str = "ingest") -> Artifact:
    writer: ArtifactWriter = store.writer(stage, "0" * 16)
    for name, data in {"latents.safetensors": b"PK no picture", "a.json": b"{}", **files}.items():
        writer.add_bytes(name, data)
    manifest = Manifest(
        stage=stage, digest="0" * 16, code_digest="c", config={}, inputs={}, metrics={}, notes=[],
        files=list(writer.files.values()), recipe="ci", created_at="2026-01-01T00:00:00Z",
        seconds=1, git_commit="", packages={}, kernels={},
    )  # fmt: skip
    return Artifact(store, writer.commit(manifest))


def store_in(folder: Path) -> ArtifactStore:
    return ArtifactStore(open_store(f"file://{folder}/store"), folder / "cache")


def test_good_pictures_are_counted(tmp_path: Path) -> None:
    artifact = commit(store_in(tmp_path), {n: make(GOOD, GOOD) for n, make in FILES.items()})
    assert check_pictures(artifact, HashGate()) == 2 * len(FILES) - 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", BAD)
def test_a_canary_is_found_wherever_it_lies(tmp_path: Path, name: str, kind: str) -> None:
    artifact = commit(store_in(tmp_path), {name: FILES[name](GOOD, BAD[kind])})
    with pytest.raises(GateError, match="ingest/0000000000000000: a picture is on a hash list"):
        check_pictures(artifact, HashGate())


def test_what_cannot_be_decoded_cannot_be_checked(tmp_path: Path) -> None:
    artifact = commit(store_in(tmp_path), {"sheet.png": GOOD[: len(GOOD) // 2]})
    with pytest.raises(GateError, match="cannot be checked"):
        check_pictures(artifact, HashGate())


def test_an_import_with_a_canary_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a byte of it, nor of what comes with it; the same without it is imported."""
    commit(store_in(tmp_path / "a"), {"pixels/000.parquet": table_of(GOOD, BAD["as it is"])})
    commit(store_in(tmp_path / "b"), {"pixels/000.parquet": table_of(GOOD)})
    home = tmp_path / "home"
    monkeypatch.setenv("KONTEXT_HOME", str(home))
    for name in ("KONTEXT_STORE", "KONTEXT_CATALOG"):
        monkeypatch.delenv(name, raising=False)

    def imported(name: str) -> object:
        words = ["artifacts", "import", f"file://{tmp_path}/{name}/store"]
        return CliRunner().invoke(cli.app, words).exception

    assert "is on a hash list; nothing was imported" in str(imported("a"))
    left = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in left if "store" in path.parts]
    assert not [path for path in left if canary_png(4) in path.read_bytes()]
    assert imported("b") is None and len(store_in(home).list()) == 1
