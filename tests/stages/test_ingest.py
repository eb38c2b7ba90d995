import datetime as dt
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from kontext.data import ingest as library
from kontext.data.buckets import Buckets
from kontext.data.decode import decode_image
from kontext.data.images import ImageBank
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.sources.base import SourceItem
from kontext.data.sources.folder import FolderSource
from kontext.data.sources.pairs import PairsSource
from kontext.errors import CanaryError, GateError, SourceError
from kontext.safety.canaries import canary_image, canary_png
from kontext.safety.ids import Outcome, Reason, subject_hmac
from kontext.safety.keys import run_key
from kontext.safety.pdq import MAX_DISTANCE, distances, pdq_dihedral
from kontext.store.artifacts.artifact_store import Artifact
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig
from schemas.tables import DECISIONS, IMAGES, PIXELS, REJECTS
from tests.data.layouts.files import put
from tests.data.pictures import scene, scene_png
from tests.stages.stage_harness import Harness

PLANTED = 9  # a canary of the bank that ingest itself does not inject


def fill(folder: Path) -> None:
    """Five good pictures, one twice, and one of every way to be refused."""
    (folder / "house").mkdir(parents=True)
    for number, season in enumerate(("summer", "winter")):
        (folder / f"house/a__season={season}.png").write_bytes(scene_png(number, 80))
    (folder / "one.png").write_bytes(scene_png(2))
    Image.fromarray(scene(3)).save(folder / "two.webp", lossless=True)
    (folder / "three.png").write_bytes(scene_png(4))
    Image.fromarray(scene(4)).save(folder / "zz-three-again.bmp")
    (folder / "notes.txt").write_bytes(b"not an image")
    (folder / "short.png").write_bytes(scene_png(5)[:900])
    (folder / "tiny.png").write_bytes(scene_png(6, 4))


def harness(folder: Path, name: str = "pictures", **options: object) -> Harness:
    source = FolderSource(path=str(folder / name), license_spdx="CC0-1.0", author="me")
    config = IngestConfig(sources=(source,), processes=1, chunk_size=3, **options)  # type: ignore[arg-type]
    return Harness(folder, Recipe(name="test", ingest=config))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    tmp_path = tmp_path_factory.mktemp("ingest")
    fill(tmp_path / "pictures")
    used = harness(tmp_path)
    return used, used.run("ingest")


def test_images_pixels_and_rejects(made: tuple[Harness, Artifact]) -> None:
    _, artifact = made
    images, pixels = artifact.table("images"), artifact.table("pixels")
    assert images.schema.names == IMAGES.names and pixels.schema.names == PIXELS.names
    assert images["source_ref"].to_pylist() == [
        "house/a__season=summer.png",
        "house/a__season=winter.png",
        "one.png",
        "three.png",
        "two.webp",
    ]
    rows = {row["source_ref"]: row for row in images.to_pylist()}
    summer = rows["house/a__season=summer.png"]
    assert (summer["width_px"], summer["orig_width_px"]) == (80, 80)
    assert json.loads(summer["attributes"]) == {"season": "summer"}
    assert (summer["license_spdx"], summer["author"]) == ("CC0-1.0", "me")
    assert len(summer["pdq"]) == 32 and summer["pdq_quality"] > 50
    assert rows["two.webp"]["pixel_id"] == pixel_id(scene(3))
    rejects = {row["source_ref"]: row for row in artifact.table("rejects.parquet").to_pylist()}
    assert {ref: row["reason"] for ref, row in rejects.items() if ref} == {
        "notes.txt": "unsupported_format",
        "short.png": "truncated",
        "tiny.png": "too_small",
        "zz-three-again.bmp": "duplicate",
    }
    assert rejects["zz-three-again.bmp"]["detail"].endswith("/three.png")
    assert artifact.table("rejects.parquet").schema.names == REJECTS.names


