"""The weights that a recipe's section `weights` names: found in one way, and fitting each other.

A name is looked for as a path first, then as an artifact: stage/digest, a tag, or a model's name.
The transformer is a FLUX.1 file (BFL's layout), diffusers' folder, a model folder of ours, or in an
artifact: import's model, finetune's flow, or publish's teacher (a few-step student is no start for
flow training). Shapes are read from the weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kontext.errors import ArtifactError, RecipeError, WeightsError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.files.locate import (
    autoencoder_name_in,
    find_autoencoder,
    find_transformer,
    transformer_name_in,
)
from kontext.models.files.recognise import recognise
from kontext.models.files.recognise_autoencoder import read_json
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.text.encoders import FLUX_PARTS, SMALL, text_widths
from kontext.train.flow.model import check_widths
from schemas.paths import expanded
from schemas.sections.models import TransformerShape
from schemas.sections.weights import WeightsConfig

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext
    from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
    from schemas.recipe import Recipe

OpenArtifact = Callable[[str], "Artifact"]
_ARTIFACT = re.compile(r"([a-z-]+)/([0-9a-f]{16})")
SETTINGS = ("kontext.json", "config.json")  # beside exported weights, and in a model folder


def found(weights: WeightsConfig, recipe: Recipe, artifacts: ArtifactStore) -> WeightsConfig:
    """`placed`, after a look whether the parts of a recipe fit each other.

    Where something is not there, whoever takes it says so (`require`): others can do without.

    Raises:
        RecipeError: a transformer, texts or an autoencoder of widths that do not fit each other.
        WeightsError: damaged, of no known layout, or of a shape that cannot be read.
    """
    made = placed(weights, artifacts)
    if all(map(_is_there, made.named.values())):
        _check_fit(made, recipe, artifacts.show)
    return made


def placed(weights: WeightsConfig, artifacts: ArtifactStore) -> WeightsConfig:
    """The section with absolute paths and with artifacts as stage/digest; texts are a folder.

    Raises WeightsError: what is given for texts has none.
    """
    named = {part: _placed(said, artifacts) for part, said in weights.named.items()}
    if "text" in named and _is_there(named["text"]):
        named["text"] = _text_folder(named["text"], artifacts.show)
    return WeightsConfig.model_validate(named)


def with_given_shapes(recipe: Recipe, artifacts: ArtifactStore) -> Recipe:
    """The recipe with the shapes of given weights, where they are there: to plan with."""
    weights = placed(recipe.weights, artifacts)
    update: dict[str, Any] = {}
    if weights.transformer and _is_there(weights.transformer):
        shape = transformer_at(weights.transformer, artifacts.show)[1].shape
        update["finetune"] = recipe.finetune.model_copy(update={"shape": shape})
    if weights.autoencoder and _is_there(weights.autoencoder):
        codec = autoencoder_at(weights.autoencoder, artifacts.show)[1].shape
        update["autoencoder"] = recipe.autoencoder.model_copy(update={"shape": codec})
    return recipe.model_copy(update=update)


def names_artifact(said: str) -> bool:
    """Whether a name, as `found` makes it, is stage/digest rather than a path."""
    return _ARTIFACT.fullmatch(said) is not None


def require(part: str, said: str) -> Path:
    """The path that a part of the section names. Raises RecipeError where nothing is."""
    path = expanded(said)
    if not path.exists():
        raise RecipeError(
            f"weights.{part}: '{said}' is neither a file, a folder nor an artifact (stage/digest, "
            "a tag or a model's name); --set weights=FOLDER gives a whole model"
        )
    return path


def require_all(weights: WeightsConfig) -> None:
    """Raise RecipeError where a part of the section, as `found` makes it, is not there."""
    for part, said in weights.named.items():
        if not names_artifact(said):
            require(part, said)


def open_given(ctx: StageContext, said: str) -> Artifact:
    """The artifact that a name means, in the run's own store. Raises ArtifactError."""
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.objects import open_store

    store = ArtifactStore(open_store(ctx.store_url), ctx.home / "cache" / "blobs")
    return store.show(said)


