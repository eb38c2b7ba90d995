"""A new list arrives: a new version without the pair, all else byte for byte, and who consumed."""

import datetime as dt
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from kontext.data.sweep.find import Taken, find
from kontext.data.sweep.purge import purge
from kontext.data.sweep.rewrite import Gone, rewritten
from kontext.data.sweep.sweep import Place, Swept, sweep
from kontext.data.web.cache import WebCache
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.engine.versions import manifest_of
from kontext.errors import CatalogError
from kontext.safety.hashes import HashGate
from kontext.safety.ledger import Ledger
from kontext.safety.ledger_check import check_ledger
from kontext.safety.opt_outs import OptOuts
from kontext.safety.own_work import is_own
from kontext.safety.pdq import pdq_dihedral
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from kontext.store.objects import open_store
from schemas.manifest import Manifest
from schemas.recipes import Recipe, load_recipe
from schemas.sections.data import IngestConfig
from schemas.tables import GIVEN, JUDGED_TEXTS
from tests.data.pictures import scene
from tests.safety_key import put_key

DATA = ("ingest", "mine", "caption", "screen", "shard", "index")
COUNT = 12


def picture(number: int, name: str) -> np.ndarray:
    rgb = scene(number, 64)
    return (rgb * (1.0 if name == "day" else 0.5)).astype(np.uint8)


def made(folder: Path) -> Engine:
    """An indexed dataset of scenes by day and by night, of a few pairs a shard, in a new home."""
    pictures, home = folder / "pictures", folder / "home"
    pictures.mkdir(parents=True)
    put_key(home)
    for number in range(COUNT):
        for name in ("day", "night"):
            path = pictures / f"{number:02d} house {number}__time={name}.png"
            Image.fromarray(picture(number, name)).save(path)
    settings = load_recipe("ci").model_dump()
    settings["ingest"] |= {"sources": [{"kind": "folder", "path": str(pictures)}], "processes": 1}
    settings["mine"] |= {"t2i_singles": 4}
    settings["screen"] |= {"processes": 1, "clip_steps": 2, "policy": "no-nudenet"}
    settings["shard"] |= {"dataset": "own", "max_pairs_per_shard": 3}
    found = Recipe.model_validate({**settings, "name": "own"})
    store = f"file://{folder}/store"
    engine = Engine(found, store, home / "catalog.sqlite", home, stages=STAGES)
    for stage in DATA:
        engine.run_stage(stage, Reporter(logging.getLogger("kontext.test")))
    return engine


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    engine = made(folder)
    checkpoint(engine.artifacts, "encode", {"shard": engine.digests()["shard"]})
    checkpoint(engine.artifacts, "finetune", {"encode": "e" * 16})
    checkpoint(engine.artifacts, "distill", {"finetune": "0" * 16})  # of something else
    checkpoint(engine.artifacts, "publish", {"encode": "0" * 16}, f"finetune/{'f' * 16}")
    return folder


def checkpoint(store: ArtifactStore, stage: str, inputs: dict[str, str], init: str = "") -> None:
    digest = stage[0] * 16 if stage != "finetune" else "f" * 16
    store.writer(stage, digest).commit(
        Manifest(
            stage=stage, digest=digest, code_digest="", inputs=inputs,
            config={"weights": {"transformer": init}} if init else {},
            files=[], metrics={}, notes=[], recipe="own", created_at="2026-01-01T00:00:00+00:00",
            seconds=0, git_commit="", packages={}, kernels={},
        )
    )  # fmt: skip


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Place:
    shutil.copytree(template, tmp_path / "lab")
    home = tmp_path / "lab/home"
    engine = Engine(
        Recipe(name="x"), f"file://{tmp_path}/lab/store", home / "catalog.sqlite", home,
        stages=STAGES,
    )  # fmt: skip
    engine.catalog.move()
    return Place(engine.artifacts, engine.catalog, home, STAGES)


