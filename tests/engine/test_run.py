import dataclasses
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kontext.engine import fingerprint
from kontext.engine.remake import import_artifacts
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter, Stage, StageContext, section_of
from kontext.errors import ArtifactError, ChangedError, GateError
from kontext.safety.ledger_check import LedgerReport, check_ledger
from kontext.store.artifacts.artifact_store import is_work, manifest_key, work_prefix
from kontext.store.artifacts.transfer import copy_artifacts
from schemas.recipes import Recipe, load_recipe
from schemas.sections.data import CaptionConfig

ROOT = Path(__file__).parents[2]
REPORT = Reporter(logging.getLogger("test"))

FIRST = """
import pyarrow as pa
from schemas.tables import DECISIONS

def square(chunk):
    return {"rows": pa.table({"n": [chunk * chunk]})}

def run(ctx):
    results = ctx.map_chunks(square, [1, 2, 3])
    ctx.output.add_table("rows.parquet", pa.concat_tables(r["rows"] for r in results))
    row = {f.name: "x" if pa.types.is_string(f.type) else 0.5 for f in DECISIONS}
    ctx.output.add_table("decisions.parquet", pa.Table.from_pylist([row], schema=DECISIONS))
    ctx.output.metric("rows", 3)
    ctx.note("a fallback was taken")
    (ctx.scratch / "checkpoint").write_text("x")
"""
SECOND = """
def run(ctx):
    total = sum(ctx.inputs["first"].table("rows.parquet")["n"].to_pylist())
    if (ctx.home / "fail").exists():
        raise ValueError("told to fail")
    ctx.output.add_json("total.json", {"total": total, "seed": ctx.config.seed})
"""
THIRD = """
from schemas.sections.data import CaptionConfig

def run(ctx):
    seed = ctx.upstream("second", CaptionConfig).seed
    ctx.output.add_json("copy.json", {**ctx.inputs["second"].json("total.json"), "read": seed})
"""


