"""Which code the training stages depend on."""

from __future__ import annotations

import pytest

from kontext.engine.fingerprint import code_of
from kontext.stages import STAGES
from schemas.recipes import Recipe


def code(stage: str) -> set[str]:
    return set(code_of(STAGES[stage], getattr(Recipe(), STAGES[stage].section)))


@pytest.mark.parametrize("stage", ["train-autoencoder", "encode"])
def test_stages_before_the_flow_do_not_depend_on_the_transformer(stage: str) -> None:
    for name in code(stage):
        assert not name.startswith(
            ("kontext.models.flux.transformer", "kontext.models.flux.blocks")
        ), name
        assert not name.startswith(("kontext.train.ladd", "kontext.train.flow.velocity")), name


def test_a_stage_depends_on_its_own_methods_only() -> None:
    methods = "kontext.train.methods."
    found = {
        stage: {n.removeprefix(methods) for n in code(stage) if n.startswith(methods)}
        for stage in ("train-autoencoder", "encode", "finetune", "distill")
    }
    assert found == {
        "train-autoencoder": {"autoencoder"},
        "encode": set(),
        "finetune": {"flow", "guidance", "pictures"},
        "distill": {"ladd"},
    }


@pytest.mark.parametrize("stage", ["train-autoencoder", "encode", "finetune", "distill"])
def test_what_starts_and_watches_processes_changes_no_result(stage: str) -> None:
    without = {
        "kontext.parallel.ranks.launch",
        "kontext.parallel.ranks.rank",
        "kontext.train.record.reporting",
    }
    assert not without & code(stage)