def gate(home: Path, *rows: str) -> HashGate:
    path = home / "hash-lists/ngo.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# provider: ngo\n# version: 2\n# date: {dt.date.today()}\ntype,value\n"
    path.write_text(head + "\n".join(rows))
    return HashGate.from_config(IngestConfig(allow_unlisted=True), home)


def entry(number: int, name: str, turns: int = 0) -> str:
    rgb = np.ascontiguousarray(np.rot90(picture(number, name), turns))
    return f"pdq,{pdq_dihedral(rgb)[0][0].tobytes().hex()}"


def newest(place: Place) -> dict[str, Artifact]:
    version = place.catalog.datasets()[-1]
    return {stage: place.store.open(stage, d) for stage, d in place.catalog.inputs(version)}


def pictures(ingest: Artifact) -> dict[str, str]:
    table = ingest.table("images").select(["source_ref", "pixel_id"])
    return dict(zip(*table.to_pydict().values(), strict=True))


def ref_of(number: int, name: str) -> str:
    return f"{number:02d} house {number}__time={name}.png"


def tars(shard: Artifact) -> dict[str, str]:
    return {f.name: f.sha256 for f in shard.manifest.files if f.name.endswith(".tar")}


def samples(shard: Artifact) -> dict[str, dict[str, bytes]]:
    """Every sample as webdataset reads it."""
    paths = [str(shard.path(name)) for name in tars(shard)]
    read = webdataset.WebDataset(paths, shardshuffle=False, empty_check=False)
    return {one["__key__"]: {k: v for k, v in one.items() if k[0] != "_"} for one in read}


def swept(place: Place, rows: Sequence[str]) -> Swept:
    return sweep(place, gate(place.home, *rows))


@pytest.mark.parametrize("turns", [0, 1])
def test_a_list_arrives_and_its_picture_is_in_no_new_version(place: Place, turns: int) -> None:
    before = newest(place)
    own = pictures(before["ingest"])
    listed = own[ref_of(3, "day")]
    found = swept(place, [entry(3, "day", turns), entry(99, "day")])
    # by night it is the same picture with half the light, so the list names both
    assert found.taken == {"hash_match": 2} and found.new == 2 and found.kept == 2 * COUNT
    (version,) = found.versions
    assert (version["before"], version["after"]) == ("own@v1", "own@v2")
    after = newest(place)
    assert set(pictures(after["ingest"])) == set(own) - {ref_of(3, "day"), ref_of(3, "night")}
    gone = _pairs_with(before["mine"], {listed, own[ref_of(3, "night")]})
    assert gone and version["pairs"] == len(gone)
    for stage in ("mine", "caption", "screen", "shard"):
        for name in after[stage].names():
            if name.endswith(".parquet"):
                table = after[stage].table(name)
                for column in ("pair_id", "pixel_id", "target_id"):
                    if column in table.column_names:
                        values = set(table[column].to_pylist())
                        assert not values & (gone | {listed}), (stage, name)
    for stage in ("caption", "screen"):  # what stands for a text does not say of which pair it is
        assert len(before[stage].table("texts.parquet")) and not after[stage].table("texts.parquet")
    for stage in ("ingest", "mine", "caption", "screen", "shard"):  # and later runs take from it
        assert is_own(place.store.objects, place.home, after[stage].manifest), stage
    at = place.catalog.query("SELECT count(*) n FROM images")["n"].to_pylist()
    assert at == [2 * COUNT - 2]
    assert place.catalog.query("SELECT count(*) n FROM images", at="own@v1")["n"][0].as_py() == 24


def test_what_was_not_made_here_is_not_after_a_sweep_either(place: Place) -> None:
    before = newest(place)
    for stage in ("screen", "shard"):
        place.store.objects.delete(f"runs/{stage}/{before[stage].digest}/own.json")
    swept(place, [entry(3, "day")])
    after = newest(place)
    own = {s: is_own(place.store.objects, place.home, a.manifest) for s, a in after.items()}
    assert own["ingest"] and own["caption"] and not own["screen"] and not own["shard"]


