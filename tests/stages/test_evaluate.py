import json
import math
import re
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kontext.data.pixels import decode_png
from kontext.engine.remake import record_all
from kontext.errors import ArtifactError
from kontext.evaluate.benches import held_out
from kontext.evaluate.references import EDITORS
from kontext.stages import evaluate
from kontext.stages.evaluate import _versions
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.catalog.catalog import Catalog
from schemas.sections.evaluation import EvaluateConfig
from schemas.tables import CATEGORIES
from tests.stages.finished_run import CANARY_HASH, SIDE, evaluated_run, finished_run
from tests.stages.stage_harness import Harness


@pytest.fixture(scope="module")
def evaluated() -> tuple[Harness, Artifact]:
    harness = evaluated_run()
    return harness, harness.inputs["evaluate"]


def test_artifact_has_what_the_contract_says(evaluated: tuple[Harness, Artifact]) -> None:
    names = set(evaluated[1].names())
    assert {"items.parquet", "scores.json", "latency.json", "report/index.html"} <= names
    assert {f"grids/{name}.png" for name in CATEGORIES} <= names
    assert any(name.startswith("report/assets/") for name in names)


def test_reference_editors_frame_the_scores(evaluated: tuple[Harness, Artifact]) -> None:
    scores = evaluated[1].json("scores.json")
    for category in CATEGORIES:
        row = {name: by[category] for name, by in scores["scores"].items()}
        assert row["identity"]["success"]["value"] == 0.0
        assert row["identity"]["mae_ratio"]["value"] == 1.0
        assert row["identity"]["outside_ratio"]["value"] == 0.0
        assert row["oracle"]["success"]["value"] == 1.0
        assert row["oracle"]["feature_ratio"]["value"] == 0.0
        assert row["codec"]["outside_ratio"]["value"] == pytest.approx(1.0)
        assert row["identity"]["clip_direction"]["value"] == 0.0
        assert row["oracle"]["ssim"]["value"] == pytest.approx(1.0)
        assert row["student"]["success"]["n"] == 4 and row["student"]["success"]["small"]


def test_goals_not_reached_are_said_so(evaluated: tuple[Harness, Artifact]) -> None:
    harness, artifact = evaluated
    goals = {goal["name"]: goal for goal in artifact.json("scores.json")["goals"]}
    assert {name: goals[name]["goal"] for name in goals} == {
        "local": 0.75,
        "global": 0.7,
        "text": 0.9,
        "style": 0.6,
        "character": 0.75,
        "recolouring": 0.9,
        "text_read": 0.85,
        "outside": 1.3,
        "autoencoder": 28.0,
    }
    assert not goals["autoencoder"]["reached"]  # the weights are untrained
    page = artifact.path("report/index.html").read_text()
    missed = sum(goal["verdict"] == "not reached" for goal in goals.values())
    assert page.count("not reached</span>") == missed > 0
    assert "not reached" in harness.report.texts["verdict"]
    assert artifact.manifest.metrics["goals_reached"] == sum(g["reached"] for g in goals.values())


def test_items_hold_every_editor_and_item(evaluated: tuple[Harness, Artifact]) -> None:
    rows = evaluated[1].table("items.parquet").to_pylist()
    assert len(rows) == len(EDITORS) * 4 * len(CATEGORIES)
    for row in rows:
        conditions = ("right_choice", "sharp", "kept")
        assert row["success"] == all(row[name] == 1.0 for name in conditions)
        assert not any(isinstance(v, float) and math.isnan(v) for v in row.values())


def test_items_of_the_models_are_a_table_of_the_catalog_with_their_pictures(
    evaluated: tuple[Harness, Artifact], tmp_path: Path
) -> None:
    harness, artifact = evaluated
    catalog = Catalog(tmp_path / "catalog.sqlite", harness.objects.url)
    catalog.record(artifact.manifest)  # as kontext did before there was the table
    assert catalog.query("select * from evaluated_items").num_rows == 0
    assert record_all(harness.store, catalog, [artifact.manifest]) == 1
    assert record_all(harness.store, catalog, [artifact.manifest]) == 0
    rows = catalog.query("select * from evaluated_items order by pair_id, model").to_pylist()
    items = 4 * len(CATEGORIES)
    assert [row["model"] for row in rows] == ["student", "teacher"] * items
    assert {row["digest"] for row in rows} == {artifact.digest}
    known = {(r["pair_id"], r["editor"]): r for r in artifact.table("items.parquet").to_pylist()}
    for row in rows:
        item = known[row["pair_id"], row["model"]]
        assert (row["success"], row["mae_ratio"], row["component_id"]) == (
            (item["success"], item["mae_ratio"], item["cluster"])
        )
        png = harness.objects.get(row["object"], row["offset_bytes"], row["length_bytes"])
        assert decode_png(png).shape == (SIDE, SIDE, 3)
        assert row["picture"] == f"{row['pair_id'][:32]}.{row['model']}.png"
    with tarfile.open(artifact.path("edits.tar")) as tar:
        assert sorted(tar.getnames()) == sorted(row["picture"] for row in rows)


