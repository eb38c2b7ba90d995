"""The text encoders of a model: they lie outside of its folder, and can be moved.

A model says where they were, and by a digest which they are: a new place is taken where its
encoders are the model's own.
"""

from __future__ import annotations

from pathlib import Path

from kontext.edit.weights.folder import ModelSettings
from kontext.errors import WeightsError
from kontext.models.files.locate import check_text_folders
from kontext.models.text.encoders import SMALL, flux_digest
from schemas.paths import expanded

FLUX = "flux"  # T5 and CLIP, in a folder


def text_spec(said: str) -> str:
    """What a user names for `load_text_encoder`: a folder with T5 and CLIP, or MiniLM.

    Args:
        said: FOLDER, flux:FOLDER, minilm or minilm:FOLDER; empty for none.

    Raises:
        WeightsError: T5, CLIP or a tokenizer is not in the folder.
    """
    kind, _, place = said.partition(":")
    if not said or kind == SMALL:
        return said
    folder = expanded(place if kind == FLUX and place else said)
    check_text_folders(folder)
    return f"{FLUX}:{folder.absolute()}"


def digest_of(spec: str) -> str:
    """The digest of FLUX.1's text encoders at a spec; empty for any other.

    Raises:
        WeightsError: one of them is not there.
    """
    kind, _, place = spec.partition(":")
    return flux_digest(Path(place)) if kind == FLUX else ""


def check_text(settings: ModelSettings) -> None:
    """Look whether FLUX.1's text encoders lie where a model says, and are its own.

    Raises:
        WeightsError: gone, or others.
    """
    found = digest_of(settings.text_encoder)
    if found and settings.text_digest not in ("", found):
        raise WeightsError(
            f"{settings.text_encoder.partition(':')[2]} has the text encoders {found}, and model "
            f"'{settings.name}' was made with {settings.text_digest}: say where those are"
        )


def with_text(settings: ModelSettings, said: str) -> ModelSettings:
    """The settings with the place where the model's text encoders lie now; empty: as they are.

    Args:
        said: see `text_spec`.

    Raises:
        WeightsError: nothing there, or not the model's own.
    """
    if not said:
        return settings
    spec = text_spec(said)
    if spec.partition(":")[0] != settings.text_encoder.partition(":")[0]:
        raise WeightsError(
            f"model '{settings.name}' reads its texts with {settings.text_encoder}, not with {spec}"
        )
    moved = settings.model_copy(update={"text_encoder": spec})
    check_text(moved)
    return moved
