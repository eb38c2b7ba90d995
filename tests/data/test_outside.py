"""What comes from outside meets the hash gate, in whatever file its pictures lie."""

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows import cli
from kontext.data import outside, outside_texts
from kontext.data.outside import check_pictures
from kontext.engine.remake import import_artifacts
from kontext.errors import CanaryError, GateError
from kontext.safety import hashes
from kontext.safety.canaries import canary_image, canary_png
from kontext.safety.edit_log import EditLog
from kontext.safety.hashes import HashGate
from kontext.safety.ledger import EDITS, Ledger
from kontext.safety.ledger_check import check_ledger
from kontext.safety.proof import canary_list
from kontext.safety.texts import CANARIES
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore, ArtifactWriter
from kontext.store.objects import open_store
from kontext.store.parquet import parquet_bytes
from schemas.manifest import Manifest
from tests.data.pictures import scene
from tests.safety.test_ledger import decisions
from tests.safety.test_proof import BROKEN, operator_list


def png(rgb: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "png")
    return file.getvalue()


GOOD = png(scene(0))
GATE = HashGate([canary_list()])
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


def value_of(kind: pa.DataType, data: bytes) -> object:
    """One value of a type with some bytes in it."""
    if isinstance(kind, pa.BaseExtensionType):
        return value_of(kind.storage_type, data)
    if pa.types.is_struct(kind):
        return {field.name: value_of(field.type, data) for field in kind}
    if pa.types.is_map(kind):
        return [("k", data)]
    if pa.types.is_nested(kind):
        return list(data) if kind.value_type == pa.uint8() else [value_of(kind.value_type, data)]
    return base64.b64encode(data).decode() if kind in (pa.string(), pa.large_string()) else data


KINDS = {
    "large": pa.large_binary(), "view": pa.binary_view(), "list": pa.list_(pa.binary()),
    "struct": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "deep": pa.list_(pa.struct([("a", pa.large_list(pa.struct([("b", pa.binary())])))])),
    "map": pa.map_(pa.string(), pa.binary()), "numbers": pa.list_(pa.uint8()),
    "text": pa.string(), "large text": pa.large_string(),
}  # fmt: skip


def nested(kind: pa.DataType) -> Callable[..., bytes]:
    def make(*pictures: bytes) -> bytes:
        rows = [value_of(kind, data) for data in pictures]
        table = pa.table({"a": list(range(len(rows) + 1)), "b": pa.array([*rows, None], kind)})
        file = io.BytesIO()
        pq.write_table(table, file)
        return file.getvalue()

    return make


def fixed(*pictures: bytes) -> bytes:
    kind = pa.binary(len(pictures[-1]))
    file = io.BytesIO()
    pq.write_table(pa.table({"b": pa.array([pictures[-1], None], kind)}), file)
    return file.getvalue()


def dictionary(*pictures: bytes) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"b": pa.array(pictures, pa.binary()).dictionary_encode()}), file)
    return file.getvalue()


