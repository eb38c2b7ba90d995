"""Measures of a run: kept, made anew where they have to be, and said where they cannot be."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kontext.evaluate.benches.public import EDITS, Loaded, known_benches, load_bench
from kontext.evaluate.measures import MEASURES
from kontext.evaluate.measures.sets import SETS
from kontext.evaluate.metrics.distribution import kid
from kontext.evaluate.public import measuring
from kontext.evaluate.public.journal import Journal
from kontext.evaluate.public.measuring import measure_all
from kontext.evaluate.public.output import Judged, write_results
from tests.evaluate.benches import made
from tests.evaluate.measures import made as weights


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """Two sessions of MagicBrush, of two turns and of one, with captions."""
    made.magicbrush(tmp_path / "data", (2, 1))
    found = load_bench("magicbrush", tmp_path / "data", partial=True)
    return replace(found, problems=())


@pytest.fixture
def journal(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A run whose editor gave the true targets back, but for the last item."""
    monkeypatch.delenv("KONTEXT_MODELS", raising=False)
    found = Journal(tmp_path / "run")
    (found.folder / "edits").mkdir(parents=True)
    for item in loaded.items[:-1]:
        assert item.target is not None
        found.picture(item.id).write_bytes(item.target.read())
        found.add({"item": item.id, "outcome": "edited", "output": "o", "context": "c"})
    found.add({"item": loaded.items[-1].id, "outcome": "refused", "reason": "", "problem": "no"})
    return found


def test_what_cannot_be_measured_is_no_column_but_a_reason(
    loaded: Loaded, journal: Journal
) -> None:
    found = measure_all(loaded, journal)
    assert set(found.values) == {"100_1", "100_2"}
    first = found.values["100_1"]
    assert first["l1"] == 0 and first["psnr"] == 100 and first["inside_ssim"] == pytest.approx(1)
    assert first["changed"] is not None and first["changed"] > 0 and "clip_i" not in first
    for title in ("CLIP-I", "CLIP-T", "CLIP direction", "DINO", "LPIPS", "aesthetics"):
        assert found.unavailable[title].startswith("no weights: KONTEXT_MODELS has no folder")
    assert "50 pictures or more" in found.unavailable["KID"]
    summary = write_results(loaded, journal, RUN, found, Judged())
    names = [column["name"] for column in summary["columns"]]
    assert "clip_i" not in names and names[:2] == ["l1", "l2"]
    table = (journal.folder / "table.md").read_text()
    assert "- not measured: CLIP-I, no weights: KONTEXT_MODELS" in table and "CLIP-I ↑" not in table
    assert "[kontext's own code; weights none; resize the result" in table
    assert "not measured: KID" in (journal.folder / "index.html").read_text()


RUN = {"bench": "magicbrush", "editor": {"editor": "oracle"}, "seed": 0, "policy": "p", "data": "d"}


def test_weights_that_come_later_add_their_columns_and_nothing_is_measured_twice(
    loaded: Loaded, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_all(loaded, journal)
    lines = journal.folder / "measures.jsonl"
    assert len(lines.read_text().splitlines()) == 2
    with lines.open("ab") as file:
        file.write(b'{"item": "100_1", "val')  # a kill in the middle of a line
    weights.clip(tmp_path / "models")
    monkeypatch.setenv("KONTEXT_MODELS", str(tmp_path / "models"))
    looked = []
    real = measuring.made_of
    monkeypatch.setattr(measuring, "made_of", lambda *a: looked.append(a[0].id) or real(*a))
    found = measure_all(loaded, journal)
    assert looked == ["100_1", "100_2"] and "CLIP-I" not in found.unavailable
    assert found.values["100_1"]["clip_i"] == pytest.approx(1)
    assert found.values["100_1"]["clip_t"] is not None, "captions of the set"
    assert measure_all(loaded, journal).values == found.values and len(looked) == 2
    journal.add({"item": "100_2", "outcome": "edited", "output": "another", "context": "c"})
    measure_all(loaded, journal)
    assert looked[2:] == ["100_2"], "another picture is another value"


def test_a_measure_is_only_of_the_categories_it_is_for(loaded: Loaded, journal: Journal) -> None:
    bench = replace(loaded.bench, measures=("l1", "l2"), only={"l2": ("turn 2",)}, sets=())
    found = measure_all(replace(loaded, bench=bench), journal)
    assert [list(found.values[name]) for name in ("100_1", "100_2")] == [["l1"], ["l1", "l2"]]
    bench = replace(bench, measures=("l1", "text_exact"), only={})
    found = measure_all(replace(loaded, bench=bench), journal)
    assert found.unavailable == {"text exact": "no item of this run has what it compares"}


def test_sets_are_compared_over_base_pictures(
    loaded: Loaded, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With mean colours in the place of Inception's features, and a rule that three will do."""
    last = loaded.items[-1]
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(journal.picture(last.id))
    journal.add({"item": last.id, "outcome": "edited", "output": "o", "context": "c"})
    monkeypatch.setitem(SETS, "kid", replace(SETS["kid"], least=3))
    card = MEASURES["l1"].open().card

    def colours(picture: np.ndarray) -> np.ndarray:
        return picture.mean((0, 1)).astype(np.float32) / 100

    monkeypatch.setattr(measuring, "open_features", lambda: (colours, card))
    found = measure_all(loaded, journal)
    (own,) = found.sets
    shown = [measuring.made_of(item, journal) for item in loaded.items]
    features = [np.stack([colours(getattr(m, n)) for m in shown]) for n in ("target", "output")]
    assert own["value"] == pytest.approx(kid(*features)) and own["to"] == "targets"
    assert (own["n"], own["clusters"], own["card"]) == (3, 2, card.said)
    summary = write_results(loaded, journal, RUN, found, Judged())
    assert "KID of 3 results to their targets" in (journal.folder / "table.md").read_text()
    assert json.loads((journal.folder / "summary.json").read_text())["sets"] == summary["sets"]


def test_every_bench_names_measures_that_there_are() -> None:
    for module in known_benches().values():
        bench = module.BENCH
        assert set(bench.measures) <= set(MEASURES) and set(bench.sets) <= set(SETS)
        assert set(bench.only) <= set(bench.measures)
        known = {category for own in bench.only.values() for category in own}
        assert known <= set(bench.counts) or not bench.counts
    assert set(EDITS) <= set(MEASURES)
