"""`kontext compare`: evaluations beside each other, on one page."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from flows.cli import app
from kontext.data.pixels import encode_png
from kontext.data.shards.read import load_split
from kontext.errors import ArtifactError
from kontext.evaluate.comparing.chosen import chosen
from kontext.evaluate.comparing.compared import compared
from kontext.evaluate.comparing.page import page
from kontext.evaluate.comparing.sides import opened
from kontext.evaluate.comparing.table import markdown
from kontext.evaluate.score import ITEMS
from kontext.store.artifacts.artifact_store import ArtifactStore
from schemas.tables import CATEGORIES
from tests.stages import finished_run
from tests.stages.finished_run import SIDE
from tests.stages.stage_harness import Harness

Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def scored(harness: Harness) -> list[dict[str, Any]]:
    """Items of student and teacher, with a picture each, as an evaluation has them."""
    pairs, table = load_split(harness.inputs["shard"], "test"), harness.inputs["shard"].table
    component = {row["pair_id"]: row["component_id"] for row in table("splits.parquet").to_pylist()}
    texts = ("pair_id", "relation", "instruction", "source")
    place = {"offset_bytes": 0, "length_bytes": len(PICTURE), "picture": "made.png"}
    return [
        {name: getattr(row, name) for name in texts}
        | {"category": row.relation_class, "cluster": component[row.pair_id], "editor": editor}
        | {"mae_ratio": 0.25, **place}
        for row in pairs.rows
        if row.relation_class in CATEGORIES
        for editor in ("student", "teacher")
    ]


PICTURE = encode_png(np.full((SIDE, SIDE, 3), 90, np.uint8))


def another(harness: Harness, name: str, change: Change, **manifest: Any) -> str:
    """An evaluation with outcomes of its own."""
    writer = harness.store.writer("evaluate", name)
    writer.add_table("items.parquet", pa.Table.from_pylist(change(scored(harness)), schema=ITEMS))
    writer.add_bytes("edits.tar", PICTURE)  # as in a tar, a picture is found by its place
    base = {"stage": "evaluate", "digest": name, "files": list(writer.files.values())}
    inputs = {"inputs": {"shard": harness.inputs["shard"].digest}}
    settings = {"metrics": {"success_measure": "one"}, "config": {"seed": 0}}
    made = harness.inputs["shard"].manifest.model_copy
    writer.commit(made(update={**base, **inputs, **settings, **manifest}))
    return f"evaluate/{name}"


def passing(share: float) -> Change:
    """The first items of each category and model succeed."""

    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seen: dict[tuple[str, str], int] = {}
        for row in rows:
            key = row["category"], row["editor"]
            seen[key] = seen.get(key, 0) + 1
            row["success"] = seen[key] <= 4 * share
        return rows

    return change


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, ArtifactStore]:
    harness = Harness(tmp_path_factory.mktemp("compare"), finished_run.recipe())
    images, pairs = finished_run._pairs()
    harness.make("shard", lambda w: finished_run._shard(w, pairs, images, harness.folder))
    shard = {"shard": harness.inputs["shard"].digest}
    for seed in range(6):
        other = {"inputs": {**shard, "distill": f"seed-{seed}"}}
        another(harness, f"none-{seed}", passing(0), **other)
        another(harness, f"all-{seed}", passing(1), **other)
    another(harness, "fewer", lambda rows: [r for r in passing(1)(rows) if r["category"] != "text"])
    another(harness, "half", passing(0.5))
    another(harness, "unlike", passing(1), metrics={"success_measure": "another"})
    return harness, harness.store


def refs(*names: str) -> list[str]:
    return [",".join(f"evaluate/{one}" for one in name.split(",")) for name in names]


def test_every_verdict_and_the_figures_behind_it(store: tuple[Harness, ArtifactStore]) -> None:
    found = compared(opened(store[1], refs("none-0", "all-0", "none-1")))
    assert found.headline == "B is better than A, C beside A is undecided"
    assert found.single and len(found.shared) == 4 * len(CATEGORIES)
    every = found.versions[0].differences
    assert {name for name in every if name.startswith("student/")} == {
        f"student/{name}" for name in ("all", *CATEGORIES)
    }
    assert found.rates["B"]["student/local"].value == 1.0
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["compared"]["B"]["differences"]["student/all"]["gained"] == 4 * len(CATEGORIES)
    text = markdown(found)
    assert "| student, all | 20* | 0.0 | 100.0 | +100.0" in text and "↑ better" in text
    assert "not of other seeds" in text


def test_seeds_of_a_recipe_are_one_side(store: tuple[Harness, ArtifactStore]) -> None:
    found = compared(opened(store[1], refs("none-0,none-1,none-2", "all-0,all-1,all-2")))
    each = found.versions[0].differences["student/all"]
    assert (each.runs, each.interval.n, each.verdict) == (3, 60, "better") and not found.single
    mixed = compared(opened(store[1], refs("none-0,none-1,none-2", "all-0,none-3,none-4")))
    each = mixed.versions[0].differences["student/all"]
    assert each.verdict == "undecided" and each.interval.low < 0 < each.value
    assert re.fullmatch(r"undecided: .* seeds needed, and as many times the items", each.words)
    one = compared(opened(store[1], refs("none-0", "all-1,all-2")))
    assert one.versions[0].differences["student/all"].lost == 0


def test_items_that_not_all_have_are_counted(store: tuple[Harness, ArtifactStore]) -> None:
    found = compared(opened(store[1], refs("none-0", "fewer")))
    assert len(found.shared) == 4 * (len(CATEGORIES) - 1)
    assert found.as_dict()["sides"][0]["not_shared"] == 4
    assert "no item in common: text" in found.verdicts[0] and "text" not in found.categories
    assert found.headline == "B is better than A"


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["none-0"], "2 to 8 evaluations are compared, not 1"),
        (["none-0", "none-0"], "compared with itself"),
        (["none-0", "unlike"], "cannot be compared: success is by"),
        (["half,fewer,none-0", "all-0"], "the same training, evaluated twice"),
        (["none-0,none-1", "all-0,all-1,all-2"], "the same number of seeds"),
    ],
)
def test_what_cannot_be_compared_is_said(
    store: tuple[Harness, ArtifactStore], names: Sequence[str], why: str
) -> None:
    with pytest.raises(ArtifactError, match=re.escape(why)):
        opened(store[1], refs(*names))


def test_pictures_are_gains_losses_disputed_and_by_chance(
    store: tuple[Harness, ArtifactStore],
) -> None:
    first, gained, half = opened(store[1], refs("none-0", "all-0", "half"))
    up, down = chosen(first, gained, "local"), chosen(gained, first, "local")
    assert len(up["gains"]) == len(down["losses"]) == 4 and not up["losses"] and not up["chance"]
    some = chosen(first, half, "local")
    assert (len(some["gains"]), len(some["chance"])) == (2, 2)
    seeds = opened(store[1], refs("none-0,all-1", "none-2,none-3"))
    assert len(chosen(*seeds, "local")["losses"]) == 4
    assert {one.run for one in chosen(*seeds, "local")["losses"]} == {1}
    quarrel = opened(store[1], refs("none-0,all-1", "none-2,all-3"))
    assert len(chosen(*quarrel, "local")["disputed"]) == 4


def test_the_page_has_all_in_one_file_and_every_number_leads_somewhere(
    store: tuple[Harness, ArtifactStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, _ = store
    harness.home.mkdir()
    monkeypatch.setenv("KONTEXT_HOME", str(harness.home))
    out = tmp_path / "page.html"
    asked = ["compare", *refs("none-0", "all-0"), "-o", str(out)]
    made = CliRunner().invoke(app, [*asked, "--store", f"file://{harness.folder}/store"])
    assert made.exit_code == 0, made.output
    text = out.read_text()
    assert text.index("B is better than A") < text.index("Categories side by side")
    assert not re.search(r"(src|href)=\"(?!data:|#)", text) and "<script" not in text
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    assert 'href="#e-student-local"' in text and "&lt;b&gt;" in text and "make the <b>" not in text
    assert text.count("data:image/png") >= 4 * 4 * len(CATEGORIES)
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["headline"] == "B is better than A"
    assert out.with_suffix(".md").read_text() in made.output


def test_a_picture_that_is_gone_is_said(store: tuple[Harness, ArtifactStore]) -> None:
    harness, known = store
    inputs = {"shard": "gone"}
    name = another(harness, "lost", passing(1), inputs=inputs)
    text = page(compared(opened(known, [name, "evaluate/none-0"])), known)
    assert "not in this store" in text
