"""Finetuning from given weights, and adapters beside them."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from kontext.errors import KontextError, RecipeError
from kontext.models.files.convert import rules_for, to_diffusers
from kontext.models.files.lora_files import load_lora
from kontext.models.flux.transformer import FluxTransformer
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.start.digest import transformer_digest
from schemas.sections.training import FinetuneConfig
from tests.stages.encoded_run import FLOW, SHAPE, encoded_run
from tests.stages.stage_harness import Harness

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """A BFL file with weights of no fresh model."""
    torch.manual_seed(7)
    model = FluxTransformer(SHAPE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("given") / "flux.safetensors"
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    save_file(state, path)
    return path, state


def trained(folder: Path, **changes: object) -> tuple[Harness, Artifact]:
    harness = encoded_run(folder)
    config = FinetuneConfig.model_validate({"shape": SHAPE, **FLOW, "lr": 1e-9, **changes})
    harness.recipe = harness.recipe.model_copy(update={"finetune": config})
    return harness, harness.run("finetune")


def test_training_starts_from_the_given_weights(tmp_path: Path, given: tuple[Path, State]) -> None:
    """At a learning rate of nothing the result is the start, whatever the layout."""
    path, state = given
    theirs = tmp_path / "theirs" / "transformer"
    theirs.mkdir(parents=True)
    model = FluxTransformer(SHAPE)
    save_file(to_diffusers(state, rules_for(model)), theirs / "model.safetensors")
    for name, init in (("a", path), ("b", theirs.parent)):
        _, artifact = trained(tmp_path / name, init=str(init))
        found = load_file(artifact.path("flow.safetensors"))
        assert all(torch.allclose(found[key], value, atol=1e-5) for key, value in state.items())
        assert artifact.manifest.metrics["init"] == str(init)
        assert any("starts from" in note for note in artifact.manifest.notes)
        assert not any("whiten_text" in note for note in artifact.manifest.notes)


def test_given_text_layers_are_not_whitened_and_the_artifact_says_so(
    tmp_path: Path, given: tuple[Path, State]
) -> None:
    path, state = given
    _, artifact = trained(tmp_path, init=str(path), whiten_text=True)
    found = load_file(artifact.path("flow.safetensors"))
    assert torch.allclose(found["txt_in.weight"], state["txt_in.weight"], atol=1e-5)
    assert any("whiten_text counts for nothing" in note for note in artifact.manifest.notes)


def test_a_finetune_artifact_can_be_trained_further(
    tmp_path: Path, given: tuple[Path, State]
) -> None:
    harness, first = trained(tmp_path, init=str(given[0]))
    digest = "0123456789abcdef"
    writer = harness.store.writer("import", digest)
    writer.add_file("flow.safetensors", first.path("flow.safetensors"))
    writer.commit(
        first.manifest.model_copy(
            update={"stage": "import", "digest": digest, "files": list(writer.files.values())}
        )
    )
    config = harness.recipe.finetune.model_copy(update={"init": f"import/{digest}"})
    harness.recipe = harness.recipe.model_copy(update={"finetune": config})
    second = load_file(harness.run("finetune").path("flow.safetensors"))
    for key, value in load_file(first.path("flow.safetensors")).items():
        assert torch.allclose(second[key], value, atol=1e-5)


def test_adapters_train_alone_and_leave_whole_weights_to_later_stages(
    tmp_path: Path, given: tuple[Path, State]
) -> None:
    path, state = given
    _, artifact = trained(tmp_path, init=str(path), lora_rank=2, optimizer="adamw", lr=1e-2)
    with torch.device("meta"):
        model = FluxTransformer(SHAPE)
    assert all(
        key.startswith("transformer.") for key in load_file(artifact.path("lora.safetensors"))
    )
    lora = load_lora(artifact.path("lora.safetensors"), model)
    found = load_file(artifact.path("flow.safetensors"))
    assert found.keys() == state.keys()
    for key, value in state.items():
        wanted = value
        if key in lora.adapters:
            down, up = lora.adapters[key]
            assert up.abs().max() > 0
            wanted = value + up @ down
        assert torch.allclose(found[key], wanted, atol=1e-6)
    assert artifact.manifest.metrics["lora_rank"] == 2


def test_a_bf16_base_stays_bf16_and_later_stages_take_it(
    tmp_path: Path, given: tuple[Path, State]
) -> None:
    state = {key: value.to(torch.bfloat16) for key, value in given[1].items()}
    path = tmp_path / "bf16.safetensors"
    save_file(state, path)
    harness, artifact = trained(tmp_path, init=str(path), lora_rank=2, optimizer="adamw", lr=1e-2)
    found = load_file(artifact.path("flow.safetensors"))
    with torch.device("meta"):
        model = FluxTransformer(SHAPE)
    adapted = load_lora(artifact.path("lora.safetensors"), model).adapters
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert all(torch.equal(found[key], state[key]) for key in state.keys() - adapted.keys())
    assert not any(torch.equal(found[key], state[key]) for key in adapted)
    ledger = artifact.json("ledger.json")
    assert ledger["dtype: weights"] == "bfloat16" and ledger["dtype: adapters"] == "float32"
    section = harness.recipe.distill.model_copy(update={"same_arithmetic": False})
    harness.recipe = harness.recipe.model_copy(update={"distill": section})
    student = load_file(harness.run("distill").path("student.safetensors"))
    assert {value.dtype for value in student.values()} == {torch.float32}


def test_weights_of_another_shape_are_one_line(tmp_path: Path, given: tuple[Path, State]) -> None:
    wider = SHAPE.model_copy(update={"hidden_size": 64, "num_heads": 4, "depth": 2})
    with pytest.raises(RecipeError) as caught:
        trained(tmp_path, init=str(given[0]), shape=wider)
    assert str(caught.value).endswith(
        "is not of finetune.shape: hidden_size 32 for 64, depth 1 for 2"
    )


def test_what_cannot_start_a_finetune_is_refused_when_the_recipe_is_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="neither a file, a folder nor an artifact"):
        transformer_digest(FinetuneConfig(init=str(tmp_path / "none")))
    with pytest.raises(ValidationError, match="set init too"):
        FinetuneConfig(lora_rank=4)
    with pytest.raises(ValidationError, match="optimizer=adamw"):
        FinetuneConfig(lora_rank=4, init="x", optimizer="muon")
    with pytest.raises(KontextError):
        trained(tmp_path, init="import/0000000000000000")


def test_other_bytes_under_the_same_name_are_another_start(
    tmp_path: Path, given: tuple[Path, State]
) -> None:
    assert transformer_digest(FinetuneConfig()) == ""
    assert transformer_digest(FinetuneConfig(init="import/0000000000000000")) == ""
    path = tmp_path / "flux.safetensors"
    config = FinetuneConfig(init=str(path))
    path.write_bytes(given[0].read_bytes())
    before = transformer_digest(config, tmp_path)
    save_file({k: v + 1 for k, v in given[1].items()}, path)
    assert transformer_digest(config, tmp_path) != before != ""
