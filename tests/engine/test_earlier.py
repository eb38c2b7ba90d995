"""A stage is handed what its own code has made before, and nothing else."""

from pathlib import Path

import pytest

from kontext.engine import fingerprint
from tests.engine.test_run import REPORT, code, engine  # noqa: F401 - code is a fixture

FIRST = """
def run(ctx):
    ctx.output.add_json("earlier.json", [made.json("seed.json") for made in ctx.earlier()])
    ctx.output.add_json("seed.json", ctx.config.seed)
"""


def earlier(folder: Path, seed: int, force: bool = False) -> list[int]:
    from schemas.recipes import load_recipe

    made = engine(folder, load_recipe("demo", (f"mine.seed={seed}",)))
    digest = made.run_stage("first", REPORT, force=force).digest
    found: list[int] = made.artifacts.open("first", digest).json("earlier.json")
    return found


def test_artifacts_of_the_same_code_newest_first(code: Path) -> None:  # noqa: F811
    (code / "toy_first.py").write_text(FIRST)
    fingerprint.forget()
    assert earlier(code, 1) == []
    assert earlier(code, 2) == [1]
    assert [earlier(code, seed) for seed in (3, 4, 5)] == [[2, 1], [3, 2, 1], [4, 3, 2]]
    assert earlier(code, 5, force=True) == []  # who forces wants the work done
    (code / "toy_first.py").write_text(FIRST.replace('"seed.json")', '"seed.json") + 0'))
    fingerprint.forget()
    assert earlier(code, 6) == []


def test_other_packages_are_other_code(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    (code / "toy_first.py").write_text(FIRST)
    fingerprint.forget()
    assert earlier(code, 1) == []
    monkeypatch.setattr("kontext.engine.earlier.package_versions", lambda: {"torch": "0"})
    assert earlier(code, 2) == []
