"""CLIP-I, CLIP-T and CLIP's direction, by open_clip, from the folder `clip`.

The folder is one that open_clip can read (`local-dir:`): its configuration and its weights, such as
the hub's `laion/CLIP-ViT-B-32-laion2B-s34B-b79K`. Figures of two CLIPs do not compare.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kontext.errors import MetricUnavailable
from kontext.evaluate.measures.base import Made, Measure, Opened, cosine, package
from kontext.evaluate.measures.weights import named, weights_folder
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.pixels import Picture

CHANGES_RESULTS = False  # for users; no stage runs a public bench

Vector = NDArray[np.float32]  # [D], not normalised
_GET = "hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K --local-dir …/clip"


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP with its own preprocessing."""

    model: Any
    prepare: Any
    tokenize: Any
    card: Card

    @cached_property
    def width(self) -> int:
        """Numbers of an embedding."""
        grey = np.full((64, 64, 3), 128, np.uint8)
        return len(self.image(Made(grey), "output", grey))

    @torch.no_grad()
    def image(self, made: Made, name: str, picture: Picture) -> Vector:
        """The embedding of an edit's picture `name`, made once."""
        from PIL import Image

        def embed() -> Vector:
            pixels = self.prepare(Image.fromarray(picture))[None]
            found: Vector = self.model.encode_image(pixels)[0].float().numpy()
            return found

        return made.once("clip", name, embed)

    @torch.no_grad()
    def text(self, made: Made, name: str, words: str) -> Vector:
        """The embedding of an edit's caption `name`, made once."""

        def embed() -> Vector:
            found: Vector = self.model.encode_text(self.tokenize([words]))[0].float().numpy()
            return found

        return made.once("clip", name, embed)


@cache
def _loaded(folder: Path) -> Clip:
    """Raises MetricUnavailable; a model without weights is none."""
    import open_clip

    where = f"local-dir:{folder}"
    try:
        model, _, prepare = open_clip.create_model_and_transforms(where, require_pretrained=True)
        tokenize = open_clip.get_tokenizer(where)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:160]
        raise MetricUnavailable(f"{folder} is no CLIP that open_clip reads: {said}") from error
    shape = open_clip.get_model_preprocess_cfg(model)
    size = shape["size"]
    card = Card(
        package("open_clip_torch", "open-clip-torch"),
        named(folder),
        resize=f"{shape.get('resize_mode')} to {size}, {shape.get('interpolation')} (Pillow)",
        crop="middle" if shape.get("resize_mode") == "shortest" else "none",
        range=f"mean {shape['mean']}, standard deviation {shape['std']}",
        dtype="float32",
    )
    return Clip(model.eval().requires_grad_(False), prepare, tokenize, card)


def loaded_clip() -> Clip:
    """The CLIP of the folder `clip`. Raises MetricUnavailable."""
    return _loaded(weights_folder("clip", _GET))


def _opened(value: Callable[[Clip, Made], float | None]) -> Callable[[], Opened]:
    def open_() -> Opened:
        clip = loaded_clip()
        return Opened(lambda made: value(clip, made), clip.card)

    return open_


def _to_target(clip: Clip, made: Made) -> float | None:
    if made.target is None:
        return None
    return cosine(clip.image(made, "output", made.output), clip.image(made, "target", made.target))


def _to_input(clip: Clip, made: Made) -> float | None:
    if made.context is None:
        return None
    output, context = made.output, made.context
    return cosine(clip.image(made, "output", output), clip.image(made, "context", context))


def _to_text(clip: Clip, made: Made) -> float | None:
    if not made.caption:
        return None
    return cosine(clip.image(made, "output", made.output), clip.text(made, "caption", made.caption))


def _direction(clip: Clip, made: Made) -> float | None:
    """Where nothing moved there is no direction: 0. Where the captions are equal there is none."""
    if made.context is None or not made.caption or not made.context_caption:
        return None
    before = clip.text(made, "context_caption", made.context_caption)
    said = _unit(clip.text(made, "caption", made.caption)) - _unit(before)
    if not said.any():
        return None
    shown = _unit(clip.image(made, "output", made.output)) - _unit(
        clip.image(made, "context", made.context)
    )
    return cosine(shown, said) or 0.0


def _unit(vector: Vector) -> Vector:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


MEASURES = {
    "clip_i": Measure(
        "CLIP-I", "", "higher", "cosine of result and target in CLIP", _opened(_to_target)
    ),
    "clip_input": Measure(
        "CLIP-I to input",
        "",
        "",
        "cosine of result and input in CLIP: 1 where nothing was done",
        _opened(_to_input),
    ),
    "clip_t": Measure(
        "CLIP-T",
        "",
        "higher",
        "cosine of the result and its caption (of a text to draw from, that text) in CLIP",
        _opened(_to_text),
    ),
    "clip_direction": Measure(
        "CLIP direction",
        "",
        "higher",
        "cosine of the move from input to result and of that from the input's caption to the "
        "result's, of unit vectors in CLIP; 0 where nothing moved",
        _opened(_direction),
    ),
}
