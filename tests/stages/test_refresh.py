"""A refresh does only what is new, and makes the bytes that a run from scratch makes."""

import datetime as dt
import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from kontext.data import ingest, scoring
from kontext.data.decode.result import Reason
from kontext.data.forms import Crops, crop_probes
from kontext.data.judging import judged_texts as judge_of
from kontext.data.quality import clip
from kontext.data.shards import dataset
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.errors import ChunkError, DecodeError
from kontext.models.files.packaged import EFFICIENTNET, efficientnet_file
from kontext.safety import judged_texts, screening
from kontext.safety.list_files import STANDING
from kontext.safety.policy import load_policy
from kontext.safety.proof import probes
from kontext.safety.texts import LIMIT
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact
from schemas.recipes import Recipe, load_recipe
from schemas.tables import CAPTION_TEXTS
from tests.data.mine.test_bursts import photograph
from tests.data.pictures import scene
from tests.data.videos import scene as film
from tests.safety_key import put_key

INGEST = ("ingest",)
DATA = ("ingest", "mine", "caption", "screen", "shard")
COUNT = 14  # scenes, two pictures each


def draw(folder: Path, number: int) -> None:
    """One scene by day and by night; every third is wide, so that shard brings it to a size."""
    size = (120, 80) if number % 3 == 0 else (64, 64)
    picture = np.asarray(Image.fromarray(scene(number, 96)).resize(size))
    for name, light in (("day", 1.0), ("night", 0.5)):
        rgb = (picture * light).astype(np.uint8)
        Image.fromarray(rgb).save(
            folder / f"{number * 7 % 100:02d} house {number}__time={name}.png"
        )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refresh") / "pictures"
    folder.mkdir()
    for number in range(COUNT):
        draw(folder, number)
    (folder / "00 broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    shutil.copy(folder / "07 house 1__time=day.png", folder / "99 again.png")
    return folder


def recipe(folder: Path, name: str) -> Recipe:
    made = load_recipe("ci").model_dump()
    made["ingest"] |= {"sources": [{"kind": "folder", "path": str(folder)}], "chunk_size": 8}
    made["ingest"] |= {"processes": 1}
    made["mine"] |= {"t2i_singles": 10}
    made["screen"] |= {"processes": 1, "clip_steps": 2, "policy": "no-nudenet"}
    # another dataset has no earlier versions, whose splits it would have to keep
    made["shard"] |= {"dataset": name}
    return Recipe.model_validate({**made, "name": "refresh"})


def make(
    folder: Path,
    home: Path,
    name: str = "first",
    force: str = "",
    stages: Sequence[str] = DATA,
) -> dict[str, Artifact]:
    """Stages in a home."""
    put_key(home)
    engine = Engine(recipe(folder, name), f"file://{home}/store", "", home, stages=STAGES)
    reporter = Reporter(logging.getLogger("kontext"))
    return {
        stage: Artifact(
            engine.artifacts, engine.run_stage(stage, reporter, force=stage == force).manifest
        )
        for stage in stages
    }


def contents(made: dict[str, Artifact]) -> dict[str, dict[str, str]]:
    """SHA-256 of every file of every stage, but the one that compares it with the last version."""
    return {
        stage: {
            file.name: file.sha256
            for file in artifact.manifest.files
            if (stage, file.name) != ("screen", "filters.json")
        }
        for stage, artifact in made.items()
    }


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many pictures were decoded, scored, embedded and brought to a size, and other work."""
    counts: Counter[str] = Counter()

    def counted(module: Any, name: str, size: Callable[..., int]) -> None:
        real = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += size(*args)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    shown = (*probes(), *crop_probes(Crops.of(load_recipe("ci").ingest)))
    proof = {probe.data for probe in shown}  # decoded in every chunk, and nobody's pictures
    counted(ingest, "decode_image", lambda data: data not in proof)
    counted(scoring, "score_images", lambda *_: 1)
    counted(screening, "score_images", lambda _, images: len(images))
    counted(clip, "image_features", lambda _, images: len(images))
    counted(clip, "train_clip", lambda _: 1)
    counted(dataset, "encode_png", lambda _: 1)
    counted(dataset.ShownPictures, "names", lambda *_: 1)
    return counts


CANARIES = 3


def pairs_in(made: dict[str, Artifact]) -> set[str]:
    """Ids of a dataset's pairs."""
    return set(made["shard"].table("splits.parquet")["pair_id"].to_pylist())


def wide_pictures(made: dict[str, Artifact], pairs: set[str]) -> set[str]:
    """Pictures of these pairs that shard brings to a size."""
    images = made["ingest"].table("images", ["pixel_id", "width_px", "height_px"]).to_pylist()
    wide = {row["pixel_id"] for row in images if row["width_px"] != row["height_px"]}
    rows = made["mine"].table("pairs.parquet").to_pylist()
    shown = [[*row["context_ids"], row["target_id"]] for row in rows if row["pair_id"] in pairs]
    return wide.intersection(*[{name for each in shown for name in each}])


def test_a_refresh_does_what_is_new_and_gives_the_bytes_of_a_run_from_scratch(
    pictures: Path, tmp_path: Path, worked: Counter[str]
) -> None:
    before = make(pictures, tmp_path / "home")
    first = worked.copy()
    assert first["decode_image"] == 2 * COUNT + 2 + CANARIES
    # ingest scores what it reads, also the picture that is there twice; screen scores none again
    assert (first["score_images"], first["image_features"]) == (2 * COUNT + 1, 2 * COUNT)
    draw(pictures, COUNT)  # its names lie between those of the others
    (pictures / "14 house 2__time=day.png").unlink()
    shutil.copy(pictures / "07 house 1__time=night.png", pictures / "00 new name.png")
    worked.clear()
    refreshed = make(pictures, tmp_path / "home", "again")
    # two new ones, and one that was there by another name: its own picture is kept now
    assert worked["decode_image"] == 3 + CANARIES
    assert worked["score_images"] == worked["image_features"] + 1 == 3
    new = pairs_in(refreshed) - pairs_in(before)
    assert 0 < worked["names"] == len(new) < first["names"] / 3
    assert 0 < worked["encode_png"] == len(wide_pictures(refreshed, new))
    scratch = make(pictures, tmp_path / "scratch", "again")
    assert contents(refreshed) == contents(scratch)


def test_every_planned_item_has_exactly_one_outcome(pictures: Path, tmp_path: Path) -> None:
    made = make(pictures, tmp_path / "home", stages=INGEST)["ingest"]
    rows = made.table("outcomes.parquet").to_pylist()
    own = [row for row in rows if row["source"] != ingest.CANARY]
    assert len(own) == made.manifest.metrics["images_planned"]
    files = sorted(path.name for path in pictures.iterdir())
    assert [row["source_ref"] for row in own] == files
    kept = [row["pixel_id"] for row in own if row["outcome"] == "kept"]
    assert kept == made.table("images")["pixel_id"].to_pylist()
    rejected = {
        row["source_ref"]: row["reason"] for row in made.table("rejects.parquet").to_pylist()
    }
    others = {row["source_ref"]: row["outcome"] for row in rows if row["outcome"] != "kept"}
    assert others == rejected and others["00 broken.png"] == "truncated"
    # what the gate stopped has neither name nor key
    assert {(row["source_ref"], row["item"]) for row in rows if row not in own} == {("", "")}


def test_where_the_first_of_two_equal_pictures_goes_the_other_is_kept(
    pictures: Path, tmp_path: Path, worked: Counter[str]
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    make(folder, tmp_path / "home", stages=INGEST)
    (folder / "00 new name.png").unlink(missing_ok=True)
    (folder / "07 house 1__time=day.png").unlink()
    worked.clear()
    refreshed = make(folder, tmp_path / "home", stages=INGEST)["ingest"]
    assert worked["decode_image"] - CANARIES in (1, 2)
    images = refreshed.table("images").to_pylist()
    assert "99 again.png" in [row["source_ref"] for row in images]
    scratch = make(folder, tmp_path / "scratch", stages=INGEST)["ingest"]
    assert contents({"ingest": refreshed}) == contents({"ingest": scratch})


def test_other_settings_and_a_forced_run_take_nothing(
    pictures: Path, tmp_path: Path, worked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make(pictures, tmp_path / "home")
    everything = worked.copy()
    worked.clear()
    again = make(pictures, tmp_path / "home", force="ingest")
    assert worked["decode_image"] == everything["decode_image"]
    assert worked["score_images"] == everything["score_images"]
    assert contents(again) == contents(before)
    plain = recipe

    def smaller(folder: Path, name: str) -> Recipe:
        made = plain(folder, name).model_dump()
        made["ingest"] |= {"max_side": 70}
        return Recipe.model_validate(made)

    monkeypatch.setattr("tests.stages.test_refresh.recipe", smaller)
    worked.clear()
    make(pictures, tmp_path / "home", stages=INGEST)
    assert worked["decode_image"] == everything["decode_image"]


@pytest.mark.parametrize("lists", [STANDING, "elsewhere"])
def test_a_new_hash_list_meets_what_was_let_in_before(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: str
) -> None:
    """A picture that an earlier ingest has kept is no proof against a list that came later."""
    home = tmp_path / "home"
    listed = pictures / "28 house 4__time=night.png"
    before = make(pictures, home, stages=INGEST)["ingest"].table("images")
    known = dict(zip(before["source_ref"].to_pylist(), before["pixel_id"].to_pylist(), strict=True))
    path = home / lists / "own.csv"
    path.parent.mkdir()
    head = f"# provider: p\n# version: 1\n# date: {dt.date.today()}\ntype,value\n"
    path.write_text(f"{head}sha256,{hashlib.sha256(listed.read_bytes()).hexdigest()}\n")
    if lists != STANDING:  # named by the recipe
        plain = recipe

        def named(folder: Path, name: str) -> Recipe:
            made = plain(folder, name).model_dump()
            made["ingest"] |= {"hash_lists": [str(path)]}
            return Recipe.model_validate(made)

        monkeypatch.setattr("tests.stages.test_refresh.recipe", named)
    after = make(pictures, home, stages=INGEST)["ingest"]
    assert known[listed.name] not in after.table("images")["pixel_id"].to_pylist()
    assert known[listed.name] not in after.table("pixels")["pixel_id"].to_pylist()
    assert after.table("rejects.parquet")["reason"].to_pylist().count("hash_match") == 1


def test_a_killed_refresh_goes_on(
    pictures: Path, tmp_path: Path, worked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    make(folder, tmp_path / "home", stages=INGEST)
    for number in range(50, 62):  # two chunks of eight, and one of the canaries and the rest
        draw(folder, number)
    real = ingest.ingest_chunk
    done: list[int] = []

    def dies(chunk: Any) -> Any:
        if len(done) == 1:
            raise RuntimeError("killed")
        done.append(len(chunk.items))
        return real(chunk)

    dies.__module__, dies.__qualname__ = real.__module__, real.__qualname__
    monkeypatch.setattr("kontext.stages.ingest.ingest_chunk", dies)
    with pytest.raises(ChunkError, match="killed"):
        make(folder, tmp_path / "home", stages=INGEST)
    monkeypatch.setattr("kontext.stages.ingest.ingest_chunk", real)
    worked.clear()
    refreshed = make(folder, tmp_path / "home", stages=INGEST)["ingest"]
    assert worked["decode_image"] == 24 + CANARIES - done[0]
    scratch = make(folder, tmp_path / "scratch", stages=INGEST)["ingest"]
    assert contents({"ingest": refreshed}) == contents({"ingest": scratch})


def test_photographs_that_are_held_keep_their_moments(tmp_path: Path) -> None:
    """A burst of old and new photographs is mined as if all were new."""
    folder = tmp_path / "holiday"
    folder.mkdir()
    for number in range(3):
        if number == 2:
            make(folder, tmp_path / "a", stages=INGEST)
        data = photograph(film(0, 10 * number), f"2024:05:01 10:00:0{number}")
        (folder / f"IMG_{number}.jpg").write_bytes(data)
    refreshed = make(folder, tmp_path / "a", stages=("ingest", "mine"))
    scratch = make(folder, tmp_path / "b", stages=("ingest", "mine"))
    assert len(refreshed["ingest"].table("moments.parquet")) == 3
    assert contents(refreshed) == contents(scratch)
    assert len(refreshed["mine"].table("pairs.parquet")) == 6


def test_a_moment_that_was_wrong_does_not_come_back(tmp_path: Path) -> None:
    """A camera's clock is set right in the file: the pixels, and so their id, stay the same."""
    folder = tmp_path / "holiday"
    folder.mkdir()
    for number in range(3):
        data = photograph(film(0, 10 * number), f"2024:05:01 10:00:0{number}")
        (folder / f"IMG_{number}.jpg").write_bytes(data)
    make(folder, tmp_path / "a", stages=INGEST)
    (folder / "IMG_1.jpg").write_bytes(photograph(film(0, 10), "2024:05:01 18:00:00"))
    make(folder, tmp_path / "a", stages=INGEST)
    (folder / "IMG_3.jpg").write_bytes(photograph(film(0, 30), "2024:05:01 10:00:03"))
    refreshed = make(folder, tmp_path / "a", stages=("ingest", "mine"))
    scratch = make(folder, tmp_path / "b", stages=("ingest", "mine"))
    assert len(refreshed["ingest"].table("moments.parquet")) == 4
    assert contents(refreshed) == contents(scratch)


@pytest.mark.parametrize("gone", ["IMG_1.jpg", "IMG_3.jpg"])
def test_a_moment_goes_with_its_photograph(tmp_path: Path, gone: str) -> None:
    """Where two files have the same pixels and each a moment, one moment stays for one file."""
    folder = tmp_path / "holiday"
    folder.mkdir()
    for number, minute in ((0, 0), (1, 0), (3, 9)):
        data = photograph(film(0, 10 * (number % 2)), f"2024:05:01 10:0{minute}:0{number}")
        (folder / f"IMG_{number}.jpg").write_bytes(data)
    make(folder, tmp_path / "a", stages=INGEST)
    (folder / gone).unlink()
    refreshed = make(folder, tmp_path / "a", stages=INGEST)
    scratch = make(folder, tmp_path / "b", stages=INGEST)
    assert len(refreshed["ingest"].table("moments.parquet")) == 2
    assert contents(refreshed) == contents(scratch)


def said_in(made: dict[str, Artifact]) -> set[str]:
    """The texts of all captions."""
    captions = made["caption"].table("captions.parquet")
    return {text for name in CAPTION_TEXTS for text in captions[name].to_pylist()}


def test_a_text_that_passed_is_not_judged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = judged_texts.judge_texts

    def ask(texts: Sequence[str], limit: float) -> Any:
        asked.extend(texts)
        return real(texts, limit)

    monkeypatch.setattr(judged_texts, "judge_texts", ask)
    folder, home = few(tmp_path / "pictures"), tmp_path / "home"
    before = said_in(make(folder, home, stages=DATA[:-1]))
    assert before <= set(asked)
    draw(folder, 60)
    asked.clear()
    refreshed = make(folder, home, stages=DATA[:-1])
    now = said_in(refreshed)
    proved = {""}  # and nothing else that a proof says is said of these pictures
    assert now - before and (now - before) <= set(asked)
    assert not (before - proved) & set(asked)
    policy = load_policy(refreshed["screen"].manifest.config["policy"])
    for stage, limit in (("caption", LIMIT), ("screen", policy.texts.limit)):
        hmac = judge_of(home, (), limit).hmac
        kept = refreshed[stage].table("texts.parquet")["text_hmac"].to_pylist()
        assert kept == sorted(map(hmac, now))
    scratch = make(folder, tmp_path / "scratch", stages=DATA[:-1])
    assert contents(refreshed) == contents(scratch)


def keeping(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a small CLIP is kept where at most this share is new."""
    plain = recipe

    def kept(folder: Path, name: str) -> Recipe:
        made = plain(folder, name).model_dump()
        made["screen"] |= {"clip_keep": share}
        return Recipe.model_validate(made)

    monkeypatch.setattr("tests.stages.test_refresh.recipe", kept)


def clips(made: dict[str, Artifact]) -> tuple[str, pa.Table]:
    """Digest of the small CLIP's weights, and what it has learnt from."""
    screened = made["screen"]
    files = {file.name: file.sha256 for file in screened.manifest.files}
    return files["clip.safetensors"], screened.table("learnt.parquet")


def test_the_small_clip_is_kept_until_enough_is_new(
    tmp_path: Path, worked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping(0.4, monkeypatch)
    folder, home = few(tmp_path / "pictures"), tmp_path / "home"
    first = make(folder, home)
    assert worked["train_clip"] == 1 and not first["screen"].manifest.config.get("before")
    draw(folder, 60)
    second = make(folder, home)
    said = second["screen"].manifest
    assert worked["train_clip"] == 1 and clips(second) == clips(first)
    assert said.config["before"] == [first["screen"].digest]
    assert said.metrics["clip_loss"] == first["screen"].manifest.metrics["clip_loss"]
    assert 0 < float(said.metrics["clip_new"] or 0) <= 0.4
    assert f"the small CLIP of screen/{first['screen'].digest} is kept" in " ".join(said.notes)
    scores = [made["screen"].table("pair_scores.parquet").to_pylist() for made in (first, second)]
    was, now = ({row["pair_id"]: row for row in rows} for rows in scores)
    common = was.keys() & now.keys()
    assert len(common) >= 8
    assert all(was[pair]["clip_t"] == pytest.approx(now[pair]["clip_t"]) for pair in common)
    assert make(folder, home)["screen"].digest == said.digest  # nothing is new: reused
    for number in range(61, 66):
        draw(folder, number)
    third = make(folder, home)  # more is new than may be, with what was new before
    assert worked["train_clip"] == 2 and clips(third)[0] != clips(first)[0]
    assert third["screen"].manifest.config["before"] == [said.digest]
    assert "clip_new" not in third["screen"].manifest.metrics


def goes(picture: Path, home: Path, how: str, score: float, patch: Any) -> None:
    """The picture is not to be learnt from any more."""
    if how == "opted out":
        (home / "opt-outs.txt").write_text(picture.name + "\n")
    else:
        made = load_policy("no-nudenet").model_dump(mode="json")
        limits = dict.fromkeys(("nsfw_max", "nsfw_max_unmatchable"), score * 0.9999)
        policy = home / "stricter.json"
        policy.write_text(json.dumps({**made, "thresholds": {**made["thresholds"], **limits}}))
        plain = recipe

        def stricter(folder: Path, name: str) -> Recipe:
            made = plain(folder, name).model_dump()
            made["screen"] |= {"policy": str(policy)}
            return Recipe.model_validate(made)

        patch.setattr("tests.stages.test_refresh.recipe", stricter)


@pytest.mark.parametrize("how", ["opted out", "refused"])
def test_what_is_gone_is_not_learnt_from_any_more(
    tmp_path: Path, worked: Counter[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    keeping(1.0, monkeypatch)
    folder, home = few(tmp_path / "pictures"), tmp_path / "home"
    first = make(folder, home)
    learnt = set(clips(first)[1]["pixel_id"].to_pylist())
    scores = first["screen"].table("image_scores.parquet").select(["score", "pixel_id"])
    found = zip(*scores.to_pydict().values(), strict=True)
    score, gone = max(one for one in found if one[1] in learnt)
    columns = first["ingest"].table("images").select(["pixel_id", "source_ref"]).to_pydict()
    refs = dict(zip(*columns.values(), strict=True))
    goes(folder / refs[gone], home, how, score, monkeypatch)
    second = make(folder, home)
    assert second["screen"].manifest.config["before"] == [first["screen"].digest]
    assert worked["train_clip"] == 2 and clips(second)[0] != clips(first)[0]
    assert gone not in clips(second)[1]["pixel_id"].to_pylist()


def test_a_small_clip_is_not_kept_where_nobody_wants_it(
    tmp_path: Path, worked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping(1.0, monkeypatch)
    folder, home = few(tmp_path / "pictures"), tmp_path / "home"
    make(folder, home)
    make(folder, home, force="screen")  # who forces a stage wants its work done again
    assert worked["train_clip"] == 2
    keeping(0.0, monkeypatch)
    draw(folder, 60)
    make(folder, home)
    assert worked["train_clip"] == 3


def few(folder: Path) -> Path:
    """Four scenes, two pictures each."""
    folder.mkdir()
    for number in range(4):
        draw(folder, number)
    return folder


def test_other_weights_embed_every_picture_again(
    tmp_path: Path, worked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights may be given in a folder, where no package's version tells of others."""
    folder, models = few(tmp_path / "pictures"), tmp_path / "models"
    make(folder, tmp_path / "home", stages=DATA[:-1])
    state = torch.load(efficientnet_file(), map_location="cpu", weights_only=True)
    (models / EFFICIENTNET).mkdir(parents=True)
    state["_conv_head.weight"] = state["_conv_head.weight"] * 1.5
    torch.save(state, models / EFFICIENTNET / "other.pth")
    monkeypatch.setenv("KONTEXT_MODELS", str(models))
    draw(folder, 60)
    worked.clear()
    refreshed = make(folder, tmp_path / "home", stages=DATA[:-1])
    assert worked["image_features"] == 8 + 2
    assert worked["score_images"] == 2  # whose models are the same
    scratch = make(folder, tmp_path / "scratch", stages=DATA[:-1])
    assert contents(refreshed) == contents(scratch)


def test_heic_is_read_once_there_is_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    folder, real = few(tmp_path / "pictures"), ingest.decode_image
    picture = Image.open(folder / "07 house 1__time=night.png").transpose(Image.Transpose.ROTATE_90)
    pillow_heif.from_pillow(picture).save(folder / "50 phone.heic")

    def without(data: bytes, **how: Any) -> Any:
        """As the decoder's own process answers where it cannot import the library."""
        if data == (folder / "50 phone.heic").read_bytes():
            raise DecodeError(Reason.HEIC_NEEDS_LIBRARY, "install pillow-heif")
        return real(data, **how)

    monkeypatch.setattr(ingest, "decode_image", without)
    before = make(folder, tmp_path / "home", stages=INGEST)["ingest"]
    assert "heic_needs_library" in before.table("rejects.parquet")["reason"].to_pylist()
    monkeypatch.setattr(ingest, "decode_image", real)
    draw(folder, 60)
    after = make(folder, tmp_path / "home", stages=INGEST)["ingest"]
    assert "50 phone.heic" in after.table("images")["source_ref"].to_pylist()
