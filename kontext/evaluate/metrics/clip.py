"""Image-text agreement in the small CLIP that the screen stage trained (this domain only)."""

import numpy as np

from kontext.evaluate.metrics.base import Card, Measured, Metric, Scoring, mean
from kontext.evaluate.pixels import row_cosine


def clip_text(scoring: Scoring) -> Measured | None:
    """Cosine of the output and the target's caption."""
    if scoring.clip is None:
        return None
    return mean(row_cosine(scoring.clip.output, scoring.clip.target_text))


def clip_direction(scoring: Scoring) -> Measured | None:
    """Cosine of the image's move and the captions' move. An editor that moves nothing scores 0."""
    clip = scoring.clip
    if clip is None:
        return None
    text_move = clip.target_text - clip.context_text
    cosine = row_cosine(clip.output - clip.context, text_move)
    moved = np.linalg.norm(text_move.astype(np.float64), axis=1) > 0
    return mean(np.where(moved, np.nan_to_num(cosine), np.nan))


PLACE = 2
_CARD = Card(
    "kontext.models.features.clip",
    "the heads that stage screen trained, on EfficientNet-Lite0 and MiniLM",
    resize="to the area of 128 x 128, bilinear, antialiased",
    range="(255 x - 127) / 128",
    dtype="float32; bfloat16 within the towers where the machine has it",
)
METRICS = (
    Metric(
        "clip_text",
        "CLIP image-text",
        "",
        "cosine of the output and the target's caption in the screen stage's small CLIP",
        clip_text,
        card=_CARD,
    ),
    Metric(
        "clip_direction",
        "CLIP direction",
        "",
        "cosine of the move from context to output and the move from context caption to target "
        "caption",
        clip_direction,
        card=_CARD,
    ),
)