def test_shards_without_it_are_the_same_and_cut_ones_are_as_if_written(place: Place) -> None:
    before = newest(place)["shard"]
    found = swept(place, [entry(5, "day")])
    after = newest(place)["shard"]
    old, new = tars(before), tars(after)
    same = {name for name in new if new[name] == old[name]}
    (version,) = found.versions
    assert version["shards_same"] == len(same) >= 1
    assert version["shards_cut"] == len(old) - len(same) >= 1
    kept, had = samples(after), samples(before)
    assert kept == {key: had[key] for key in kept} and 0 < len(kept) < len(had)
    for row in after.table("shards.parquet").to_pylist():
        assert row["sha256"] == new[row["name"]] and row["samples"] <= 3
        assert row["bytes"] == after.path(row["name"]).stat().st_size
    data = {
        row["shard_id"]: after.path(row["name"])
        for row in after.table("shards.parquet").to_pylist()
    }
    for member in after.table("shard_members.parquet").to_pylist():
        bytes_ = data[member["shard_id"]].read_bytes()
        for file in member["files"]:
            start, size = file["offset_bytes"], file["length_bytes"]
            suffix = file["name"]
            assert bytes_[start : start + size] == kept[member["pair_id"][:32]][suffix]
    objects = place.store.objects
    named = objects.list("datasets/own/v2/shards/")
    assert len(named) == len(new) and objects.exists("datasets/own/v2/version.json")


def test_one_look_names_every_artifact_and_checkpoint_that_consumed(place: Place) -> None:
    shards = newest(place)["shard"]
    found = swept(place, [entry(5, "day")])
    by_stage = {one.stage: one for one in found.consumers}
    assert {
        "ingest",
        "mine",
        "caption",
        "screen",
        "shard",
        "index",
        "encode",
        "finetune",
        "publish",
    } == set(by_stage)
    assert by_stage["finetune"].is_checkpoint and by_stage["finetune"].pairs > 0
    assert not by_stage["encode"].is_checkpoint
    splits = shards.table("splits.parquet").to_pylist()
    split_of = {row["pair_id"]: row["split"] for row in splits}
    own = pictures(newest(place)["ingest"]).values()
    mine = place.store.open("mine", by_stage["mine"].digest)
    lost = [
        row["pair_id"]
        for row in mine.table("pairs.parquet").to_pylist()
        if not {*row["context_ids"], row["target_id"]} <= set(own) and row["pair_id"] in split_of
    ]
    assert by_stage["finetune"].pairs == len(lost)
    assert set(by_stage["finetune"].splits) == {split_of[pair] for pair in lost}
    record = place.store.show(f"sweep/{found.digest}")
    assert [one["digest"] for one in record.json("sweep.json")["consumers"]] == [
        one.digest for one in found.consumers
    ]


def test_what_was_made_of_it_falls_with_it(place: Place) -> None:
    """A source's own pairs: the target was made of the context, and its next turn of that."""
    ingest = newest(place)["ingest"]
    own = pictures(ingest)
    chain = [own[ref_of(n, "day")] for n in (1, 2, 4)]
    other = own[ref_of(6, "day")]
    rows = [
        {"context_ids": chain[:1], "target_id": chain[1], "status": "ok"},
        {"context_ids": [chain[1], other], "target_id": chain[2], "status": "ok"},
    ]
    blank = dict.fromkeys(("source", "row", "instruction", "kind", "target_caption"), "")
    given = pa.Table.from_pylist([{**blank, **row} for row in rows], GIVEN)
    writer = place.store.writer("ingest", "9" * 16)
    for file in ingest.manifest.files:
        if file.name != "given.parquet":
            writer.files[file.name] = file
    writer.add_table("given.parquet", given)
    writer.commit(
        ingest.manifest.model_copy(
            update={"digest": "9" * 16, "files": list(writer.files.values())}
        )
    )
    taken = find(place.store, gate(place.home, entry(4, "day")))
    assert set(chain) <= set(taken.why) and other not in taken.why
    assert taken.why[chain[2]][0] == "hash_match" and taken.why[chain[0]][0] == "related"