def test_the_bank_holds_what_was_decoded(made: tuple[Harness, Artifact]) -> None:
    bank = ImageBank(made[1])
    images = made[1].table("images")
    assert bank.ids == images["pixel_id"].to_pylist()
    for pixels in bank.ids:
        assert pixel_id(bank.rgb(pixels)) == pixels
    own = decode_image(scene_png(0, 80), resolution=None, background="#ffffff")
    assert np.array_equal(bank.rgb(own.pixel_id), own.rgb)
    trained = ImageBank(made[1], Buckets(((64, 64),)))
    square = decode_image(scene_png(0, 80), resolution=64, background="#ffffff")
    assert np.array_equal(trained.rgb(own.pixel_id), square.rgb)


def test_pictures_keep_their_shape_below_the_cap(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    wide = np.asarray(Image.fromarray(scene(1)).resize((500, 250)))
    for name, left in (("left", 0), ("right", 440)):  # what differs is in no centre square
        edited = wide.copy()
        edited[20:60, left : left + 60] = 0
        Image.fromarray(edited).save(folder / f"a__dark={name}.png")
    Image.fromarray(scene(2)).resize((900, 1800)).save(folder / "tall.png")
    artifact = harness(tmp_path, max_side=600).run("ingest")
    rows = {row["source_ref"]: row for row in artifact.table("images").to_pylist()}
    sizes = {
        name: tuple(row[c] for c in ("width_px", "height_px", "orig_width_px", "orig_height_px"))
        for name, row in rows.items()
    }
    assert sizes == {
        "a__dark=left.png": (500, 250, 500, 250),
        "a__dark=right.png": (500, 250, 500, 250),
        "tall.png": (300, 600, 900, 1800),
    }
    bank = ImageBank(artifact)
    assert all(bank.size(row["pixel_id"]) == sizes[name][:2] for name, row in rows.items())
    assert (bank.stored(rows["a__dark=right.png"]["pixel_id"])[20:60, 440:] == 0).all()


def test_drawn_art_is_kept_at_the_size_it_is_trained_at(tmp_path: Path) -> None:
    from kontext.data.sources.scenes import SceneSource

    config = IngestConfig(sources=(SceneSource(scenes=1),), processes=1, resolution=48)
    artifact = Harness(tmp_path, Recipe(name="test", ingest=config)).run("ingest")
    for row in artifact.table("images").to_pylist():
        assert (row["width_px"], row["orig_width_px"]) == (48, 256)


def test_a_group_of_pictures_is_put_on_canvases_of_one_shape(tmp_path: Path) -> None:
    from kontext.data.sources.scenes import SceneSource

    source = SceneSource(scenes=12, canvases=((1, 1), (5, 3), (1, 2)))
    config = IngestConfig(sources=(source,), processes=1, resolution=48, sizes="kontext")
    artifact = Harness(tmp_path, Recipe(name="test", ingest=config)).run("ingest")
    shapes: dict[str, set[tuple[int, int]]] = {}
    for row in artifact.table("images").to_pylist():
        shapes.setdefault(row["group_key"], set()).add((row["width_px"], row["height_px"]))
    assert all(len(found) == 1 for found in shapes.values())
    found = {shape for own in shapes.values() for shape in own}
    assert len(found) == 3 and any(w > h for w, h in found) and any(w < h for w, h in found)
    bank = ImageBank(artifact)
    for name in bank.ids:
        rgb = bank.stored(name)
        height, width = rgb.shape[:2]
        if width != height:  # the picture whole in the middle, the background beside it
            edge = rgb[:, :2] if width > height else rgb[:2]
            assert (edge == 255).all() and (rgb != 255).any()


def test_what_is_kept_is_gated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture whose reduced pixels are on a list is stopped, though its own are on none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(scene(2)).resize((400, 300)).save(folder / "secretname.png")
    (folder / "one.png").write_bytes(scene_png(3))
    checked: list[tuple[int, ...]] = []
    real = library.HashGate.check

    def check(self, data, rgb):  # type: ignore[no-untyped-def]
        checked.append(rgb.shape)
        result = real(self, data, rgb)
        if rgb.shape == (75, 100, 3):
            return result._replace(outcome=Outcome.DROP, reason=Reason.HASH_MATCH)
        return result

    monkeypatch.setattr(library.HashGate, "check", check)
    artifact = harness(tmp_path, max_side=100).run("ingest")
    assert checked.count((300, 400, 3)) == checked.count((75, 100, 3)) == 1
    assert artifact.table("images")["source_ref"].to_pylist() == ["one.png"]
    assert b"secretname" not in everything_below(tmp_path / "store")


def test_report_counts_and_shows(made: tuple[Harness, Artifact]) -> None:
    used, artifact = made
    outcomes = {(r["outcome"]): r["images"] for r in used.report.tables["ingest-outcomes"]}
    assert outcomes["kept"] == 5 and outcomes["truncated"] == 1 and outcomes["canary"] == 3
    assert not used.report.images  # nothing is shown that was not screened
    metrics = artifact.manifest.metrics
    assert (metrics["images_planned"], metrics["images_kept"], metrics["images_rejected"]) == (
        9,
        5,
        4,
    )
    assert metrics["canaries_stopped"] == 3
    assert any("no hash list" in note for note in artifact.manifest.notes)


def test_every_decision_is_recorded_and_recovers_nothing(made: tuple[Harness, Artifact]) -> None:
    used, artifact = made
    decisions = artifact.table("decisions.parquet")
    assert decisions.schema.names == DECISIONS.names
    rows = decisions.to_pylist()
    assert sorted(row["outcome"] for row in rows) == ["drop"] * 3 + ["pass"] * 6
    key = run_key(used.folder / "home")
    subjects = {row["subject_hmac"] for row in rows}
    for row in artifact.table("images").to_pylist():
        assert subject_hmac(row["image_id"], key) in subjects
        assert row["image_id"] not in subjects


def everything_below(folder: Path) -> bytes:
    """Every file name and byte below a folder; Parquet files as rows too (they are compressed)."""
    parts = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        parts += [path.name.encode(), data]
        if data[:4] == b"PAR1":
            for row in pq.read_table(path, partitioning=None).to_pylist():
                parts += [v if isinstance(v, bytes) else str(v).encode() for v in row.values()]
    return b"\n".join(parts)


def test_a_planted_canary_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "pictures")
    data = canary_png(PLANTED)
    (tmp_path / "pictures/secretname__mood=secretlabel.png").write_bytes(data)
    image = Image.open(tmp_path / "pictures/secretname__mood=secretlabel.png")
    image.save(tmp_path / "pictures/recompressed-secretname.jpg", quality=70)
    used = harness(tmp_path)
    with caplog.at_level("DEBUG"):
        artifact = used.run("ingest")
    assert artifact.table("images").num_rows == 5
    hidden = [r for r in artifact.table("rejects.parquet").to_pylist() if r["reason"] == "canary"]
    assert len(hidden) == 5  # three injected, two planted
    assert all((r["source_ref"], r["detail"]) == ("", "") for r in hidden)
    decoded = decode_image(data, resolution=64, background="#ffffff")
    whole = decode_image(data, resolution=None, background="#ffffff")
    stored = everything_below(tmp_path / "store") + everything_below(tmp_path / "home")
    stored += str((used.report.tables, used.report.texts)).encode() + caplog.text.encode()
    for trace in (decoded, whole):
        assert trace.pixel_id.encode() not in stored
        assert trace.rgb.tobytes() not in stored
        assert encode_png(trace.rgb) not in stored
    assert b"secretname" not in stored and b"secretlabel" not in stored and data not in stored
    assert scene_png(2) in stored and b"house/a__season" in stored  # the search can find things


