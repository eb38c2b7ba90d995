"""The weights that a recipe gives: where they lie, whether they are whole and fit each other.

A name is looked for as a path first, then as an artifact: stage/digest, a tag, or a model's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontext.errors import ArtifactError, RecipeError, WeightsError
from kontext.models.files.locate import TEXT_FOLDERS, check_text_folders
from kontext.models.files.recognise_autoencoder import read_json
from kontext.models.files.weights import open_weights
from kontext.models.text.encoders import SMALL, check_transformers, flux_digest, text_widths
from kontext.models.text.pretrained import check_vocabulary
from kontext.train.flow.model import check_widths
from kontext.train.start.adapter import adapter_at, check_adapter
from kontext.train.start.autoencoder import autoencoder_at
from kontext.train.start.base import check_base
from kontext.train.start.given import OpenArtifact, config_of, is_there, names_artifact, require
from kontext.train.start.text import spec_of, text_of
from kontext.train.start.transformer import transformer_at
from schemas.paths import expanded
from schemas.sections.models import AutoencoderShape
from schemas.sections.weights import WeightsConfig

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from schemas.recipe import Recipe

CHANGES_RESULTS = False  # refuses, before anything is made; the content counts, not its place

_SETTINGS = ("kontext.json", "config.json")  # beside exported weights, and in a model folder


def found(
    weights: WeightsConfig,
    recipe: Recipe,
    artifacts: ArtifactStore,
    pins: Mapping[str, str] | None = None,
) -> WeightsConfig:
    """`placed`, after a look whether the parts of a recipe fit each other.

    Where something is not there, whoever takes it says so (`require`): others can do without.

    Args:
        pins: stage -> digest of artifacts that are taken as they are, whatever the recipe gives.

    Raises:
        RecipeError: a transformer, texts or an autoencoder of widths that do not fit each other;
            adapters of another rank or other layers than the recipe's, or settings of `check_base`.
        WeightsError: damaged, of no known layout, or of a shape that cannot be read.
    """
    made = placed(weights, artifacts)
    if all(map(is_there, made.named.values())):
        _check_fit(made, recipe, artifacts.show, pins or {})
    return made


def placed(weights: WeightsConfig, artifacts: ArtifactStore) -> WeightsConfig:
    """The section with absolute paths and with artifacts as stage/digest; texts are a folder.

    Raises WeightsError: what is given for texts has none, or now has others than it was made with.
    """
    named = {part: _placed(said, artifacts) for part, said in weights.named.items()}
    if "text" in named and is_there(named["text"]):
        named["text"] = _text_folder(named["text"], artifacts.show)
    return WeightsConfig.model_validate(named)


def require_all(weights: WeightsConfig) -> None:
    """Look whether all parts of the section, as `placed` makes it, are there to be used.

    Raises:
        RecipeError: a part is not there.
        WeightsError: text encoders that are damaged or not whole, or transformers is missing.
    """
    for part, said in weights.named.items():
        if not names_artifact(said):
            require(part, said)
    if weights.text:  # the other parts are looked at by `found`: what they are is in their headers
        _check_text(Path(weights.text))


def with_given_shapes(recipe: Recipe, artifacts: ArtifactStore) -> Recipe:
    """The recipe with the shapes of given weights, where they are there: to plan with."""
    weights = placed(recipe.weights, artifacts)
    update: dict[str, Any] = {}
    if weights.transformer and is_there(weights.transformer):
        model = transformer_at(weights.transformer, artifacts.show)[1]
        own: dict[str, Any] = {"shape": model.shape}
        if weights.adapter and is_there(weights.adapter):
            file = adapter_at(weights.adapter, artifacts.show, model)
            own |= {"lora_rank": file.rank, "lora_targets": file.targets}
        update["finetune"] = recipe.finetune.model_copy(update=own)
    if weights.autoencoder and is_there(weights.autoencoder):
        codec = autoencoder_at(weights.autoencoder, artifacts.show)[1].shape
        update["autoencoder"] = recipe.autoencoder.model_copy(update={"shape": codec})
    return recipe.model_copy(update=update)


def _check_fit(
    weights: WeightsConfig, recipe: Recipe, open_artifact: OpenArtifact, pins: Mapping[str, str]
) -> None:
    """Compare the widths of what is given, and of what the recipe makes anew; and adapters."""
    if "finetune" in pins:
        return  # it has been trained, with what it was given then
    shape, codec = recipe.finetune.shape, recipe.autoencoder.shape
    if weights.adapter and weights.adapter == weights.transformer:
        raise RecipeError(
            f"weights.transformer: {weights.transformer} has its adapters merged already; give "
            "the base that they were made for"
        )
    rank = recipe.finetune.lora_rank
    if weights.transformer:
        model = transformer_at(weights.transformer, open_artifact)[1]
        shape = model.shape
        if weights.adapter:
            file = adapter_at(weights.adapter, open_artifact, model)
            check_adapter(file, recipe.finetune, model)
            rank = file.rank
    check_base(recipe.finetune, rank, shape if weights.transformer else None)
    if shape.guidance_embed and recipe.finetune.guidance_distill.steps:
        raise RecipeError(
            "finetune.guidance_distill adds a guidance embedding, and the transformer has one: "
            "give weights without (FLUX.1 [schnell]'s, or those of a training of your own), or set "
            "finetune.guidance_distill.steps=0"
        )
    taken = {name: open_artifact(f"{name}/{digest}") for name, digest in pins.items()}
    if "train-autoencoder" in taken:
        own = taken["train-autoencoder"].json("config.json")["shape"]
        codec = AutoencoderShape.model_validate(own)
    elif weights.autoencoder:
        codec = autoencoder_at(weights.autoencoder, open_artifact)[1].shape
    texts = spec_of(weights)
    if "encode" in taken:
        texts = text_of(taken["encode"])
    if "encode" in taken and texts != SMALL and not Path(texts.partition(":")[2]).is_dir():
        return  # encoded on another machine: finetune compares with what is in the artifact
    check_widths(shape, codec.z_channels, *text_widths(texts))


def _text_folder(said: str, open_artifact: OpenArtifact) -> str:
    """The folder with T5 and CLIP that a model has; empty where it reads its texts with MiniLM.

    Raises WeightsError: neither text encoders nor a model of ours, which says what it has; or
        others lie where it says.
    """
    if names_artifact(said):
        configs = [config_of(open_artifact(said), "model/")]
    else:
        folder = Path(said)
        if all((folder / name).is_dir() for name in TEXT_FOLDERS):
            return said
        configs = [read_json(folder / name) for name in _SETTINGS]
    settings = [config.get("settings", config) for config in configs]
    own = next((one for one in settings if one.get("text_encoder")), None)
    if own is None:
        raise WeightsError(
            f"weights.text: {said} has no text encoders (folders {', '.join(TEXT_FOLDERS)})"
        )
    kind, _, place = str(own["text_encoder"]).partition(":")
    if kind != "flux":
        return ""
    _check_own(said, Path(place), str(own.get("text_digest") or ""))
    return place


def _check_own(said: str, folder: Path, digest: str) -> None:
    """Look whether a model's text encoders are those it was made with, where they are there.

    Raises WeightsError.
    """
    if not digest or not all((folder / name).is_dir() for name in TEXT_FOLDERS):
        return  # nobody said which; or gone: who takes them says so
    if (there := flux_digest(folder)) != digest:
        raise WeightsError(
            f"weights.text: {said} was made with the text encoders {digest}, and {folder} now has "
            f"{there}: say where those are, or take others, with weights.text=FOLDER"
        )


def _check_text(folder: Path) -> None:
    """Look whether T5 and CLIP can be read from a folder; of weights the headers are.

    Raises WeightsError.
    """
    check_transformers()
    check_text_folders(folder)
    for name in ("tokenizer", "tokenizer_2"):
        check_vocabulary(folder / name)
    for place in (folder / name for name in ("text_encoder", "text_encoder_2")):
        if not any(place.glob("*.bin")):  # PyTorch's own files have no headers
            whole = place / "model.safetensors"  # before variants of it
            open_weights(whole if whole.is_file() else place)


def _placed(said: str, artifacts: ArtifactStore) -> str:
    path = expanded(said)
    if path.exists():
        return str(path.absolute())  # not resolved: caches link to files without a suffix
    try:
        return "/".join(artifacts.resolve(said))
    except ArtifactError:
        return said
