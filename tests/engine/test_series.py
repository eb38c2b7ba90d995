"""Stages that go on from the earlier artifacts of their series."""

import json
import sys
from pathlib import Path

import pytest

from kontext.engine import fingerprint
from kontext.engine.remake import remake
from kontext.engine.run import Engine
from kontext.engine.series import goes_on_from
from kontext.engine.stage import Stage
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
