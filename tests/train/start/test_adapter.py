"""Training adapters on: from a LoRA file in any keys, or from those of an earlier run."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kontext.errors import KontextError, RecipeError, WeightsError
from kontext.models.files.lora_files import load_lora, read_info, save_lora
from kontext.models.files.recognise_autoencoder import SHAPE_KEY
from kontext.models.files.weights import open_weights
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraConfig, LoraInfo, adapters, apply_lora, lora_of
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.shard import fill
from kontext.parallel.world import World
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.start.model import ADAPTER, START, starting_model
from schemas.sections.training import FinetuneConfig
from schemas.sections.weights import WeightsConfig
from tests.edit import tiny_flux
from tests.models.test_lora import model, ours, plus, with_adapters
from tests.stages.encoded_run import FLOW, SHAPE, encoded_run
from tests.stages.stage_harness import Harness
from tests.train.toy import toy_pairs

TEXT_KEY = "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"
ADAMW = {"optimizer": "adamw", "t2i_steps": 0}


def stored(base: FluxTransformer, path: Path) -> Path:
    """A BFL file that says its shape."""
    state = {k: v.detach().contiguous() for k, v in base.state_dict().items()}
    save_file(state, path, {SHAPE_KEY: base.shape.model_dump_json()})
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that are no fresh model's, for the toy pairs of the stage."""
    torch.manual_seed(7)
    made = FluxTransformer(SHAPE)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return stored(made, tmp_path_factory.mktemp("given") / "flux.safetensors")


def started(folder: Path, adapter: Path, alpha: float = 0.0) -> FluxTransformer:
    """The tiny FLUX.1 with what training would begin with."""
    config = FinetuneConfig(shape=tiny_flux.SHAPE, lora_rank=3, lora_alpha=alpha, optimizer="adamw")
    path = stored(model(), folder / "base.safetensors")
    inputs = Inputs({}, "", folder, folder, files={START: path, ADAPTER: adapter})
    made, entries = starting_model(config, inputs, toy_pairs(), World())
    fill(made, entries, torch.device("cpu"))
    return made.eval()


