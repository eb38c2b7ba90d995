"""The benchmark of real renders: its recipe, and what it says of a run that was stopped."""

import json
from pathlib import Path

import pytest

from benchmarks import renders
from schemas.recipes import Recipe


def record(cpu: float, resumed: bool = False) -> renders.Record:
    peak = {"own": 1.0, "worker": 0.5}
    return {"seconds": 2 * cpu, "cpu": cpu, "peak_gb": peak, "resumed": resumed}


def test_its_recipe_grows_with_the_pictures() -> None:
    found = [Recipe.model_validate(renders.sections(count)) for count in (1600, 3200)]
    sources = [recipe.ingest.sources for recipe in found]
    concepts = [icons.model_dump()["max_concepts"] for icons, _ in sources]
    seeds = [drawn.model_dump()["seeds"] for _, drawn in sources]
    assert concepts[1] == 2 * concepts[0] and abs(seeds[1] - 2 * seeds[0]) <= 1
    each = renders.planned(sources[0][1].model_copy(update={"seeds": 1}).model_dump())
    icons = [renders.planned(own[0].model_dump()) for own in sources]
    for count, seed, drawn in zip((1600, 3200), seeds, icons, strict=True):
        assert count - each < seed * each + drawn <= count


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {name: record(10.0) for name in renders.STAGES}
    made["ingest"]["images_planned"] = 100
    (tmp_path / "measured.json").write_text(json.dumps(made))
    found = renders.measured(100, tmp_path)
    assert found == made and renders.cost(found) == pytest.approx(0.5)
    assert capsys.readouterr().out.count("100.00 ms of CPU a picture") == 5
    found["screen"] = record(1.0, resumed=True)
    assert renders.cost(found) is None
    assert "went on after a stop" in renders.line("screen", found["screen"], 100)