def transformer_at(said: str, open_artifact: OpenArtifact) -> tuple[Path, FluxTransformer]:
    """A file or diffusers' folder, and the model on the meta device that its tensors fit.

    Raises:
        RecipeError: nothing there.
        ArtifactError, WeightsError: no transformer, damaged, or a shape that cannot be read.
    """
    own: dict[str, Any] = {}
    if names_artifact(said):
        artifact = open_artifact(said)
        name = transformer_name_in(artifact)
        path, own = artifact.path(name), _config_of(artifact, name)
    else:
        path = find_transformer(require("transformer", said))
        own = _config_beside(path)
    shape, model = own.get("transformer", own.get("shape")), None
    if shape is not None:
        with torch.device("meta"):
            model = FluxTransformer(TransformerShape.model_validate(shape))
    return path, recognise(path, model).require_whole().transformer


def autoencoder_at(said: str, open_artifact: OpenArtifact) -> tuple[Path, Autoencoder]:
    """A file or diffusers' folder, and the model on the meta device, with its scale and shift.

    Raises: see `transformer_at`.
    """
    if names_artifact(said):
        artifact = open_artifact(said)
        name = autoencoder_name_in(artifact)
        path, own = artifact.path(name), _config_of(artifact, name)
    else:
        path = find_autoencoder(require("autoencoder", said))
        own = _config_beside(path)
    config, model = own.get("autoencoder", own if "scale" in own else None), None
    if config is not None:
        with torch.device("meta"):
            model = Autoencoder.from_config(config)
    return path, recognise(path, model).require_whole().autoencoder


def given_text(ctx: StageContext) -> str:
    """The text encoder of a stage that takes `weights.text`, for `load_text_encoder`.

    Where the recipe gives none it is the one that `encode` had: an artifact may have been chosen.
    """
    if ctx.weights.text or "encode" not in ctx.inputs:
        return _spec(ctx.weights)
    return str(ctx.inputs["encode"].manifest.metrics.get("text_encoder", SMALL))


def _spec(weights: WeightsConfig) -> str:
    return f"flux:{weights.text}" if weights.text else SMALL


def _text_folder(said: str, open_artifact: OpenArtifact) -> str:
    """The folder with T5 and CLIP that a model has; empty where it reads its texts with MiniLM.

    Raises WeightsError: neither text encoders nor a model of ours, which says what it has.
    """
    if names_artifact(said):
        configs = [_config_of(open_artifact(said), "model/")]
    else:
        folder = Path(said)
        if all((folder / name).is_dir() for name in FLUX_PARTS):
            return said
        configs = [read_json(folder / name) for name in SETTINGS]
    spec = next((spec for config in configs if (spec := _text_encoder_in(config))), "")
    if not spec:
        raise WeightsError(
            f"weights.text: {said} has no text encoders (folders {', '.join(FLUX_PARTS)})"
        )
    return spec.removeprefix("flux:") if spec.startswith("flux:") else ""


def _text_encoder_in(config: dict[str, Any]) -> str:
    return str(config.get("settings", config).get("text_encoder") or "")


def _placed(said: str, artifacts: ArtifactStore) -> str:
    path = expanded(said)
    if path.exists():
        return str(path.absolute())  # not resolved: caches link to files without a suffix
    try:
        return "/".join(artifacts.resolve(said))
    except ArtifactError:
        return said


def _is_there(said: str) -> bool:
    return names_artifact(said) or expanded(said).exists()


def _check_fit(weights: WeightsConfig, recipe: Recipe, open_artifact: OpenArtifact) -> None:
    """Compare the widths of what is given, and of what the recipe makes anew."""
    shape, codec = recipe.finetune.shape, recipe.autoencoder.shape
    if weights.transformer:
        shape = transformer_at(weights.transformer, open_artifact)[1].shape
    if shape.guidance_embed and recipe.finetune.guidance_distill.steps:
        raise RecipeError(
            "finetune.guidance_distill adds a guidance embedding, and the transformer has one: "
            "give weights without (FLUX.1 [schnell]'s, or those of a training of your own), or set "
            "finetune.guidance_distill.steps=0"
        )
    if weights.autoencoder:
        codec = autoencoder_at(weights.autoencoder, open_artifact)[1].shape
    check_widths(shape, codec.z_channels, *text_widths(_spec(weights)))


def _config_of(artifact: Artifact, name: str) -> dict[str, Any]:
    """`config.json` beside a file of an artifact; empty where there is none."""
    folder = name.rpartition("/")[0]
    config = f"{folder}/config.json" if folder else "config.json"
    return dict(artifact.json(config)) if config in artifact.names() else {}


def _config_beside(path: Path) -> dict[str, Any]:
    """The configuration of a model folder of ours with this file; empty for any other."""
    config = read_json(path.parent / "config.json") if path.is_file() else {}
    return config if str(config.get("format", "")).startswith("kontext-model/") else {}
