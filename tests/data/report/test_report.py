"""The data report: counts that add up, limits where they lie, and nothing that safety rejected."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from flows import cli
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.report.funnel import filters, steps
from kontext.data.report.histograms import histogram
from kontext.data.report.limits import limits
from kontext.data.report.page import data_report
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter
from kontext.store.catalog.catalog import Catalog
from schemas.recipes import load_recipe
from schemas.tables import (
    CAPTIONS,
    IMAGES,
    OUTCOMES,
    PAIR_SCORES,
    PAIRS,
    PIXELS,
    REJECTS,
    SPLITS,
)
from tests.stages.stage_harness import Harness, rows_table
from tests.store.lake_rows import dataset

PICTURES = [np.full((8, 12, 3), value, np.uint8) for value in (10, 90, 170, 250)]
PNG = {pixel_id(picture): encode_png(picture) for picture in PICTURES}
IDS = list(PNG)
# name -> l1, nsfw, reject reasons
PLAN: dict[str, tuple[float, float, list[str]]] = {
    "good": (0.5, 0.1, []),
    "near": (0.03, 0.1, []),
    "flat": (0.01, 0.1, ["l1_min"]),
    "unsafe": (0.5, 0.9, ["nsfw_max"]),
    "both": (0.01, 0.9, ["nsfw_max", "l1_min"]),
}
PAIR = {name: f"{number:064x}" for number, name in enumerate(PLAN, 1)}


def ingest(writer: ArtifactWriter) -> None:
    writer.add_table("images/000.parquet", rows_table(IMAGES, [{"pixel_id": i} for i in IDS]))
    writer.add_table("pixels/000.parquet", pa.Table.from_pylist(
        [{"pixel_id": name, "png": png} for name, png in PNG.items()], PIXELS))  # fmt: skip
    left = [{"source": "folder", "source_ref": "x.txt", "reason": "hidden"}]
    writer.add_table("rejects.parquet", rows_table(REJECTS, left))
    outcomes = [{"outcome": "kept"}] * 4 + [{"outcome": "truncated"}] * 2
    outcomes.append({"outcome": "canary", "source": "canary"})
    writer.add_table("outcomes.parquet", rows_table(OUTCOMES, outcomes))
    writer.metrics |= {"images_planned": 6, "images_kept": 4, "entries_skipped": 1}


def mine(writer: ArtifactWriter) -> None:
    rows = [
        {"pair_id": pair, "context_ids": [IDS[1]], "target_id": IDS[0], "relation_class": "local"}
        for pair in PAIR.values()
    ]
    writer.add_table("pairs.parquet", rows_table(PAIRS, rows))
    outcomes = [{"outcome": "kept", "pairs": 5}, {"outcome": "quota", "pairs": 3}]
    writer.add_json("counts.json", {"proposed": 8, "outcomes": outcomes})


def screen(writer: ArtifactWriter) -> None:
    scores = [
        {"pair_id": PAIR[name], "l1": l1, "nsfw_max": nsfw, "change_kept": 1.0}
        for name, (l1, nsfw, _) in PLAN.items()
    ]
    writer.add_table("pair_scores.parquet", rows_table(PAIR_SCORES, scores))
    accepted = [
        {"pair_id": PAIR[name], "accept": not reasons, "reject_reasons": reasons}
        for name, (_, _, reasons) in PLAN.items()
    ]
    writer.add_table("accepted.parquet", pa.Table.from_pylist(accepted))
    thresholds = {"l1_min": 0.02, "nsfw_max": 0.3, "nsfw_max_unmatchable": 0.2}
    writer.add_json("policy.json", {"version": "p-1", "thresholds": thresholds})
    did = {"count": 5123, "rate": 0.98765, "mean": 0.0625, "std": 0.1, "limited": True}
    writer.add_json("filters.json", {"l1": {**did, "drift": 2.51}, "x": {**did, "limited": False}})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    used = Harness(tmp_path_factory.mktemp("report"), load_recipe("ci"))
    used.make("ingest", ingest)
    used.make("mine", mine)
    words = [{"pair_id": p, "status": "ok", "instruction": f"<b>{n}"} for n, p in PAIR.items()]
    used.make("caption", lambda w: w.add_table("captions.parquet", rows_table(CAPTIONS, words)))
    used.make("screen", screen)

    def shard(writer: ArtifactWriter) -> None:
        rows = [{"pair_id": PAIR["good"], "split": "train"}]
        writer.add_table("splits.parquet", rows_table(SPLITS, rows))
        writer.metrics |= {"dropped/l1_min": 2, "dropped/reference_in_another_split": 1}

    used.make("shard", shard)
    return used.inputs


def test_each_step_says_what_is_left_and_why(inputs: dict[str, Artifact]) -> None:
    found = {step.name: (step.count, dict(step.lost)) for step in steps(inputs)}
    assert found == {
        "seen": (7, {}),
        "planned": (6, {"left out by the source": 1}),
        "kept": (4, {"truncated": 2}),
        "proposed": (8, {}),
        "mined": (5, {"quota": 3}),
        "captioned": (5, {}),
        "screened": (2, {"l1_min": 2, "nsfw_max": 2}),
        "sharded": (1, {"reference_in_another_split": 1}),
    }


def test_what_a_filter_alone_removes(inputs: dict[str, Artifact]) -> None:
    found = filters(inputs["screen"].table("accepted.parquet"))
    assert {f.reason: (f.rejects, f.alone) for f in found} == {
        "l1_min": (2, 1), "nsfw_max": (2, 1)
    }  # fmt: skip


def test_the_page_shows_what_limits_decide_but_nothing_unsafe(
    inputs: dict[str, Artifact],
) -> None:
    html = data_report(inputs, "mine@v3")
    shown = set(re.findall(r"· ([0-9a-f]{12})</span>", html))
    assert shown == {PAIR[name][:12] for name in ("good", "near", "flat")}
    assert "&lt;b&gt;flat" in html and "<b>flat" not in html and "unsafe" not in html
    inside, outside = html.index("&lt;b&gt;near"), html.index("&lt;b&gt;flat")
    assert inside < outside and html.index("rejected by this alone") < outside
    assert "at most 0.3 (unmatchable: 0.2)" in html and "p-1" in html
    assert "http" not in html.replace("http-equiv", "")  # opens anywhere


def test_the_command_makes_the_page_of_a_version(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = next(iter(inputs.values()))._store.objects.url
    catalog = Catalog(tmp_path / "catalog.sqlite", store)
    made = {stage: artifact.digest for stage, artifact in inputs.items()}
    catalog.commit_dataset("mine", "one", dataset(0, {}), made)
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path))
    monkeypatch.setenv("KONTEXT_STORE", store)
    out = tmp_path / "data.html"
    result = CliRunner().invoke(cli.app, ["dataset", "report", "mine@v1", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "Data of mine@v1" in out.read_text()


def test_a_histogram_has_every_value_and_its_limit() -> None:
    (limit,) = (one for one in limits({"l1_min@style": 0.5, "l1_min": 0.25}) if one.column == "l1")
    values = np.linspace(0, 1, 97)
    found = histogram("l1", values, 3, [limit])
    assert sum(bar.count for bar in found.bars) == 97 and found.without == 3
    assert [(round(mark.at), mark.label) for mark in found.marks] == [
        (25, "0.25"), (50, "style 0.5")
    ]  # fmt: skip
    assert found.beyond == (values < 0.25).sum()
    assert {bar.left < 25 for bar in found.bars if bar.out} == {True}
    flat = histogram("l1", np.ones(5), 0, [limit])
    assert [bar.count for bar in flat.bars] == [5]


def test_what_filters_did_stands_beside_the_last_version(inputs: dict[str, Artifact]) -> None:
    page = data_report(inputs, "demo")
    assert page.count("standard errors from the last version") == 1
    row = next(line for line in page.splitlines() if "5,123" in line)
    for told in ("<code>l1</code>", "98.77 %", "0.0625", "2.5"):
        assert told in row
    assert "<code>x</code>" not in page