def graph(folder: Path) -> dict[str, Stage]:
    for name, text in (("first", FIRST), ("second", SECOND), ("third", THIRD)):
        path = folder / f"toy_{name}.py"
        if not path.exists():
            path.write_text(text)
    stages = (
        Stage(name="first", section="mine", module="toy_first"),
        Stage(name="second", section="caption", inputs=("first",), module="toy_second"),
        Stage(name="third", section="screen", inputs=("second",), module="toy_third"),
    )
    return {stage.name: stage for stage in stages}


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    for name in ("toy_first", "toy_second", "toy_third", "toy_watched"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    fingerprint.forget()
    graph(folder)
    return folder


def engine(code: Path, recipe: Recipe | None = None, pins: dict[str, str] | None = None) -> Engine:
    home = code.parent / "home"
    return Engine(
        recipe or load_recipe("ci"),
        f"file://{code.parent}/store",
        home / "catalog.sqlite",
        home,
        run="run-1",
        stages=graph(code),
        pins=pins,
    )


def run_all(found: Engine) -> list[bool]:
    return [found.run_stage(n, REPORT).reused for n in ("first", "second", "third")]


def states(found: Engine) -> dict[str, tuple[str, str]]:
    return {s.stage: (s.state, s.why) for s in found.status()}


def test_stages_run_once_and_everything_is_recorded(code: Path) -> None:
    found = engine(code)
    assert {state for state, _ in states(found).values()} == {"missing"}
    outcome = found.run_stage("first", REPORT)
    assert not outcome.reused and outcome.digest == found.digests()["first"]
    assert not (found.home / "scratch" / "first" / outcome.digest).exists()
    assert not [key for key in found.objects.list("runs/") if is_work(key)]
    manifest = found.artifact("first").manifest
    assert manifest == outcome.manifest
    assert manifest.config == found.recipe.mine.model_dump(mode="json")
    assert manifest.notes == ["a fallback was taken"] and manifest.run == "run-1"
    assert manifest.metrics == {"rows": 3} and "torch" in manifest.packages
    assert [run_all(found), run_all(engine(code))] == [[True, False, False], [True] * 3]
    assert found.artifact("third").json("copy.json") == {"total": 14, "seed": 0, "read": 0}
    assert {state for state, _ in states(found).values()} == {"done"}
    runs = found.catalog.query("select stage from stage_runs order by created_at")
    assert runs["stage"].to_pylist() == ["first", "second", "third"]
    assert found.ledger.table().num_rows == 1
    assert found.ledger.segments()[0].artifact == f"first/{outcome.digest}"
    assert found.artifacts.resolve("second") == ("second", found.digests()["second"])
    assert found.artifacts.verify().problems == ()


def test_what_somebody_has_put_into_the_store_is_not_reused(code: Path, tmp_path: Path) -> None:
    """An artifact made for just the digest that a run asks for, whose pictures met no gate here."""
    graph = {"ingest": Stage(name="ingest", section="mine", module="toy_first")}

    def of(name: str) -> Engine:
        home = tmp_path / name
        place = (f"file://{home}/store", home / "catalog.sqlite", home)
        return Engine(load_recipe("ci"), *place, run="r", stages=graph)

    theirs, ours = of("theirs"), of("ours")
    made = theirs.run_stage("ingest", REPORT)
    copy_artifacts(theirs.artifacts, ours.artifacts)
    for again in (lambda: ours.run_stage("ingest", REPORT), lambda: ours.reuse("ingest")):
        with pytest.raises(GateError, match="neither made nor imported"):
            again()
    ours.objects.delete(manifest_key("ingest", made.digest))
    import_artifacts(theirs.artifacts, ours.artifacts, None, home=ours.home)
    assert ours.run_stage("ingest", REPORT).reused and theirs.run_stage("ingest", REPORT).reused


def test_a_version_that_was_chosen_has_met_a_gate_here_too(code: Path, tmp_path: Path) -> None:
    graph = {"ingest": Stage(name="ingest", section="mine", module="toy_first")}

    def of(name: str, pins: dict[str, str]) -> Engine:
        home = tmp_path / name
        place = (f"file://{home}/store", home / "catalog.sqlite", home)
        return Engine(load_recipe("ci"), *place, run="r", stages=graph, pins=pins)

    theirs = of("theirs", {})
    made = theirs.run_stage("ingest", REPORT)
    copy_artifacts(theirs.artifacts, of("ours", {}).artifacts)
    ours = of("ours", {"ingest": made.digest})
    for again in (lambda: ours.run_stage("ingest", REPORT), lambda: ours.reuse("ingest")):
        with pytest.raises(GateError, match="neither made nor imported"):
            again()
    assert of("theirs", {"ingest": made.digest}).reuse("ingest")


def test_a_recipe_change_redoes_that_stage_and_what_follows(code: Path) -> None:
    run_all(engine(code))
    changed = engine(code, load_recipe("ci", ("caption.seed=1",)))
    assert states(changed) == {
        "first": ("done", "manifest exists"),
        "second": ("stale", "seed: 0 → 1"),
        "third": ("stale", "input second changed"),
    }
    plan = {p.stage: p.reused for p in changed.plan()}
    assert plan == {"first": True, "second": False, "third": False}
    assert [p.stage for p in changed.plan(only="second")] == ["second", "third"]
    assert run_all(changed) == [True, False, False]
    assert run_all(engine(code)) == [True, True, True]  # the other recipe's are still there


def test_another_recipes_artifacts_are_none_of_ours(code: Path) -> None:
    """A recipe that never ran is missing; one that ran is compared with its own newest."""
    run_all(engine(code, load_recipe("ci", ("caption.seed=1",))))
    other = load_recipe("demo", ("caption.seed=2",))
    assert states(engine(code, other))["second"] == ("missing", "never made with this recipe")
    run_all(engine(code, other))
    run_all(engine(code))  # makes ci's the latest
    changed = load_recipe("demo", ("caption.seed=3",))
    assert states(engine(code, changed))["second"] == ("stale", "seed: 2 → 3")


def test_a_code_change_is_seen(code: Path) -> None:
    run_all(engine(code))
    (code / "toy_second.py").write_text('"""What it does."""\n' + SECOND + "\n# another line\n")
    fingerprint.forget()
    assert states(engine(code))["second"][0] == "done"
    (code / "toy_second.py").write_text(SECOND + "\nother = 1\n")
    fingerprint.forget()
    assert states(engine(code))["second"] == ("stale", "code changed: toy_second")
    assert states(engine(code))["first"][0] == "done"


def test_a_stage_reads_what_its_input_was_made_with_not_what_the_recipe_says(code: Path) -> None:
    """Else two recipes with one version chosen would have one digest and two results."""
    made = engine(code, load_recipe("ci", ("caption.seed=4",)))
    run_all(made)
    pins = {"second": made.digests()["second"]}
    other = engine(code, load_recipe("ci", ("caption.seed=8",)), pins)
    assert other.digests()["third"] == made.digests()["third"]
    assert other.artifact("third").json("copy.json")["read"] == 4
    assert not other.run_stage("third", REPORT, force=True).reused
    assert other.artifact("third").json("copy.json")["read"] == 4


def test_an_upstream_section_is_typed_and_of_an_input(code: Path) -> None:
    found = engine(code)
    run_all(found)
    manifest = found.artifact("second").manifest
    ctx = StageContext.__new__(StageContext)
    ctx.inputs = {"second": found.artifact("second")}
    assert ctx.upstream("second", CaptionConfig) == found.recipe.caption
    assert "recipe" not in {field.name for field in dataclasses.fields(StageContext)}
    with pytest.raises(ArtifactError, match=r"'first' is no input here \(inputs: second\)"):
        ctx.upstream("first", CaptionConfig)
    extended = {**manifest.config, "external": "x", "attempt": 2, "of_another_day": 1}
    later = manifest.model_copy(update={"config": extended})
    assert section_of(later, CaptionConfig) == found.recipe.caption
    broken = manifest.model_copy(update={"config": {"captioner": "nobody"}})
    with pytest.raises(ArtifactError, match="is no CaptionConfig"):
        section_of(broken, CaptionConfig)


WATCHED = """
from pathlib import Path

def look(section, home):
    return (home / "watched").read_text()

def run(ctx):
    ctx.output.add_json("seen.json", (ctx.home / "watched").read_text())
    if (ctx.home / "touch").exists():
        (ctx.home / "watched").write_text("another")
"""


def watching(code: Path) -> tuple[Engine, Path]:
    """An engine with a stage that reads a file of the home, and the file."""
    home = code.parent / "home"
    home.mkdir(exist_ok=True)
    (code / "toy_watched.py").write_text(WATCHED)
    look = {"module": "toy_watched", "external": "toy_watched:look"}
    stages = {"watched": Stage(name="watched", section="mine", **look)}
    store = f"file://{code.parent}/store"
    found = Engine(load_recipe("ci"), store, home / "catalog.sqlite", home, stages=stages)
    return found, home / "watched"


def test_what_changes_while_it_is_read_makes_no_artifact(code: Path) -> None:
    found, file = watching(code)
    file.write_text("first")
    (file.parent / "touch").write_text("")
    digest = found.digests()["watched"]
    with pytest.raises(ChangedError, match="changed meanwhile: run again"):
        found.run_stage("watched", REPORT)
    assert not found.artifacts.exists("watched", digest)
    (file.parent / "touch").unlink()
    again, _ = watching(code)
    outcome = again.run_stage("watched", REPORT)
    assert outcome.digest != digest  # of what the file holds now
    assert again.artifact("watched").json("seen.json") == "another"


def test_what_changed_since_the_digest_is_not_read(code: Path) -> None:
    found, file = watching(code)
    file.write_text("first")
    found.digests()
    file.write_text("second")
    with pytest.raises(ChangedError):
        found.run_stage("watched", REPORT)


def rewritten(code: Path) -> None:
    """Another line in the middle stage."""
    (code / "toy_second.py").write_text(SECOND + "\nother = 1\n")
    fingerprint.forget()


def test_an_artifact_is_accepted_although_its_code_changed(code: Path) -> None:
    made = engine(code)
    run_all(made)
    before = made.digests()
    rewritten(code)
    found = engine(code)
    assert found.accept("second", "kontext run --accept second").digest == before["second"]
    assert engine(code).digests() == before and run_all(engine(code)) == [True, True, True]
    state, why = states(engine(code))["second"]
    assert state == "done" and why.startswith("accepted 20")
    assert why.endswith("by 'kontext run --accept second'; code changed: toy_second")
    assert [p.reused for p in engine(code).plan()] == [True, True, True]
    (key,) = [k for k in found.objects.list("runs/second/") if k.endswith("accepted.json")]
    record = json.loads(found.objects.get(key))
    assert record["artifact"] == before["second"] and record["changed"] == ["toy_second"]
    assert record["artifact"] not in key.split("/")

    seen = engine(code)  # stages that use it see a note of it, and so does the report
    seen.digests()
    assert seen._input("second", before["second"]).manifest.notes == [why]
    assert not engine(code).run_stage("second", REPORT, force=True).reused
    assert states(engine(code))["second"] == ("done", "manifest exists")


def test_an_artifact_of_an_earlier_version_is_accepted(code: Path) -> None:
    """Its manifest has no hashes of single modules: which ones changed is not known."""
    made = engine(code)
    run_all(made)
    before = made.digests()["second"]
    key = f"runs/second/{before}/manifest.json"
    manifest = json.loads(made.objects.get(key))
    del manifest["code"]
    made.objects.put(key, json.dumps({**manifest, "code_digest": "0" * 16}).encode())
    rewritten(code)
    assert states(engine(code))["second"] == ("stale", "code changed")
    assert engine(code).accept("second", "test").digest == before
    state, why = states(engine(code))["second"]
    assert state == "done" and why.endswith("by 'test'; code changed")


def test_only_what_has_the_same_section_and_inputs_is_accepted(code: Path) -> None:
    with pytest.raises(ArtifactError, match="of 'second' can be accepted: it was never made"):
        engine(code).accept("second", "test")
    run_all(engine(code))
    rewritten(code)
    other = engine(code, load_recipe("ci", ("caption.seed=1",)))
    with pytest.raises(
        ArtifactError, match="can be accepted: code changed: toy_second; seed: 0 → 1"
    ):
        other.accept("second", "test")
    with pytest.raises(ArtifactError, match="can be accepted: input second changed"):
        engine(code).accept("third", "test")
    with pytest.raises(ArtifactError, match="unknown stage 'nope'"):
        engine(code).accept("nope", "test")
    assert states(engine(code))["second"][0] == "stale"
    engine(code).accept("second", "test")
    assert engine(code).accept("third", "test").digest == engine(code).digests()["third"]


def test_force_keeps_the_old_artifact_and_changes_what_follows(code: Path) -> None:
    found = engine(code)
    run_all(found)
    before = found.digests()
    plan = found.plan(force=("second",))
    assert [(p.stage, p.reused, p.why) for p in plan] == [
        ("first", True, "manifest exists"),
        ("second", False, "forced"),
        ("third", False, "after second"),
    ]
    outcome = found.run_stage("second", REPORT, force=True)
    after = found.digests()
    assert outcome.digest == after["second"] != before["second"]
    assert after["first"] == before["first"] and after["third"] != before["third"]
    assert outcome.manifest.config["attempt"] == 1
    assert found.artifacts.exists("second", before["second"])
    assert run_all(engine(code)) == [True, True, False]  # the forced one is the one in use
    assert found.run_stage("second", REPORT, force=True).manifest.config["attempt"] == 2


def test_a_failed_forced_run_is_continued_not_forced_again(code: Path) -> None:
    found = engine(code)
    run_all(found)
    (found.home / "fail").touch()
    with pytest.raises(ValueError, match="told to fail"):
        found.run_stage("second", REPORT, force=True)
    digest = found.digests()["second"]
    assert states(found)["second"][0] == "stale"
    (found.home / "fail").unlink()
    assert found.run_stage("second", REPORT, force=True).digest == digest


def test_a_failing_stage_leaves_no_artifact(code: Path) -> None:
    found = engine(code)
    found.run_stage("first", REPORT)
    (found.home / "fail").touch()
    with pytest.raises(ValueError, match="told to fail"):
        found.run_stage("second", REPORT)
    assert states(found)["second"][0] == "missing"
    assert found.artifacts.tagged("latest/second") is None


def test_missing_inputs_and_unknown_stages_are_named(code: Path) -> None:
    found = engine(code)
    with pytest.raises(ArtifactError, match="'second' needs 'first'"):
        found.run_stage("second", REPORT)
    with pytest.raises(ArtifactError, match="'second' needs 'first', which is missing"):
        found.plan(only="second")
    with pytest.raises(ArtifactError, match="'third' needs 'second', which is missing"):
        found.plan(from_="third")
    for call in (lambda: found.plan(force=("nope",)), lambda: found.run_stage("nope", REPORT)):
        with pytest.raises(ArtifactError, match="unknown stage 'nope'"):
            call()
    assert [p.stage for p in found.plan()] == ["first", "second", "third"]


def test_a_lost_catalog_or_tag_is_mended_on_reuse(code: Path) -> None:
    found = engine(code)
    run_all(found)
    for path in found.home.glob("catalog.sqlite*"):
        path.unlink()
    found.artifacts.untag("latest/first")
    again = engine(code)
    assert run_all(again) == [True, True, True]
    assert again.catalog.query("select count(*) n from runs")["n"].to_pylist() == [3]
    assert again.artifacts.tagged("latest/first") == ("first", again.digests()["first"])


_RACE = """
import logging, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from tests.engine.test_run import REPORT, engine
if __name__ == "__main__":
    print(engine(Path(sys.argv[1])).run_stage("first", REPORT).reused)
"""


def test_two_processes_do_not_do_the_same_work_twice(code: Path, tmp_path: Path) -> None:
    script = tmp_path / "race.py"
    script.write_text(_RACE)
    command = [sys.executable, str(script), str(code), str(ROOT)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = sorted(run.communicate()[0].strip() for run in runs)
    assert answers == ["False", "True"]


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from kontext.store.artifacts.artifact_store import ArtifactWriter
from tests.engine.test_run import REPORT, engine
if __name__ == "__main__":
    ArtifactWriter.commit = lambda self, manifest: os.kill(os.getpid(), signal.SIGKILL)
    engine(Path(sys.argv[1])).run_stage("first", REPORT)
"""


def test_killed_just_before_the_manifest_is_as_if_it_never_ran(code: Path, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    done = subprocess.run([sys.executable, str(script), str(code), str(ROOT)], check=False)
    assert done.returncode == -signal.SIGKILL
    found = engine(code)
    assert states(found)["first"][0] == "missing"
    digest = found.digests()["first"]
    assert len(found.objects.list(work_prefix("first", digest))) == 6  # three chunks, kept
    report = Reporter(logging.getLogger("test"))
    assert not found.run_stage("first", report).reused
    assert (report.earlier_run, report.continued_from) == ("run-1", "chunk 3 of 3")
    assert check_ledger(found.ledger, found.artifacts) == LedgerReport(1, 1, ())
    assert list((found.home / "scratch" / "first").iterdir()) == []
