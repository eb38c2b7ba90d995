from __future__ import annotations

from pathlib import Path

import pytest

from kontext.engine import Engine
from kontext.errors import ArtifactError
from kontext.stages import STAGES, downstream
from kontext.store import code
from schemas.data_config import Section
from schemas.recipes import RECIPES, Recipe, load_recipe


def test_order_is_execution_order_and_sections_exist() -> None:
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert stage.name == name and stage.summary and stage.pool in ("cpu", "gpu")
        assert set(stage.inputs) <= seen, f"{name} runs before its inputs"
        assert isinstance(getattr(Recipe(), stage.section), Section)
        assert stage.module in stage.code
        seen.add(name)


def test_every_named_source_exists() -> None:
    for stage in STAGES.values():
        assert len(code.code_digest(stage.code)) == 64


def test_downstream_includes_itself_and_only_dependents() -> None:
    assert downstream("distill") == ["distill", "evaluate", "publish"]
    assert downstream("ingest") == list(STAGES)
    assert downstream("publish") == ["publish"]


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("kontext.engine.code_digest", lambda names: "|".join(names))

    def make(recipe: str, *overrides: str) -> Engine:
        loaded = load_recipe(recipe, overrides)
        return Engine(loaded, f"file://{tmp_path}/store", tmp_path / "catalog.sqlite", tmp_path)

    return make


def changed(one: Engine, other: Engine) -> list[str]:
    before, after = one.digests(), other.digests()
    return [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_digests_are_distinct_and_stable(engines: object, recipe: str) -> None:
    digests = engines(recipe).digests()  # type: ignore[operator]
    assert list(digests) == list(STAGES) and len(set(digests.values())) == len(STAGES)
    assert engines(recipe).digests() == digests  # type: ignore[operator]


@pytest.mark.parametrize(
    ("override", "first"), [("distill.seed=1", "distill"), ("mine.seed=1", "mine")]
)
def test_a_change_reaches_exactly_what_is_downstream(
    engines: object, override: str, first: str
) -> None:
    assert changed(engines("ci"), engines("ci", override)) == downstream(first)  # type: ignore[operator]


def test_a_new_store_plans_everything_and_only_needs_its_inputs(engines: object) -> None:
    found = engines("ci")  # type: ignore[operator]
    assert [p.stage for p in found.plan()] == list(STAGES)
    assert not any(p.reused for p in found.plan())
    with pytest.raises(ArtifactError, match="'distill' needs 'encode', which"):
        found.plan(only="distill")