@pytest.mark.parametrize("side", [13, 64, 128])
def test_a_canary_between_textured_sides_is_stopped_by_what_shards_would_hold(
    tmp_path: Path, side: int
) -> None:
    fill(tmp_path / "pictures")
    picture = canary_image(30).resize((256 + 2 * side, 256))
    Image.fromarray(scene(7, 100)).resize((300, 200)).save(tmp_path / "pictures/wide.png")
    picture.save(tmp_path / "pictures/innocent.png")
    picture.paste(canary_image(PLANTED), (side, 0))
    picture.save(tmp_path / "pictures/secretname.png")
    artifact = harness(tmp_path).run("ingest")
    rejects = artifact.table("rejects.parquet").to_pylist()
    assert sum(row["reason"] == "canary" for row in rejects) == 4  # three are injected
    stored = everything_below(tmp_path / "store") + everything_below(tmp_path / "home")
    assert b"secretname" not in stored and b"innocent.png" in stored
    images = {row["source_ref"]: row for row in artifact.table("images").to_pylist()}
    assert images["one.png"]["crops"] == []  # a square is read whole
    bank = ImageBank(artifact, Buckets(((64, 64),)))
    for name in ("innocent.png", "wide.png"):
        (crop,) = images[name]["crops"]
        read = pdq_dihedral(bank.rgb(images[name]["pixel_id"]))[0][0]
        assert crop["pdq_quality"] > 50 and crop["pdq"] != images[name]["pdq"]
        assert distances(np.frombuffer(crop["pdq"], np.uint8), read) <= MAX_DISTANCE  # at 64 pixels


