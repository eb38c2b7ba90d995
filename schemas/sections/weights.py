"""Recipe section of the weights that a run begins with, and what it was called before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from schemas.paths import there
from schemas.sections.base import Section

# keys of earlier versions -> what they are called now
MOVED = {
    "finetune.init": "weights.transformer",
    "autoencoder.init": "weights.autoencoder",
    "autoencoder.decoder_only": "autoencoder.given",
}
_MODEL = ("transformer", "autoencoder", "text")  # the parts of a whole model


class WeightsConfig(Section):
    """Given weights: a file, a folder, or an artifact by stage/digest, tag or name.

    A folder or an artifact that holds a whole model can be given for its three parts at once
    (`weights=FOLDER`). Their shapes are read from them.
    """

    transformer: str = Field("", title="Transformer that finetune trains (empty: a new one)")
    autoencoder: str = Field("", title="Autoencoder (empty: a new one is trained)")
    text: str = Field("", title="Folder with T5 and CLIP (empty: the small text encoder, MiniLM)")
    adapter: str = Field("", title="LoRA file that finetune goes on from (empty: new adapters)")

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, data: Any) -> Any:
        return cls.parts(data)

    @classmethod
    def parts(cls, data: Any) -> Any:
        """One name as the section's fields: it is given for all parts of a model."""
        return dict.fromkeys(_MODEL, data) if isinstance(data, str) else data

    @property
    def named(self) -> dict[str, str]:
        """Part -> what is named for it, of the parts that are given."""
        return {part: value for part, value in self.model_dump().items() if value}


def weights_seen_from(folder: Path, weights: Any) -> Any:
    """Given weights with absolute paths for what lies in `folder`; the rest is artifacts' names.

    Args:
        weights: the section's fields, or one name.
    """
    if isinstance(weights, dict):
        return {part: weights_seen_from(folder, value) for part, value in weights.items()}
    return there(folder, weights) if isinstance(weights, str) else weights


def with_moved_keys(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe, with keys of earlier versions where they belong now.

    What stands there already stays. Manifests and stored recipes of earlier versions have such
    keys.
    """
    made = dict(data)
    for old, new in MOVED.items():
        section, key = old.split(".")
        fields = made.get(section)
        if not isinstance(fields, Mapping) or key not in fields:
            continue
        made[section] = {name: value for name, value in fields.items() if name != key}
        target, part = new.split(".")
        held = made.get(target, {})
        if fields[key] and isinstance(held, Mapping) and not held.get(part):
            made[target] = {**held, part: "decoder" if fields[key] is True else fields[key]}
    return made
