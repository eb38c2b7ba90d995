"""Finetuning from given weights, and adapters beside them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kontext.errors import KontextError, RecipeError, WeightsError
from kontext.models.files.convert import rules_for, to_diffusers, transformer_config
from kontext.models.files.lora_files import load_lora
from kontext.models.files.recognise_autoencoder import SHAPE_KEY
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.ranks import launch as launching
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.flow.model import lora_config
from kontext.train.start.fit import placed
from schemas.sections.training import FinetuneConfig
from schemas.sections.weights import WeightsConfig
from tests.parallel.rank_processes import forked_ranks
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
    save_file(state, path, {SHAPE_KEY: SHAPE.model_dump_json()})
    return path, state


def trained(folder: Path, init: str, **changes: object) -> tuple[Harness, Artifact]:
    harness = encoded_run(folder)
    small = SHAPE.model_copy(update={"depth": 2})  # counts for nothing: the weights have theirs
    config = FinetuneConfig.model_validate({"shape": small, **FLOW, "lr": 1e-9, **changes})
    given = WeightsConfig(transformer=init)
    harness.recipe = harness.recipe.model_copy(update={"finetune": config, "weights": given})
    return harness, harness.run("finetune")


def test_training_starts_from_the_given_weights(tmp_path: Path, given: tuple[Path, State]) -> None:
    """At a learning rate of nothing the result is the start, whatever the layout."""
    path, state = given
    theirs = tmp_path / "theirs" / "transformer"
    theirs.mkdir(parents=True)
    model = FluxTransformer(SHAPE)
    save_file(to_diffusers(state, rules_for(model)), theirs / "model.safetensors")
    (theirs / "config.json").write_text(json.dumps(transformer_config(SHAPE)))
    for name, init in (("a", path), ("b", theirs.parent)):
        _, artifact = trained(tmp_path / name, init=str(init))
        found = load_file(artifact.path("flow.safetensors"))
        assert all(torch.allclose(found[key], value, atol=1e-5) for key, value in state.items())
        assert artifact.json("config.json")["shape"] == SHAPE.model_dump(mode="json")
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
    for name in ("flow.safetensors", "config.json"):
        writer.add_file(name, first.path(name))
    writer.commit(
        first.manifest.model_copy(
            update={"stage": "import", "digest": digest, "files": list(writer.files.values())}
        )
    )
    harness.store.tag("import@mine", "import", digest)
    for said in (f"import/{digest}", "import@mine", "mine"):  # all that the stage is told
        given = WeightsConfig(transformer=said)
        assert placed(given, harness.store).transformer == f"import/{digest}"
    harness.recipe = harness.recipe.model_copy(update={"weights": given})
    harness.objects.delete(f"runs/finetune/{first.digest}/manifest.json")
    shutil.rmtree(harness.folder / "scratch")  # it is another run's: its digest would be another
    again = harness.run("finetune")
    assert again.manifest.metrics["init"] == f"import/{digest}"
    second = load_file(again.path("flow.safetensors"))
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
    save_file(state, path, {SHAPE_KEY: SHAPE.model_dump_json()})
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


def test_ranks_build_the_given_shape_and_its_adapters(
    tmp_path: Path, given: tuple[Path, State], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They know the section alone: its shape is that of the weights by then."""
    monkeypatch.setattr(launching, "_torchrun", forked_ranks)
    changes = {"lora_rank": 2, "optimizer": "adamw", "lr": 1e-2}
    _, alone = trained(tmp_path / "alone", init=str(given[0]), **changes)
    launch = {"launcher": "torchrun", "ranks": 2}
    _, together = trained(tmp_path / "ranks", init=str(given[0]), **changes, launch=launch)
    one, two = (load_file(made.path("lora.safetensors")) for made in (alone, together))
    assert one.keys() == two.keys()
    for key, value in one.items():
        # AdamW makes a whole step of what is hardly a gradient, so single numbers differ
        assert float((two[key] - value).abs().mean()) < 0.1 * float(value.abs().mean()), key


def test_which_layers_have_adapters_and_how_strong_they_are_is_the_recipes(
    tmp_path: Path, given: tuple[Path, State]
) -> None:
    path, state = given
    adapters = {"lora_rank": 2, "lora_alpha": 8.0, "lora_targets": ["single_blocks.*.linear1"]}
    _, artifact = trained(tmp_path, init=str(path), optimizer="adamw", lr=1e-2, **adapters)
    with torch.device("meta"):
        model = FluxTransformer(SHAPE)
    lora = load_lora(artifact.path("lora.safetensors"), model)
    assert set(lora.adapters) == {f"single_blocks.{n}.linear1.weight" for n in range(2)}
    assert lora_config(FinetuneConfig(optimizer="adamw", **adapters)).scale == 4
    found = load_file(artifact.path("flow.safetensors"))
    for key, value in state.items():
        assert torch.allclose(found[key], value, atol=1e-6) == (key not in lora.adapters), key


def test_latents_and_texts_of_other_widths_are_one_line(tmp_path: Path) -> None:
    """Said before a step is made, also of a new transformer."""
    wider = SHAPE.model_copy(update={"context_in_dim": 24, "in_channels": 128})
    path = tmp_path / "flux.safetensors"
    save_file(FluxTransformer(wider).state_dict(), path, {SHAPE_KEY: wider.model_dump_json()})
    words = (
        "the transformer takes image tokens of 128 channels, and there are 64; text tokens of 24 "
        "channels, and there are 12: autoencoder and texts must be those it was made for"
    )
    for init in (str(path), ""):
        with pytest.raises(RecipeError) as caught:
            trained(tmp_path / (init and "given"), init=init, shape=wider)
        assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_a_shape_that_tensors_do_not_tell_is_not_guessed(
    tmp_path: Path, given: tuple[Path, State]
) -> None:
    save_file(given[1], tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="axes_dim cannot be read from the tensors"):
        trained(tmp_path, init=str(tmp_path / "bare.safetensors"))


def test_what_cannot_start_a_finetune_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="neither a file, a folder nor an artifact"):
        trained(tmp_path, init=str(tmp_path / "none"))
    with pytest.raises(KontextError):
        trained(tmp_path / "other", init="import/0000000000000000")