@pytest.mark.parametrize("style", ["diffusers", "bfl", "kohya", "apart"])
def test_training_begins_with_the_function_of_base_and_adapters(style: str, tmp_path: Path) -> None:
    wanted = with_adapters(LoraConfig(rank=3, alpha=1.5))
    path = tmp_path / "given.safetensors"
    layout = "diffusers" if style == "apart" else style
    save_lora(lora_of(wanted), path, model(), layout)  # type: ignore[arg-type]
    state = load_file(path)
    if style == "kohya":  # as its trainers write them: with alpha, which is not the rank
        state |= {key: torch.tensor(1.5) for key in state if key.endswith("alpha")}
        state[TEXT_KEY] = torch.ones(3, 4)
        save_file(state, path)
        wanted = plus(model(), load_lora(path, model()))
    if style == "apart":  # q, k and v have an A each
        draw = torch.Generator().manual_seed(3)
        state = {k: torch.randn(v.shape, generator=draw) * 0.1 for k, v in state.items()}
        save_file(state, path)
        wanted = plus(model(), load_lora(path, model()))
    made = started(tmp_path, path)
    torch.testing.assert_close(ours(made), ours(wanted), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(ours(made), ours(model()), atol=1e-2)
    trained = [name for name, p in made.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(adapters(made)) > 0
    assert {each.scale for each in adapters(made).values()} == {0.5 if style == "kohya" else 1.0}


def test_the_recipes_alpha_is_the_scale_and_not_another_function(tmp_path: Path) -> None:
    wanted = with_adapters(LoraConfig(rank=3))
    save_lora(lora_of(wanted), tmp_path / "given.safetensors", model())
    made = started(tmp_path, tmp_path / "given.safetensors", alpha=12.0)
    assert {each.scale for each in adapters(made).values()} == {4.0}
    torch.testing.assert_close(ours(made), ours(wanted), atol=2e-5, rtol=1e-4)


def trained(
    folder: Path, base: Path, adapter: str = "", steps: int = 2, **changes: object
) -> tuple[Harness, Artifact]:
    """Stage finetune on the toy pairs."""
    harness = encoded_run(folder)
    section = {**FLOW, "shape": SHAPE, "lr": 1e-2, **ADAMW, "joint_steps": steps, **changes}
    config = FinetuneConfig.model_validate(section)
    given = WeightsConfig(transformer=str(base), adapter=adapter)
    harness.recipe = harness.recipe.model_copy(update={"finetune": config, "weights": given})
    return harness, harness.run("finetune")


@pytest.fixture(scope="module")
def first(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    """Two steps of adapters that begin anew."""
    return trained(tmp_path_factory.mktemp("first"), base, lora_rank=2)


def same_model(one: Artifact, other: Artifact) -> bool:
    flow, others = (load_file(each.path("flow.safetensors")) for each in (one, other))
    return all(torch.equal(tensor, others[key]) for key, tensor in flow.items())


def test_a_saved_adapter_that_is_trained_no_further_is_the_same_model(
    tmp_path: Path, base: Path, first: tuple[Harness, Artifact]
) -> None:
    """Bit for bit; and what its file says of itself stays."""
    words = LoraInfo("flux.safetensors", "in the style of nobody", "style")
    path = tmp_path / "named.safetensors"
    with torch.device("meta"):
        empty = FluxTransformer(SHAPE)
    save_lora(load_lora(first[1].path("lora.safetensors"), empty), path, empty, info=words)
    _, same = trained(tmp_path / "same", base, str(path), lr=0.0, lora_rank=2)
    assert same_model(same, first[1])
    assert read_info(open_weights(same.path("lora.safetensors"))) == words
    assert any("goes on from the adapters of" in note for note in same.manifest.notes)


def test_adapters_of_an_earlier_run_are_an_artifact(first: tuple[Harness, Artifact]) -> None:
    """Their rank is the artifact's where the recipe says none."""
    harness, before = first
    digest, whole = "0123456789abcdef", "fedcba9876543210"
    for name, file in ((digest, "lora.safetensors"), (whole, "flow.safetensors")):
        writer = harness.store.writer("finetune", name)
        writer.add_file(file, before.path(file))
        changes = {"digest": name, "files": list(writer.files.values())}
        writer.commit(before.manifest.model_copy(update=changes))
    config = harness.recipe.finetune.model_copy(update={"lora_rank": 0, "lr": 0.0})

    def go_on_from(name: str) -> Artifact:
        given = harness.recipe.weights.model_copy(update={"adapter": f"finetune/{name}"})
        harness.recipe = harness.recipe.model_copy(update={"finetune": config, "weights": given})
        return harness.run("finetune")

    with pytest.raises(WeightsError, match=r"has no lora\.safetensors"):
        go_on_from(whole)
    harness.objects.delete(f"runs/finetune/{before.digest}/manifest.json")
    shutil.rmtree(harness.folder / "scratch")  # another run's: its digest would be another
    made = go_on_from(digest)
    assert made.manifest.metrics["adapter"] == f"finetune/{digest}"
    assert made.manifest.metrics["lora_rank"] == 2 and same_model(made, before)


def test_what_contradicts_the_recipe_or_cannot_be_trained_is_one_line(
    tmp_path: Path, base: Path
) -> None:
    """Before a step is made."""
    torch.manual_seed(1)
    small = apply_lora(FluxTransformer(SHAPE), LoraConfig(rank=2))
    zero, path = lora_of(small), tmp_path / "given.safetensors"
    moved = {key: (down, torch.randn_like(up)) for key, (down, up) in zero.adapters.items()}
    lora = replace(zero, adapters=moved)
    save_lora(lora, path, small)
    save_lora(zero, tmp_path / "zero.safetensors", small)
    broken = {key: tensor / 0 for key, tensor in load_file(path).items()}
    save_file(broken, tmp_path / "broken.safetensors")
    save_lora(lora_of(with_adapters(LoraConfig(rank=2))), tmp_path / "other.safetensors", model())
    layers = ["single_blocks.0.linear1", "final_layer.linear"]
    cases: tuple[tuple[str, dict[str, object], type[KontextError], str], ...] = (
        ("given", {"lora_rank": 4}, RecipeError, "has rank 2, and finetune.lora_rank is 4"),
        ("given", {"lora_targets": layers}, RecipeError, r"1 not in the file \(final_layer.linear"),
        ("zero", {}, WeightsError, "changes nothing"),
        ("broken", {}, WeightsError, "numbers that are not finite"),
        ("other", {}, WeightsError, "does not fit the model"),
        ("none", {}, RecipeError, r"weights\.adapter: '.*' is neither"),
    )
    for name, changes, kind, words in cases:
        adapter = str(tmp_path / f"{name}.safetensors")
        with pytest.raises(kind, match=words) as caught:
            trained(tmp_path / f"{name}-{len(changes)}-{len(words)}", base, adapter, **changes)
        assert "\n" not in str(caught.value)
