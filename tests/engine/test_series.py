"""Stages that go on from the earlier artifacts of their series."""

import json
import sys
from pathlib import Path

import pytest

from kontext.engine import fingerprint
from kontext.engine.remake import remake
from kontext.engine.run import Engine
from kontext.engine.series import goes_on_from, made_into
from kontext.engine.stage import Stage
from kontext.engine.versions import package_versions
from schemas.manifest import Manifest
from schemas.recipes import load_recipe
from tests.engine.test_run import REPORT
from tests.store.catalog.test_catalog import manifest

LONGER = """
def run(ctx):
    known = sum((made.json("known.json") for made in ctx.before), [])
    ctx.output.add_json("known.json", sorted({*known, ctx.config.seed}))
"""


def made(
    digest: str, seed: int, before: list[str], code: str = "c", name: str = "demo"
) -> Manifest:
    config = {"dataset": name, "seed": seed} | ({"before": before} if before else {})
    update = {"digest": digest, "config": config, "code_digest": code}
    return manifest("shard", digest).model_copy(update=update)


def going_on(manifests: list[Manifest], seed: int, code: str = "c") -> list[str]:
    config = {"dataset": "demo", "seed": seed}
    return goes_on_from(manifests, "dataset", config, {"ingest": "i1"}, code)


def test_the_newest_of_the_series_are_gone_on_from_and_what_is_made_stays() -> None:
    one, two = made("one", 1, []), made("two", 2, ["one"])
    assert going_on([], 1) == []
    assert going_on([one], 2) == ["one"] and going_on([one, two], 3) == ["two"]
    assert going_on([one, two], 1) == [] and going_on([one, two], 2) == ["one"]
    assert going_on([one, two], 2, code="other") == ["two"]
    assert going_on([one, two, made("other", 3, [], name="else")], 3) == ["two"]


def test_runs_made_at_once_are_both_gone_on_from() -> None:
    one, left, right = made("one", 1, []), made("left", 2, ["one"]), made("right", 3, ["one"])
    assert going_on([one, left, right], 4) == ["left", "right"]
    assert going_on([one, left, right, made("four", 4, ["left", "right"])], 5) == ["four"]


def test_what_the_newest_of_a_later_stage_were_made_of_is_gone_on_from() -> None:
    versions = {"packages": package_versions(), "code_digest": "c"}

    def screened(digest: str, seed: int, *before: str, **other: object) -> Manifest:
        config = {"seed": seed} | ({"before": list(before)} if before else {})
        update = {"digest": digest, "config": config, **versions, **other}
        return manifest("screen", digest).model_copy(update=update)

    def used(digest: str, by: str, *before: str) -> Manifest:
        return made(by, 1, list(before)).model_copy(update={"inputs": {"screen": digest}})

    def going_on(users: list[Manifest], there: list[Manifest], **config: int) -> list[str]:
        return made_into(users, "screen", there, config, {"ingest": "i1"}, "c")

    one, two = screened("one", 1), screened("two", 2, "one")
    first, second = used("one", "first"), used("two", "second", "first")
    assert going_on([], [one], seed=2) == []  # of no version of the dataset
    assert going_on([first], [one], seed=2) == ["one"]
    assert going_on([first, second], [one, two], seed=3) == ["two"]
    assert going_on([first, second], [one, two], seed=1) == []  # stays what it is
    assert going_on([first, second], [one, two], seed=2) == ["one"]
    assert going_on([first], [one], seed=2, attempt=1) == []  # forced
    assert going_on([first], [screened("one", 1, code_digest="other")], seed=2) == []
    assert going_on([first], [screened("one", 1, packages={"torch": "1"})], seed=2) == []
    assert going_on([first], [], seed=2) == []  # deleted


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "toy_longer.py").write_text(LONGER)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "toy_longer", raising=False)
    fingerprint.forget()
    return folder


STAGES = {
    "longer": Stage(name="longer", section="caption", continues="captioner", module="toy_longer")
}


def engine(code: Path, seed: int) -> Engine:
    recipe = load_recipe("ci", (f"caption.seed={seed}",))
    return Engine(recipe, f"file://{code.parent}/store", "", code.parent / "home", stages=STAGES)


def known(found: Engine) -> list[int]:
    found.run_stage("longer", REPORT)
    return list(found.artifact("longer").json("known.json"))


