"""The text encoders that a recipe gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kontext.models.text.encoders import SMALL
from schemas.sections.weights import WeightsConfig

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext
    from kontext.store.artifacts.artifact_store import Artifact


def given_text(ctx: StageContext) -> str:
    """The text encoder of a stage that takes `weights.text`, for `load_text_encoder`.

    Where the recipe gives none it is the one that `encode` had: an artifact may have been chosen.
    """
    if ctx.weights.text or "encode" not in ctx.inputs:
        return spec_of(ctx.weights)
    return text_of(ctx.inputs["encode"])


def text_of(encoded: Artifact) -> str:
    """The text encoder that made an artifact of encode, for `load_text_encoder`."""
    return str(encoded.manifest.metrics.get("text_encoder", SMALL))


def spec_of(weights: WeightsConfig) -> str:
    """The given text encoders for `load_text_encoder`; MiniLM where none are given."""
    return f"flux:{weights.text}" if weights.text else SMALL