def said(*pictures: bytes) -> bytes:
    """In what a table says of itself."""
    table = pa.table({"a": [1]}).replace_schema_metadata(
        {f"p{number}": data for number, data in enumerate(pictures)}
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def texts(*pictures: bytes, wrap: str = "{}") -> bytes:
    return b"words " + b" ".join(
        wrap.format(base64.b64encode(data).decode()).encode() for data in pictures
    )


def broken(*pictures: bytes) -> bytes:
    return b"\n".join(base64.encodebytes(data) for data in pictures)


def escaped(*pictures: bytes) -> bytes:
    return texts(*pictures, wrap='{{"p": "data:image/png;base64,{}"}}').replace(b"/", b"\\/")


def quoted(*pictures: bytes) -> bytes:
    return quote(texts(*pictures, wrap="url(data:image/png;base64,{})")).encode()


FILES = {
    **{f"{name}/nested.parquet": nested(kind) for name, kind in KINDS.items()},
    "fixed.parquet": fixed,
    "dictionary.parquet": dictionary,
    "said.parquet": said,
    "table.bin": table_of,
    "tar.json": lambda *data: tar_of(*data),
    "a.json": texts,
    "card.md": lambda *data: texts(*data, wrap="![](data:image/jpeg;base64,{})"),
    "style.css": quoted,
    "upper.css": lambda *data: texts(*data, wrap="url('DATA:image/PNG;charset=x;base64,{}')"),
    "escaped.json": escaped,
    "mail.txt": broken,
    "url.txt": lambda *data: texts(*data).replace(b"+", b"-").replace(b"/", b"_"),
    "list.jsonl": lambda *data: texts(*data, wrap="[{}]\n"),
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
    # one in each of sheet.png, fixed.parquet and dictionary.parquet; four in the struct
    assert check_pictures(artifact, GATE) == 2 * len(FILES) - 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", BAD)
def test_a_canary_is_found_wherever_it_lies(tmp_path: Path, name: str, kind: str) -> None:
    artifact = commit(store_in(tmp_path), {name: FILES[name](GOOD, BAD[kind])})
    with pytest.raises(GateError, match="ingest/0000000000000000: a picture is on a hash list"):
        check_pictures(artifact, GATE)


def test_what_cannot_be_decoded_cannot_be_checked(tmp_path: Path) -> None:
    artifact = commit(store_in(tmp_path), {"sheet.png": GOOD[: len(GOOD) // 2]})
    with pytest.raises(GateError, match="cannot be checked"):
        check_pictures(artifact, GATE)


def two_tars(*pictures: bytes) -> bytes:
    return tar_of(GOOD) + tar_of(*pictures)


def pax_tar(*pictures: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a" * 300 + ".png")
        member.size = len(pictures[0])
        tar.addfile(member, io.BytesIO(pictures[0]))
    return file.getvalue()


def sparse_tar(*pictures: bytes) -> bytes:
    data = bytearray(tar_of(*pictures))
    data[156:157] = tarfile.GNUTYPE_SPARSE
    data[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(data[:512]))[0]
    return bytes(data)


def animation(*pictures: bytes) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(scene(0)), canary_image(4).convert("RGB").resize((64, 64))]
    frames[0].save(file, "gif", save_all=True, append_images=frames[1:])
    return file.getvalue()


HIDDEN = {
    "two.tar": two_tars, "pax.tar": pax_tar, "sparse.tar": sparse_tar,
    "cut.tar": lambda *data: tar_of(*data)[:600],
    "garbage.tar": lambda *data: b"no tar" * 200,
    "cut.parquet": lambda *data: table_of(*data)[:-9],
    "a.json": lambda *data: gzip.compress(data[0]),
    "latents.zip": lambda *data: b"PK\x03\x04" + data[0],
    "sheet.gif": animation,
    "in.tar": lambda *data: tar_of(gzip.compress(data[0])),
    "in.parquet": lambda *data: table_of(gzip.compress(data[0])),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_what_cannot_be_looked_into_is_refused(tmp_path: Path, name: str) -> None:
    """Also where nothing on a list is in it: nobody can tell."""
    artifact = commit(store_in(tmp_path), {name: HIDDEN[name](GOOD)})
    with pytest.raises(GateError, match="ingest/0000000000000000: "):
        check_pictures(artifact, GATE)


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
    (rows,) = [path for path in left if "store" in path.parts and path.suffix == ".parquet"]
    assert rows.parent.name == "edits"  # that it was refused, and nothing else
    chain = Ledger(open_store(f"file://{home}/store"), home, EDITS)
    (row,) = chain.table().to_pylist()
    assert (row["reason"], row["artifact"].partition("/")[0]) == ("canary", "import")
    assert not [path for path in left if {"blobs", "runs"} & set(path.parts)]
    assert not [path for path in left if canary_png(4) in path.read_bytes()]
    assert imported("b") is None and len(store_in(home).list()) == 1


@pytest.mark.parametrize("how", BROKEN)
def test_an_import_through_a_gate_that_is_broken_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Whatever it says of the pictures: it does not stop canaries."""
    commit(store_in(tmp_path / "a"), {"pixels/000.parquet": table_of(GOOD)})
    home = tmp_path / "home"
    operator_list(home)
    monkeypatch.setenv("KONTEXT_HOME", str(home))
    for name in ("KONTEXT_STORE", "KONTEXT_CATALOG"):
        monkeypatch.delenv(name, raising=False)
    words = ["artifacts", "import", f"file://{tmp_path}/a/store"]
    with monkeypatch.context() as patch:
        BROKEN[how][0](patch)
        hashes._load_gate.cache_clear()
        error = CliRunner().invoke(cli.app, words).exception
    hashes._load_gate.cache_clear()
    assert isinstance(error, CanaryError) and BROKEN[how][1] in str(error)
    left = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in left if {"blobs", "runs", "tags"} & set(path.parts)]
    assert not [path for path in left if GOOD in path.read_bytes()]
    assert CliRunner().invoke(cli.app, words).exception is None


@pytest.mark.parametrize("part", ["_cells", "_members", "_embedded"])
def test_who_does_not_look_into_files_finds_no_canary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(outside, part, lambda *_: iter(()))
    with pytest.raises(CanaryError, match="pictures in a"):
        check_pictures(commit(store_in(tmp_path), {"a.json": b"{}"}), GATE)


def test_a_gate_without_the_canaries_own_list_is_not_believed(tmp_path: Path) -> None:
    with pytest.raises(CanaryError, match="of operators' lists"):
        check_pictures(commit(store_in(tmp_path), {"sheet.png": GOOD}), HashGate())


def rows(**columns: list[object]) -> bytes:
    return parquet_bytes(pa.table(columns))


def sample(**said: object) -> bytes:
    file, body = io.BytesIO(), json.dumps(said).encode()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("0.json")
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))
    return file.getvalue()


RULED, LEARNT = CANARIES[0], CANARIES[5]
SAID = {
    "an instruction": ("captions.parquet", rows(instruction=["make it red", RULED])),
    "by the classifier alone": ("captions.parquet", rows(target_caption=["a house", LEARNT])),
    "in lists": ("captions.parquet", rows(instruction=[["make it red"], ["", RULED]])),
    "a name": ("images/0.parquet", rows(source_ref=["a house.png", f"{RULED}.png"])),
    "a label": ("images/0.parquet", rows(attributes=['{"time": "day"}', json.dumps({"a": RULED})])),
    "in a shard": ("train-000000.tar", sample(instruction="make it red", context_caption=RULED)),
    "by another name": ("a.bin", rows(instruction_inverse=[LEARNT])),
}


@pytest.mark.parametrize("what", SAID)
def test_texts_from_outside_meet_rules_and_classifier(tmp_path: Path, what: str) -> None:
    log = EditLog(open_store(f"file://{tmp_path}/ours"), tmp_path / "home")
    with pytest.raises(GateError, match=r"a text is refused .*; nothing was imported") as caught:
        check_pictures(commit(store_in(tmp_path), dict([SAID[what]])), GATE, log)
    assert RULED not in str(caught.value) and LEARNT not in str(caught.value)
    (row,) = Ledger(log.objects, log.home, EDITS).table().to_pylist()
    assert (row["check"], row["outcome"], row["subject_kind"]) == ("text_rule", "drop", "text")


def test_texts_that_say_nothing_pass(tmp_path: Path) -> None:
    table = rows(instruction=["make it red", ""], source_ref=["scans of nothing", "naked oak.png"])
    files = {"captions.parquet": table, "train-000000.tar": sample(instruction="make it red")}
    assert check_pictures(commit(store_in(tmp_path), files), GATE) == 0


@pytest.mark.parametrize("part", ["_of_table", "_of_json"])
def test_who_does_not_read_texts_finds_no_canary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(outside_texts, part, lambda *_: iter(()))
    with pytest.raises(CanaryError, match="was not stopped"):
        check_pictures(commit(store_in(tmp_path), {"a.json": b"{}"}), GATE)


def test_decisions_of_another_home_are_not_signed_as_ours(tmp_path: Path) -> None:
    theirs = store_in(tmp_path / "a")
    commit(theirs, {"decisions.parquet": parquet_bytes(decisions(2))})
    ours, home = store_in(tmp_path / "b"), tmp_path / "home"
    import_artifacts(theirs, ours, None, home=home)
    runs = {row["run"] for row in Ledger(ours.objects, home).table().to_pylist()}
    assert runs == {"import of "} and check_ledger(Ledger(ours.objects, home), ours).problems == ()


@pytest.mark.parametrize("words", [["artifacts", "import", "{}/a/store"], ["safety", "sweep"]])
def test_production_imports_and_sweeps_nothing_without_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    commit(store_in(tmp_path / "a"), {"a.json": b"{}"})
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path / "home"))
    commit(store_in(tmp_path / "home"), {}, "mine")
    monkeypatch.setenv(hashes.PROFILE, hashes.REQUIRED)
    error = CliRunner().invoke(cli.app, [word.format(tmp_path) for word in words]).exception
    assert isinstance(error, GateError) and "no hash list is configured" in str(error)
    assert [found.stage for found in store_in(tmp_path / "home").list()] == ["mine"]