def test_the_ledger_has_it_and_nothing_names_the_picture(place: Place) -> None:
    before = newest(place)
    own = pictures(before["ingest"])
    found = swept(place, [entry(3, "day")])
    report = check_ledger(_ledger(place), place.store)
    assert not report.problems
    decisions = place.catalog.query(
        "SELECT reason, provider FROM safety_decisions WHERE \"check\" = 'sweep'"
    ).to_pylist()
    assert decisions == [{"reason": "hash_match", "provider": "ngo@2"}] * 2
    passes = place.catalog.query("SELECT count(*) n FROM safety_decisions")["n"][0].as_py()
    assert passes > 2 * COUNT  # those of before still stand beside it
    record = place.store.show(f"sweep/{found.digest}")
    text = b"".join(record.path(name).read_bytes() for name in record.names())
    text += b"".join(str(record.table(n).to_pylist()).encode() for n in record.names("t"))
    for secret in (own[ref_of(3, "day")], ref_of(3, "day"), "house 3"):
        assert secret.encode() not in text


def _ledger(place: Place) -> Ledger:
    return Ledger(place.store.objects, place.home)


def test_a_second_sweep_has_nothing_to_do(place: Place) -> None:
    swept(place, [entry(3, "day")])
    artifacts, versions = place.store.refs(), place.catalog.datasets()
    again = swept(place, [entry(3, "day")])
    assert again.new == 0 and not again.digest and not again.versions
    assert place.store.refs() == artifacts and place.catalog.datasets() == versions
    assert {one.stage for one in again.consumers} >= {"finetune"}  # still the answer
    more = swept(place, [entry(3, "day"), entry(7, "day")])
    assert more.new == 2 and more.versions[0]["after"] == "own@v3"
    assert not check_ledger(_ledger(place), place.store).problems


def test_it_is_only_said_where_that_is_asked(place: Place) -> None:
    artifacts = place.store.refs()
    found = sweep(place, gate(place.home, entry(3, "day")), dry_run=True)
    assert found.taken == {"hash_match": 2} and not found.versions
    assert place.store.refs() == artifacts and len(place.catalog.datasets()) == 1