def test_an_artifact_names_what_it_went_on_from_and_stays_the_same_one(code: Path) -> None:
    assert known(engine(code, 1)) == [1] and known(engine(code, 2)) == [1, 2]
    first, second, third = (engine(code, seed) for seed in (1, 2, 3))
    assert second.artifact("longer").manifest.config["before"] == [first.digests()["longer"]]
    assert "before" not in first.artifact("longer").manifest.config
    assert known(third) == [1, 2, 3]
    assert all(engine(code, n).run_stage("longer", REPORT).reused for n in (1, 2, 3))
    forced = engine(code, 1).run_stage("longer", REPORT, force=True).manifest
    assert forced.config["before"] == [third.digests()["longer"]]
    again = remake(first.artifacts, f"longer/{second.digests()['longer']}", code.parent, STAGES)
    assert again.different == ()


def test_a_stage_goes_on_from_what_a_later_one_of_its_series_used(code: Path) -> None:
    (code / "toy_user.py").write_text("def run(ctx): ctx.output.add_json('user.json', 1)\n")
    first = Stage(name="first", section="caption", continues="user.dataset", module="toy_longer")
    user = Stage(
        name="user",
        section="shard",
        inputs=("first",),
        continues="dataset",
        module="toy_user",
    )

    def known_of(seed: int, dataset: str, *made: str) -> list[int]:
        changes = (f"caption.seed={seed}", f"shard.dataset={dataset}")
        stages, folder = {"first": first, "user": user}, code.parent
        recipe = load_recipe("ci", changes)
        found = Engine(recipe, f"file://{folder}/store", "", folder / "home", stages=stages)
        for name in made:
            found.run_stage(name, REPORT)
        return list(found.artifact("first").json("known.json"))

    both = ("first", "user")
    assert known_of(1, "one", *both) == [1] and known_of(2, "one", *both) == [1, 2]
    assert known_of(3, "other", *both) == [3]  # another dataset's
    assert known_of(4, "one", "first") == [1, 2, 4]
    assert known_of(5, "one", *both) == [1, 2, 5]  # the one before has become no version
    assert known_of(2, "one", *both) == [1, 2]  # stays what it was


def test_a_stage_is_compared_with_the_one_behind_the_tag_of_a_later_one(code: Path) -> None:
    (code / "toy_publisher.py").write_text("def run(ctx): ctx.output.add_json('user.json', 1)\n")
    first = Stage(name="first", section="caption", compares="user", module="toy_longer")
    user = Stage(
        name="user",
        section="shard",
        inputs=("first",),
        module="toy_publisher",
        tag="u@{shard.dataset}",
    )

    def engine_of(seed: int, dataset: str = "one") -> Engine:
        changes = (f"caption.seed={seed}", f"shard.dataset={dataset}")
        stages, folder = {"first": first, "user": user}, code.parent
        recipe = load_recipe("ci", changes)
        return Engine(recipe, f"file://{folder}/store", "", folder / "home", stages=stages)

    def known_of(found: Engine, *made: str) -> list[int]:
        for name in made:
            found.run_stage(name, REPORT)
        return list(found.artifact("first").json("known.json"))

    both = ("first", "user")
    assert known_of(engine_of(1), *both) == [1]  # nothing was tagged
    assert known_of(engine_of(1), *both) == [1]  # and it stays what it was
    assert known_of(engine_of(2), "first") == [1, 2]
    assert known_of(engine_of(3), *both) == [1, 3]  # 2 has not been tagged
    assert known_of(engine_of(5, "other"), "first") == [5]  # another tag
    store = engine_of(1).artifacts
    store.tag("u@one", "user", engine_of(1).digests()["user"])  # by hand
    assert known_of(engine_of(4), "first") == [1, 4]
    (code / "toy_longer.py").write_text(LONGER + "\nother = 1\n")
    fingerprint.forget()
    assert known_of(engine_of(1), "first") == [1]  # the same by other code: beside the tagged one
    assert engine_of(1).artifact("first").manifest.config["before"]
    alone = {"first": first}
    recipe = load_recipe("ci", ("caption.seed=9",))
    found = Engine(recipe, f"file://{code.parent}/store", "", code.parent / "home", stages=alone)
    assert known_of(found, "first") == [9]


def test_it_is_accepted_after_a_change_of_code_and_stays_so(code: Path) -> None:
    for seed in (1, 2):
        known(engine(code, seed))
    before = engine(code, 1).digests()
    (code / "toy_longer.py").write_text(LONGER + "\nother = 1\n")
    fingerprint.forget()
    (status,) = engine(code, 2).status()
    assert (status.state, status.why) == ("stale", "code changed: toy_longer")
    engine(code, 1).accept("longer", "test")
    assert engine(code, 1).digests() == before
    assert known(engine(code, 2)) == [1, 2]  # made again on top of the newest
    assert engine(code, 1).digests() == before
    assert json.dumps(engine(code, 2).artifact("longer").manifest.config["before"]).count('"') == 2