def test_the_hash_that_sweeps_look_up_is_that_of_what_is_stored(tmp_path: Path) -> None:
    """Also of a picture that is reduced, turned by its file, or has a plain border."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    large = Image.fromarray(scene(1, 200))
    large.save(folder / "reduced.png")
    turned = Image.Exif()
    turned[274] = 6
    large.save(folder / "turned.jpg", exif=turned)
    ImageOps.expand(Image.fromarray(scene(2, 90)), 26, (255, 255, 255)).save(folder / "framed.png")
    artifact = harness(tmp_path, max_side=128).run("ingest")
    rows, bank = artifact.table("images").to_pylist(), ImageBank(artifact)
    assert {row["source_ref"] for row in rows} == {"reduced.png", "turned.jpg", "framed.png"}
    for row in rows:
        assert max(row["width_px"], row["height_px"]) <= 142
        kept = pdq_dihedral(bank.rgb(row["pixel_id"]))[0][0]
        assert row["pdq"] == kept.tobytes(), row["source_ref"]


def test_undecodable_bytes_on_a_hash_list_are_hidden_too(tmp_path: Path) -> None:
    fill(tmp_path / "pictures")
    digest = hashlib.sha256((tmp_path / "pictures/short.png").read_bytes()).hexdigest()
    bank = tmp_path / "bank.csv"
    bank.write_text(
        f"# provider: test\n# version: 1\n# date: {dt.date.today()}\ntype,value\nsha256,{digest}\n"
    )
    artifact = harness(tmp_path, hash_lists=(str(bank),)).run("ingest")
    rejects = artifact.table("rejects.parquet").to_pylist()
    assert [r["source_ref"] for r in rejects if r["reason"] == "hash_match"] == [""]
    assert "short.png" not in str(rejects)


def test_a_gate_that_lets_a_canary_through_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "pictures")
    innocent = [scene_png(100 + n) for n in range(3)]
    monkeypatch.setattr(library, "canary_items", lambda count: innocent[:count])
    with pytest.raises(CanaryError, match="11 of 12 canaries"):
        harness(tmp_path).run("ingest")
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_a_lost_canary_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "pictures")
    monkeypatch.setattr(library, "canary_items", lambda count: [canary_png(0), b"", b"x"])
    with pytest.raises(CanaryError, match="11 of 12 canaries"):
        harness(tmp_path).run("ingest")


def test_killed_and_resumed_equals_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "a/pictures")
    used = harness(tmp_path / "a")
    decoded: list[str] = []
    original = library._ingest_one

    def dies(item, *rest):  # type: ignore[no-untyped-def]
        if item.source != library.CANARY:
            decoded.append(item.ref)
        if len(decoded) == 6:
            raise KeyboardInterrupt
        return original(item, *rest)

    monkeypatch.setattr(library, "_ingest_one", dies)
    with pytest.raises(KeyboardInterrupt):
        used.run("ingest")
    before = len(decoded)
    resumed = used.run("ingest")
    assert 0 < len(decoded) - before < 9  # the finished chunk was not done again
    monkeypatch.undo()

    files = {file.name: file.sha256 for file in resumed.manifest.files}
    shutil.rmtree(tmp_path / "a/store")
    undisturbed = harness(tmp_path / "a").run("ingest")
    assert {file.name: file.sha256 for file in undisturbed.manifest.files} == files


def test_nothing_accepted_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.txt").write_bytes(b"text")
    with pytest.raises(SourceError, match="no image"):
        harness(tmp_path).run("ingest")


def test_unreadable_hash_list_stops_before_any_work(tmp_path: Path) -> None:
    fill(tmp_path / "pictures")
    with pytest.raises(GateError, match="does not exist"):
        harness(tmp_path, hash_lists=("nowhere.csv",)).run("ingest")
    with pytest.raises(GateError):
        harness(tmp_path, canaries=10_000).run("ingest")


def test_chunks_of_large_photographs_are_small() -> None:
    """Ten of 40 MB each are two chunks; a file of any size is one at least."""
    facts = ("s", "r", "g", "c", "MIT", "a")
    large = [SourceItem(*facts, path=Path("a.jpg"), stamp=(40 << 20, 0, 0, 0)) for _ in range(10)]
    assert [len(chunk) for chunk in library.cut(large, 512)] == [6, 4]
    assert [len(chunk) for chunk in library.cut(large, 4)] == [4, 4, 2]
    huge = SourceItem(*facts, path=Path("b.tif"), stamp=(900 << 20, 0, 0, 0))
    assert [len(chunk) for chunk in library.cut([*large[:2], huge, *large[:2]], 512)] == [2, 1, 2]
    drawn = [SourceItem(*facts, payload=b"x" * 100)] * 5
    assert [len(chunk) for chunk in library.cut(drawn, 512)] == [5] and list(
        library.cut([], 512)
    ) == []


def test_words_that_the_rules_refuse_are_written_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the name of a picture, a label, the name of what is no picture, and a file left out."""
    folder = tmp_path / "pictures"
    (folder / "house").mkdir(parents=True)
    said = ("undress her", "undress_her", "undress-her")
    (folder / "one.png").write_bytes(scene_png(1))
    (folder / "undress_her 3.png").write_bytes(scene_png(2))
    (folder / "house/a__mood=undress her.png").write_bytes(scene_png(3))
    (folder / "undress-her.png").write_bytes(b"no picture")
    (folder / ".undress her.png").write_bytes(scene_png(4))
    used = harness(tmp_path)
    with caplog.at_level("DEBUG"):
        artifact = used.run("ingest")
    assert artifact.table("images")["source_ref"].to_pylist() == ["one.png"]
    rejects = Counter(artifact.table("rejects.parquet")["reason"].to_pylist())
    assert rejects == {"text_undress": 3, "canary": 3, "hidden": 1}
    rows = artifact.table("decisions.parquet").to_pylist()
    assert sum((r["check"], r["outcome"]) == ("text_rule", "drop") for r in rows) == 3
    left = everything_below(tmp_path / "store") + everything_below(tmp_path / "home")
    left += str((used.report.tables, used.report.texts)).encode() + caplog.text.encode()
    assert not any(one.encode() in left for one in said) and b"one.png" in left


def test_given_words_that_the_rules_refuse_are_written_nowhere(tmp_path: Path) -> None:
    files: dict[str, bytes | str | int] = {}
    for number, words in enumerate(("make it warm", "undress her", "make it cold")):
        files |= {f"source/{number}.png": scene_png(number), f"target/{number}.txt": words}
        files[f"target/{number}.png"] = scene_png(10 + number)
    source = PairsSource(path=str(put(tmp_path / "pairs", files)))
    config = IngestConfig(sources=(source,), processes=1)
    artifact = Harness(tmp_path, Recipe(name="test", ingest=config)).run("ingest")
    given = artifact.table("given.parquet").to_pylist()
    assert Counter(row["status"] for row in given) == {"ok": 2, "text_undress": 1}
    assert b"undress her" not in everything_below(tmp_path / "store")
    assert artifact.table("images").num_rows == 6  # the pictures are no others for it
    rows = artifact.table("decisions.parquet").to_pylist()
    assert [row["reason"] for row in rows if row["check"] == "text_rule"] == ["text_undress"]