def test_a_sweep_that_was_killed_is_finished(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("kontext.data.sweep.sweep._commit_version", _killed)
        swept(place, [entry(3, "day")])
    found = swept(place, [entry(3, "day")])
    assert found.versions[0]["after"] == "own@v2" and found.new == 2
    assert not check_ledger(_ledger(place), place.store).problems


def _killed(*_: object) -> None:
    raise RuntimeError


def test_nothing_listed_changes_nothing(place: Place) -> None:
    artifacts = place.store.refs()
    found = swept(place, [entry(99, "day")])
    assert not found.taken and not found.consumers and place.store.refs() == artifacts


def _pairs_with(mine: Artifact, pixels: set[str]) -> set[str]:
    return {
        row["pair_id"]
        for row in mine.table("pairs.parquet").to_pylist()
        if {*row["context_ids"], row["target_id"]} & pixels
    }


def test_turned_pictures_that_their_kept_hash_does_not_know_are_found_in_their_pixels(
    place: Place,
) -> None:
    """Of scene 2 by night a turned hash lies 32 bits from what the kept one says of it."""
    number = 2
    turned_ = entry(number, "night", 1)
    quick = find(place.store, gate(place.home, turned_))
    deep = find(place.store, gate(place.home, turned_), deep=True)
    listed = pictures(newest(place)["ingest"])[ref_of(number, "night")]
    assert listed in deep.why and set(quick.why) <= set(deep.why)


def test_what_is_purged_is_nowhere_in_the_store(place: Place) -> None:
    before = newest(place)
    listed = pictures(before["ingest"])[ref_of(3, "day")]
    pixels = before["ingest"].table("pixels")
    (png,) = (r["png"] for r in pixels.to_pylist() if r["pixel_id"] == listed)
    found = swept(place, [entry(3, "day")])
    after = newest(place)
    fetched = WebCache(place.home, b"k" * 32)
    fetched.put("https://example.org/night.png", png)
    done = purge(place.store, place.catalog, place.home, found.consumers)
    assert done.versions == ("own@v1",) and ("shard", before["shard"].digest) in done.artifacts
    files = [path for path in place.home.parent.rglob("*") if path.is_file()]
    holding = [
        str(path)
        for path in files
        if "pictures" not in path.parts
        and any(one in path.read_bytes() for one in (png, listed.encode()))
    ]
    assert holding == [] and fetched.get("https://example.org/night.png") is None
    for table in (path for path in files if path.suffix == ".parquet"):
        columns = pq.read_table(table).to_pydict()
        flat = [str(value) for column in columns.values() for value in column]
        assert not any(listed in value for value in flat), table
    assert place.store.exists("finetune", "f" * 16) and not place.store.exists("encode", "e" * 16)
    assert newest(place)["shard"].digest == after["shard"].digest
    assert (
        not place.store.verify().problems and not check_ledger(_ledger(place), place.store).problems
    )
    count = place.catalog.query("SELECT count(*) n FROM images")["n"][0].as_py()
    assert count == 2 * COUNT - 2
    with pytest.raises(CatalogError, match="own@v1"):
        place.catalog.query("SELECT 1", at="own@v1")
    again = swept(place, [entry(3, "day")])
    assert not again.taken and not again.consumers


def test_who_opted_out_is_in_no_new_version(place: Place) -> None:
    ingest = newest(place)["ingest"].table("images").to_pylist()
    by_name, by_bytes = ref_of(2, "day"), ref_of(8, "night")
    digest = next(row["image_id"] for row in ingest if row["source_ref"] == by_bytes)
    opted_out = OptOuts(("02 house 2__time=d*",), frozenset({digest}))
    found = sweep(place, gate(place.home, entry(99, "day")), opted_out)
    assert found.taken == {"opted_out": 2} and found.versions[0]["after"] == "own@v2"
    left = pictures(newest(place)["ingest"])
    assert set(left) == {row["source_ref"] for row in ingest} - {by_name, by_bytes}
    decisions = place.catalog.query(
        "SELECT reason, provider FROM safety_decisions WHERE \"check\" = 'sweep'"
    ).to_pylist()
    assert decisions == [{"reason": "opted_out", "provider": "opt-outs"}] * 2
    assert not check_ledger(_ledger(place), place.store).problems


def test_what_stands_for_texts_goes_with_them(tmp_path: Path) -> None:
    """As it was before there was a key, too: anybody can tell whether a digest is of a text."""
    store = ArtifactStore(open_store(f"file://{tmp_path}/store"), tmp_path / "cache")
    score = pa.array([0.1], pa.float32())
    for digest, table in (
        ("old", pa.table({"key": ["0" * 32], "score": score})),
        ("new", pa.table([["0" * 32]], schema=JUDGED_TEXTS)),
    ):
        writer = store.writer("caption", digest)
        writer.add_table("texts.parquet", table)
        made = manifest_of(writer, {}, {}, {}, began=0.0)
        gone = Gone(Taken(), {"p"}, {"a lamp"})
        after, cut = rewritten(Artifact(store, made), {}, gone, "sweep", tmp_path)
        (file,) = after.files
        assert len(pq.read_table(store.blob_path(file))) == 0 and not cut
