"""The section of given weights, and the keys that it was called by before."""

from pathlib import Path

import pytest

from schemas.changes import MisfitError, with_overrides
from schemas.recipe_file import read_recipe
from schemas.recipes import RECIPES, Recipe, load_recipe
from schemas.sections.weights import WeightsConfig

BEGIN_WITH_WEIGHTS = ("flux1", "flux1-dev", "flux1-ladd", "flux1-lora")


def test_one_name_is_given_for_all_three_parts(tmp_path: Path) -> None:
    wanted = WeightsConfig(transformer="flux", autoencoder="flux", text="flux")
    assert load_recipe("ci", ("weights=flux",)).weights == wanted
    file = tmp_path / "mine.yaml"
    file.write_text("from: ci\nweights: flux\n")
    assert read_recipe(file).weights == wanted
    one = load_recipe("ci", ("weights=flux", "weights.text=")).weights
    assert one.named == {"transformer": "flux", "autoencoder": "flux"}
    adamw = ("finetune.optimizer=adamw", "weights.adapter=style", "weights=flux")
    assert load_recipe("ci", adamw).weights.named == {**wanted.named, "adapter": "style"}


def test_paths_in_a_file_are_seen_from_it_and_names_stay(tmp_path: Path) -> None:
    (tmp_path / "flux").mkdir()
    file = tmp_path / "mine.yaml"
    file.write_text("from: ci\nweights:\n  transformer: flux\n  autoencoder: model@other\n")
    found = read_recipe(file).weights
    assert found.transformer == str(tmp_path / "flux")
    assert (found.autoencoder, found.text) == ("model@other", "")


def test_keys_of_earlier_versions_are_read_and_are_said_to_have_moved() -> None:
    data = load_recipe("ci").model_dump(mode="json")
    del data["weights"]
    del data["autoencoder"]["given"]
    data["finetune"]["init"] = "import/0123456789abcdef"
    data["autoencoder"] |= {"init": "ae.safetensors", "decoder_only": True}
    found = Recipe.model_validate(data)
    assert found.weights.named == {
        "transformer": "import/0123456789abcdef",
        "autoencoder": "ae.safetensors",
    }
    assert found.autoencoder.given == "decoder" and found.autoencoder.decoder_only
    data["finetune"]["init"] = ""
    data["autoencoder"] |= {"init": "", "decoder_only": False}
    data["evaluate"]["bootstrap"] = 1000  # clusters are no longer resampled
    assert Recipe.model_validate(data) == load_recipe("ci")
    with pytest.raises(MisfitError) as caught:
        with_overrides(load_recipe("ci"), ("finetune.init=x",))
    assert str(caught.value) == "no key 'init' in finetune: it is weights.transformer now"


def test_what_two_sections_say_together_is_said_in_one_line() -> None:
    with pytest.raises(MisfitError) as caught:
        with_overrides(load_recipe("ci"), ("finetune.lora_rank=4", "finetune.optimizer=adamw"))
    assert str(caught.value) == (
        "finetune.lora_rank trains adapters of given weights: set weights.transformer too"
    )


def test_recipes_that_begin_with_weights_name_all_parts_and_read_long_texts() -> None:
    assert {name for name in RECIPES if RECIPES[name]().weights.named} == {*BEGIN_WITH_WEIGHTS}
    for name in BEGIN_WITH_WEIGHTS:
        recipe = RECIPES[name]()
        assert len(set(recipe.weights.named.values())) == 1 and len(recipe.weights.named) == 3
        assert recipe.encode.text_length == 512 and recipe.caption.max_words >= 300
        assert recipe.finetune.optimizer == "adamw" and recipe.finetune.lr <= 1e-4
        assert not recipe.finetune.t2i_steps and not recipe.finetune.whiten_text
        assert recipe.as_default and recipe.ingest.sizes == "kontext"
        embedded = recipe.finetune.shape.guidance_embed
        assert recipe.finetune.guidance_told == ((2.5, 2.5) if embedded else (1.0, 1.0))
        assert embedded or recipe.finetune.guidance_distill.steps
