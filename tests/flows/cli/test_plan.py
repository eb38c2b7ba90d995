import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from kontext.models.lora import BLOCKS, linear_layers
from schemas.recipes import load_recipe
from tests.edit.tiny_flux import networks, write_checkpoint

runner = CliRunner()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path))


def test_a_plan_is_told_and_printed_as_json() -> None:
    told = runner.invoke(app, ["plan", "ci", "--gpus", "2", "--memory", "40"])
    assert told.exit_code == 0, told.output
    assert told.stdout.count("per GPU") == 3 and "fits as it is" in told.stdout
    assert "is rehearsed" in told.stderr
    assert told.stdout.startswith("on 2 x H200 of 40 GiB at 40% of its peak")
    assert "in all less than a second" in told.stdout and "days" not in told.stdout
    printed = runner.invoke(app, ["plan", "ci", "--device", "a laptop", "--json"])
    found = json.loads(printed.stdout)
    assert [s["stage"] for s in found["stages"]] == ["train-autoencoder", "finetune", "distill"]
    assert all(s["step_seconds"] is None for s in found["stages"]) and found["measured"] == []


def test_given_weights_are_planned_in_their_own_shape(tmp_path: Path) -> None:
    def parameters(*more: str) -> list[tuple[str, int]]:
        printed = runner.invoke(app, ["plan", "flux1-lora", "--json", *more])
        assert printed.exit_code == 0, printed.output
        return [(s["stage"], s["parameters"]) for s in json.loads(printed.stdout)["stages"]]

    ((stage, whole),) = parameters()  # where they are not there: FLUX.1's
    assert stage == "finetune" and whole > 11e9
    flux = write_checkpoint(tmp_path / "flux")
    ((stage, small),) = parameters("--set", f"weights={flux}")
    model = networks()[0]
    adapted = [model.get_submodule(name) for name in linear_layers(model, BLOCKS)]
    adapters = load_recipe("flux1-lora").finetune.lora_rank * sum(
        layer.in_features + layer.out_features for layer in adapted
    )
    assert adapters and small == adapters + sum(p.numel() for p in model.parameters())


def test_measured_figures_stand_beside_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from kontext.engine.run import Engine
    from kontext.errors import ArtifactError

    def artifact(self: Engine, name: str) -> object:
        if name != "finetune":
            raise ArtifactError("not made")
        metrics = {"step_seconds": 0.25, "step_memory_mib": 512.0}
        return SimpleNamespace(manifest=SimpleNamespace(metrics=metrics, kernels={"device": "cpu"}))

    monkeypatch.setattr(Engine, "artifact", artifact)
    told = runner.invoke(app, ["plan", "ci"])
    assert "finetune, measured: step 0.25 s (predicted" in told.stdout
    assert "memory 0.5 GiB (predicted" in told.stdout and "on cpu" in told.stdout


def test_an_unknown_recipe_is_one_line() -> None:
    done = runner.invoke(app, ["plan", "nothing"])
    assert done.exit_code == 2 and "unknown recipe 'nothing'" in done.output
