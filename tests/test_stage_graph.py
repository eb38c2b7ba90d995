from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from kontext.engine import Engine
from kontext.errors import ArtifactError
from kontext.stages import STAGES, downstream
from kontext.store import code
from schemas.data_config import Section
from schemas.recipes import RECIPES, Recipe, load_recipe
from tests.test_architecture import ROOT, imported


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


# What changes no artifact: where things lie and how they are told, started and watched.
NEUTRAL = {
    "kontext",
    "kontext.data",
    "kontext.data.images",  # reads pictures back, and draws sheets of them
    "kontext.errors",
    "kontext.evaluate.models",  # opens weights, whose own modules count
    "kontext.launch",
    "kontext.models.tiling",  # for images larger than any that is trained on
    "kontext.parallel",
    "kontext.parallel.flops",
    "kontext.parallel.memory",
    "kontext.parallel.peaks",
    "kontext.plan",
    "kontext.stage",
    "kontext.stages",
    "kontext.stages.preview",
    "kontext.train.board",
    "kontext.train.rank",
    "kontext.train.watchdog",
}
# They serve several stages: what they import for the others is not followed.
SHARED = {"kontext.evaluate.models", "kontext.stages.ranks", "kontext.stages.start"}
_FLOW = {
    "kontext.models.blocks",
    "kontext.models.heads",
    "kontext.models.layout",
    "kontext.models.sequence",
    "kontext.models.transformer",
    "kontext.parallel.compile",
    "kontext.parallel.recompute",
    "kontext.parallel.shard",
    "kontext.parallel.ulysses",
    "kontext.train.flow",
    "kontext.train.ladd",
    "kontext.train.light_adamw",
    "kontext.train.timesteps",
    "kontext.train.whiten",
}
# Imported by modules that a stage shares with later ones (ledger, work), and not used in it.
UNUSED = {
    "train-autoencoder": _FLOW,
    "encode": {*_FLOW, "kontext.models.batch"},
    "finetune": {"kontext.train.ladd", "kontext.sample.euler"},
    "publish": {"kontext.models.quantize", "kontext.sample.sizes"},
    "evaluate": {"kontext.sample.sizes"},
}


@cache
def _imports(module: str) -> frozenset[str]:
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return frozenset()
    names = imported(file) | {name.rpartition(".")[0] for name in imported(file)}
    return frozenset(name for name in names if name.startswith("kontext"))


def _closure(module: str) -> set[str]:
    """All modules of kontext that importing `module` and running it may need."""
    found: set[str] = set()
    coming = {module}
    while coming:
        name = coming.pop()
        path = ROOT.joinpath(*name.split("."))
        if name in found or not (path.is_dir() or path.with_suffix(".py").is_file()):
            continue
        found.add(name)
        if name not in SHARED:
            coming |= _imports(name)
    return found


def _earlier(name: str) -> set[str]:
    """Code that a stage's inputs count: a change of it reaches the stage through their digests."""
    counted: set[str] = set()
    for other in STAGES[name].inputs:
        counted |= {*STAGES[other].code, *_earlier(other)}
    return counted


@pytest.mark.parametrize("name", STAGES)
def test_no_module_that_a_stage_runs_is_left_out_of_its_digest(name: str) -> None:
    """Else a change of that module would reuse an artifact that the old one made."""
    counted = {*STAGES[name].code, *_earlier(name)}
    left_out = {
        module
        for module in _closure(STAGES[name].module)
        if not any(module == one or module.startswith(f"{one}.") for one in counted)
        and not module.startswith("kontext.store")
    }
    assert left_out - NEUTRAL - UNUSED.get(name, set()) == set()


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
