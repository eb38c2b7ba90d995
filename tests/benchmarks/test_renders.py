"""The benchmark of real renders: its recipe, and what it says of a run that was stopped."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import renders
from schemas.recipes import Recipe


def record(cpu: float, stops: int = 0) -> renders.Record:
    peak = {"own": 1.0, "worker": 0.5}
    return {"seconds": 2 * cpu, "cpu": cpu, "peak_gb": peak, "stops": stops}


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


def test_what_a_stage_took_before_it_was_stopped_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {name: record(10.0) for name in renders.STAGES if name != "screen"}
    made["ingest"]["images_planned"] = 100
    part = {"seconds": 3.0, "cpu": 2.0, "peak_gb": {"own": 0.1, "worker": 4.0}}
    notes = tmp_path / "measured.json"
    notes.write_text(json.dumps({**made, "screen": {"parts": [part]}}))

    def killed(command: list[str], note: Callable[[renders.Record], None]) -> renders.Record:
        note(part)
        raise KeyboardInterrupt

    monkeypatch.setattr(renders, "watched", killed)
    with pytest.raises(KeyboardInterrupt):
        renders.measured(100, tmp_path)
    monkeypatch.setattr(renders, "watched", lambda command, note: record(1.0))
    found = renders.measured(100, tmp_path)["screen"]
    assert (found["cpu"], found["seconds"], found["stops"]) == (5.0, 8.0, 2)
    assert found["peak_gb"] == {"own": 1.0, "worker": 4.0}
    assert "(stopped 2 x)" in renders.line("screen", found, 100)


def test_a_command_and_what_it_starts_are_watched() -> None:
    busy = "import time; made = b'1' * 2**26\nwhile time.process_time() < .4: pass\n"
    command = "import subprocess, sys, time\n"
    command += f"child = subprocess.Popen([sys.executable, '-c', {busy + 'time.sleep(1)'!r}])\n"
    command += f"{busy}child.wait()\nprint('said'); print('{{\"images_kept\": 3}}')"
    told: list[renders.Record] = []
    found = renders.watched([sys.executable, "-c", command], told.append, every=0.2)
    assert found == {"images_kept": 3}
    assert max(part["cpu"] for part in told) > 0.7  # of both
    assert max(min(part["peak_gb"].values()) for part in told) > 2**26 / 2**30
    with pytest.raises(subprocess.CalledProcessError):
        renders.watched([sys.executable, "-c", "raise SystemExit(3)"], told.append)