class Links(HTMLParser):
    """Collects what a browser would fetch, and text it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.bad: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.scripts = 0

    VOID = frozenset({"meta", "link", "img", "br", "path", "rect", "use"})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.scripts += tag == "script"
        for name in ("src", "srcset", "data", "poster"):
            self.fetched += [values[name] or ""] if name in values else []
        if tag == "link":
            self.fetched.append(values["href"] or "")
        if tag == "a":
            self.anchors.append(values["href"] or "")
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.bad.append(tag)


@pytest.fixture(scope="module")
def page(evaluated: tuple[Harness, Artifact]) -> tuple[Path, str, Links]:
    index = evaluated[0].folder / "home" / "report" / "latest" / "index.html"
    text = index.read_text()
    links = Links()
    links.feed(text)
    return index.parent, text, links


def test_the_report_marks_known_truths_that_do_not_hold(
    evaluated: tuple[Harness, Artifact], page: tuple[Path, str, Links]
) -> None:
    """Plain squares with an untrained autoencoder: a fill of one colour is the right edit here."""
    truths = evaluated[1].json("scores.json")["truths"]
    judged = {name for name, spec in EDITORS.items() if spec.must}
    assert len(truths) == len(judged) * len(CATEGORIES)
    broken = [truth for truth in truths if not truth["holds"]]
    assert {truth["editor"] for truth in broken} >= {"filled"}
    assert not {truth["editor"] for truth in broken} & {"identity", "codec_target", "ghost_51"}
    assert page[1].count(' broken"') == len(broken)
    assert f"success judges {len(truths) - len(broken)} of {len(truths)} known truths" in page[1]


def test_every_linked_asset_exists_and_nothing_is_external(
    page: tuple[Path, str, Links],
) -> None:
    folder, text, links = page
    pages = [link.partition("#")[0] for link in links.anchors if not link.startswith("#")]
    items = {f"assets/items-{name}.html" for name in CATEGORIES}
    assert set(pages) == {"assets/data.html", *items}  # the data report, and every item
    wanted = [link for link in links.fetched if not link.startswith("data:")] + pages
    assert len(wanted) > 50
    for link in wanted:
        assert (folder / link).is_file(), link
    style = (folder / "assets" / "report.css").read_text()
    for source in (text, style):
        assert not re.search(r"(https?:)?//[\w.-]+\.\w+", source)
        assert "@import" not in source and "url(http" not in source
    assert links.scripts == 0
    used = {Path(link).name for link in wanted}
    assert {path.name for path in (folder / "assets").iterdir()} == used  # and nothing is left over


def test_a_figure_leads_to_every_item_with_its_noise_and_values(
    page: tuple[Path, str, Links],
) -> None:
    folder, _, links = page
    for name in CATEGORIES:
        text = (folder / "assets" / f"items-{name}.html").read_text()
        found = Links()
        found.feed(text)
        assert found.bad == [] and found.open == [] and found.scripts == 0
        assert found.anchors == ["../index.html#verdict"]
        assert len(found.fetched) == 2 + 4 * 4  # icon, style and four pictures of four items
        assert text.count("seed 0, stream ") == 4 and "Edit success" in text
        assert "&lt;b&gt;" in text and "make the <b>" not in text
        wanted = {a.partition("#")[2] for a in links.anchors if f"items-{name}.html#" in a}
        assert wanted and wanted <= set(found.ids)


def test_markup_is_balanced_and_anchors_lead_somewhere(page: tuple[Path, str, Links]) -> None:
    _, _, links = page
    assert links.bad == [] and links.open == []
    assert {anchor[1:] for anchor in links.anchors if anchor.startswith("#")} <= set(links.ids)
    assert len(links.ids) == len(set(links.ids))


def test_instructions_are_escaped(page: tuple[Path, str, Links]) -> None:
    assert "&lt;b&gt;" in page[1] and "make the <b>" not in page[1]


def test_report_is_the_same_in_store_digest_and_latest(evaluated: tuple[Harness, Artifact]) -> None:
    harness, artifact = evaluated
    home = harness.folder / "home" / "report"
    for name in artifact.names("report/"):
        stored = artifact.path(name).read_bytes()
        short = name.removeprefix("report/")
        assert (home / "latest" / short).read_bytes() == stored
        assert (home / artifact.digest / short).read_bytes() == stored
    assert not (home / "latest").is_symlink()


def test_report_tells_notes_canaries_and_reasons_but_no_subject(
    evaluated: tuple[Harness, Artifact], page: tuple[Path, str, Links]
) -> None:
    _, text, _ = page
    assert "no external hash list" in text and "3 of 5" in text
    assert (
        "the category had enough of this relation" in text
        and "context and target look the same" in text
    )
    assert CANARY_HASH not in text
    for name in evaluated[1].names():
        assert CANARY_HASH.encode() not in evaluated[1].path(name).read_bytes()


def test_the_log_says_what_is_being_done_and_nothing_twice(
    evaluated: tuple[Harness, Artifact],
) -> None:
    lines = evaluated[0].log.lines
    begun = [
        next(number for number, line in enumerate(lines) if line.startswith(said))
        for said in ("scoring 20 items of ", "diagnosis: ", "steps against ", "writing the report")
    ]
    assert begun == sorted(begun)
    assert len(lines) == len(set(lines))
    why = evaluated[1].json("drift.json")["why"]
    assert [line for line in lines if why in line] == [f"scripts of several turns: {why}"]


def test_run_page_gets_pictures_and_tables(evaluated: tuple[Harness, Artifact]) -> None:
    report = evaluated[0].report
    assert {f"edits-{name}" for name in CATEGORIES} <= set(report.images)
    assert len(report.tables["goals"]) == 9 and len(report.tables["success"]) == 10


def test_latency_has_all_parts(evaluated: tuple[Harness, Artifact]) -> None:
    latency = evaluated[1].json("latency.json")
    parts = {part["name"]: part for part in latency["parts"]}
    inside = {"text_encode", "context_encode", "student", "decode", "step", "teacher"}
    assert set(parts) == {*inside, "gates"} and not latency["gates_missing"]
    assert parts["student"]["nfe"] == 4 and parts["teacher"]["nfe"] == 2
    for part in parts.values():
        assert part["median_ms"] <= part["p90_ms"] <= part["p99_ms"] and part["runs"] >= 10
    whole = sum(
        parts[n]["median_ms"] for n in ("text_encode", "context_encode", "student", "decode")
    )
    assert latency["student_ms"] == pytest.approx(whole, abs=0.01)


def test_killed_in_the_middle_it_leaves_nothing_and_runs_again_to_the_same(
    evaluated: tuple[Harness, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def dying(**_: object) -> None:
        raise Died

    harness = finished_run(tmp_path)
    with monkeypatch.context() as patch:  # when all edits are made, and none is scored
        patch.setattr(evaluate, "load_features", dying)
        with pytest.raises(Died):
            harness.run("evaluate")
    assert not harness.store.refs("evaluate") and not (harness.home / "report").exists()
    again = harness.run("evaluate")
    for name in ("scores.json", "items.parquet", "edits.tar", "grids/local.png", "grids/style.png"):
        assert again.path(name).read_bytes() == evaluated[1].path(name).read_bytes()


def test_a_model_is_compared_with_the_tagged_one_on_the_same_items(
    evaluated: tuple[Harness, Artifact], tmp_path: Path
) -> None:
    first = evaluated[1].json("versions.json")
    assert first["line"] == "not compared: no published model of this name has an evaluation here"
    harness = evaluated[0].elsewhere(tmp_path / "again")
    harness.before = [evaluated[1]]
    found = harness.run("evaluate")
    told = found.json("versions.json")
    assert told["items"] == told["before"] == 4 * len(CATEGORIES) and told["fell"] == []
    assert all(row["lost"] == row["gained"] == 0 for row in told["differences"].values())
    assert found.manifest.metrics["versions"] == told["line"]
    page = found.path("report/index.html").read_text()
    assert told["line"] in page and "<h3>Beside the published model</h3>" in page
    assert f"Beside the tagged model: {told['line']}." in harness.report.texts["verdict"]
    other = found.manifest.model_copy(update={"metrics": {"success_measure": "another"}})
    settings = {"config": {**found.manifest.config, "mask_threshold": 0.5}}
    masked = found.manifest.model_copy(update=settings)
    for made, why in (
        (other, "by another measure of success"),
        (masked, "with another evaluate.mask_threshold"),
    ):
        ctx = harness.context("evaluate", harness.store.writer("evaluate", "versions"))
        ctx.before = [Artifact(harness.store, made)]
        assert (
            _versions(ctx, found.table("items.parquet")).line
            == f"not compared: the published model was scored {why}"
        )


def test_the_report_says_which_instructions_training_has(
    evaluated: tuple[Harness, Artifact], page: tuple[Path, str, Links]
) -> None:
    told = evaluated[1].json("scores.json")["wordings"]
    assert told == {"items": 4 * len(CATEGORIES), "known": 0, "reworded_known": 0}
    assert "The instructions of 0 of 20 items stand in training word by word" in page[1]


def test_the_report_says_where_the_figures_come_from(
    evaluated: tuple[Harness, Artifact], page: tuple[Path, str, Links]
) -> None:
    _, artifact = evaluated
    told = artifact.json("diagnosis.json")
    assert len(told["items"]) == 2 * len(CATEGORIES)
    checks = {one["check"] for one in (*told["context"], *told["relations"])}
    assert checks == {
        *("blank", "shuffled", "mirrored"),
        *("no-op", "inverse", "paraphrase", "commuting"),
    }
    assert [each["category"] for each in told["blame"]] == ["all", *CATEGORIES]
    assert told["contamination"]["trained"] == 6 * len(CATEGORIES)  # none of words alone
    verdicts = artifact.manifest.metrics
    assert verdicts["copies"] == told["copies"]["verdict"]
    assert verdicts["context"] == "ignored"  # the weights are untrained
    _, text, _ = page
    assert '<section id="diagnosis">' in text and "Which stage loses what?" in text
    for line in told["lines"]:
        assert line[1:40].replace("'", "&#39;") in text


def test_steps_are_shown_against_quality(
    evaluated: tuple[Harness, Artifact], page: tuple[Path, str, Links]
) -> None:
    rows = evaluated[1].json("steps.json")
    assert [(row["model"], row["steps"]) for row in rows] == [
        (model, steps) for model in ("student", "teacher") for steps in (1, 2, 4, 8, 28)
    ]
    assert {row["success"]["n"] for row in rows} == {len(CATEGORIES)}
    assert "Steps against quality" in page[1] and "Of 5 items" in page[1]


def test_recolourings_and_removals_have_their_own_rows_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = {"global": "recolouring", "style": "removal"}
    monkeypatch.setattr(
        held_out, "scored_category", lambda row: apart.get(row.relation_class, row.relation_class)
    )
    harness = finished_run(tmp_path)
    artifact = harness.run("evaluate")
    page = artifact.path("report/index.html").read_text()
    for before, category in apart.items():
        assert category in artifact.json("scores.json")["categories"]
        assert f"grids/{category}.png" in artifact.names()
        assert f"grids/{before}.png" not in artifact.names()
        assert f'id="edits-{category}"' in page
        assert isinstance(artifact.manifest.metrics[category], float)
    assert page.count("no goal</td>") == 1  # removals'
    assert "removal" not in [goal["name"] for goal in artifact.json("scores.json")["goals"]]
    assert harness.run("publish").names()


def test_a_bench_without_test_pairs_is_one_clear_error(tmp_path: Path) -> None:
    harness = finished_run(tmp_path)
    strict = EvaluateConfig(mask_threshold=1.0, items_per_category=4)
    harness.recipe = harness.recipe.model_copy(update={"evaluate": strict})
    with pytest.raises(ArtifactError, match="no edit with a visible change"):
        harness.run("evaluate")


def test_json_files_hold_no_nan(evaluated: tuple[Harness, Artifact]) -> None:
    def refuse(text: str) -> float:
        raise AssertionError(text)

    for name in ("scores.json", "latency.json", "steps.json", "diagnosis.json"):
        json.loads(evaluated[1].path(name).read_bytes(), parse_constant=refuse)
