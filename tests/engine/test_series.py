"""Stages that go on from the earlier artifacts of their series."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kontext.engine import fingerprint
from kontext.engine.remake import remake
from kontext.engine.run import Engine
from kontext.engine.series import goes_on_from, made_into
from kontext.engine.stage import Stage
from kontext.engine.versions import package_versions
from kontext.errors import GateError
from kontext.store.artifacts.artifact_store import run_prefix
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
    for name in ("toy_longer", "toy_user"):
        monkeypatch.delitem(sys.modules, name, raising=False)
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


@dataclass(frozen=True)
class Two:
    """The stages `first` and, made of it, `user`, whose series or tag is a dataset's."""

    code: Path
    stages: dict[str, Stage]

    @classmethod
    def of(cls, code: Path, first: dict[str, str], user: dict[str, str]) -> "Two":
        (code / "toy_user.py").write_text("def run(ctx): ctx.output.add_json('user.json', 1)\n")
        made = (
            Stage(name="first", section="caption", module="toy_longer", **first),
            Stage(name="user", section="shard", inputs=("first",), module="toy_user", **user),
        )
        return cls(code, {stage.name: stage for stage in made})

    def engine(self, seed: int, dataset: str = "one") -> Engine:
        recipe = load_recipe("ci", (f"caption.seed={seed}", f"shard.dataset={dataset}"))
        folder = self.code.parent
        store, home = f"file://{folder}/store", folder / "home"
        return Engine(recipe, store, "", home, stages=self.stages)

    def known(self, seed: int, *made: str, dataset: str = "one", force: bool = False) -> list[int]:
        """What `first` has known, after these stages were made."""
        found = self.engine(seed, dataset)
        for name in made:
            found.run_stage(name, REPORT, force=force)
        return list(found.artifact("first").json("known.json"))


BOTH = ("first", "user")


def test_a_stage_goes_on_from_what_a_later_one_of_its_series_used(code: Path) -> None:
    two = Two.of(code, {"continues": "user.dataset"}, {"continues": "dataset"})
    assert two.known(1, *BOTH) == [1] and two.known(2, *BOTH) == [1, 2]
    assert two.known(3, *BOTH, dataset="other") == [3]  # another dataset's
    assert two.known(4, "first") == [1, 2, 4]
    assert two.known(5, *BOTH) == [1, 2, 5]  # the one before has become no version
    assert two.known(2, *BOTH) == [1, 2]  # stays what it was


def comparing(code: Path) -> Two:
    return Two.of(code, {"compares": "user"}, {"tag": "u@{shard.dataset}"})


def test_a_stage_is_compared_with_the_one_behind_the_tag_of_a_later_one(code: Path) -> None:
    two = comparing(code)
    assert two.known(1, *BOTH) == [1]  # nothing was tagged
    assert two.known(1, *BOTH) == [1]  # and it stays what it was
    assert two.known(2, "first") == [1, 2]
    assert two.known(3, *BOTH) == [1, 3]  # 2 has not been tagged
    assert two.known(5, "first", dataset="other") == [5]  # another tag
    store = two.engine(1).artifacts
    store.tag("u@one", "user", two.engine(1).digests()["user"])  # by hand
    assert two.known(4, "first") == [1, 4]
    (code / "toy_longer.py").write_text(LONGER + "\nother = 1\n")
    fingerprint.forget()
    assert two.known(1, "first") == [1]  # the same by other code: beside the tagged one
    assert two.engine(1).artifact("first").manifest.config["before"]
    alone = Two(code, {"first": two.stages["first"]})
    assert alone.known(9, "first") == [9]


def test_what_was_compared_with_another_than_the_tagged_one_takes_no_tag(code: Path) -> None:
    two = comparing(code)
    assert two.known(1, "first") == [1]  # compared with nothing, and not yet tagged
    assert two.known(2, *BOTH) == [2]
    with pytest.raises(GateError, match=r"another is tagged since \(first/.*--only first --force"):
        two.known(1, "user")
    store = two.engine(1).artifacts
    assert store.tagged("u@one") == ("user", two.engine(2).digests()["user"])
    assert two.known(1, "first", force=True) == [1, 2]
    assert two.known(1, "user") == [1, 2]
    assert store.tagged("u@one") == ("user", two.engine(1).digests()["user"])


def test_the_tagged_one_may_be_made_again_and_what_is_gone_is_in_nobodys_way(code: Path) -> None:
    two = comparing(code)
    two.known(1, *BOTH)
    two.known(1, "user", force=True)  # of what is behind the tag
    two.known(2, "first")
    store = two.engine(1).artifacts
    store.objects.delete(f"{run_prefix('first', two.engine(1).digests()['first'])}manifest.json")
    assert two.known(2, "user") == [1, 2]


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
