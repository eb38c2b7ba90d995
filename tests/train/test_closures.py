"""Which code the training stages depend on."""

import pytest

from kontext.engine.fingerprint import code_of
from kontext.stages import STAGES
from schemas.recipes import load_recipe


def code(stage: str, *overrides: str) -> set[str]:
    recipe = load_recipe("demo", overrides)
    return set(code_of(STAGES[stage], getattr(recipe, STAGES[stage].section)))


@pytest.mark.parametrize("stage", ["train-autoencoder", "encode"])
def test_stages_before_the_flow_do_not_depend_on_the_transformer(stage: str) -> None:
    for name in code(stage):
        assert not name.startswith(
            ("kontext.models.flux.transformer", "kontext.models.flux.blocks")
        ), name
        assert not name.startswith(("kontext.train.ladd", "kontext.train.flow.velocity")), name


def test_a_stage_depends_on_its_own_methods_only() -> None:
    methods = "kontext.train.methods."

    def found(stage: str, *overrides: str) -> set[str]:
        own = code(stage, *overrides)
        return {name.removeprefix(methods) for name in own if name.startswith(methods)}

    assert found("train-autoencoder") == {"autoencoder"} and found("encode") == set()
    assert found("distill") == {"ladd"}
    none, both = (
        (f"finetune.pictures.steps={n}", f"finetune.guidance_distill.steps={n}") for n in (0, 1)
    )
    assert found("finetune", *none) == {"flow"}  # those that the recipe gives steps
    assert found("finetune", *both) == {"flow", "guidance", "pictures"}


@pytest.mark.parametrize("stage", ["train-autoencoder", "encode", "finetune", "distill"])
def test_what_starts_and_watches_processes_changes_no_result(stage: str) -> None:
    without = {
        "kontext.parallel.ranks.launch",
        "kontext.parallel.ranks.rank",
        "kontext.train.record.reporting",
    }
    assert not without & code(stage)
