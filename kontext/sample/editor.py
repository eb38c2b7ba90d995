"""Edit images with a model folder: pixels and an instruction in, pixels out.

Safety and the decoding of files are the caller's: the editor takes arrays that were let through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kontext.errors import KontextError, WeightsError
from kontext.models.precision import autocast
from kontext.models.text import TextEncoder, load_text_encoder
from kontext.sample.euler import Guidance, OnStep, Prompt, noise, sample
from kontext.sample.folder import Files, LoadedModel, load_model_folder
from kontext.sample.provenance import Provenance
from kontext.sample.sizes import Size, check_size, model_size

Image = NDArray[np.uint8]  # [H, W, 3], RGB


@dataclass(frozen=True)
class _Frame:
    """Where an image lies inside the model's canvas: left, top, width, height."""

    left: int
    top: int
    width: int
    height: int


class Editor:
    """A loaded model with its text encoder."""

    def __init__(
        self,
        model: LoadedModel,
        text: TextEncoder,
        device: torch.device | str = "cpu",
        background: tuple[int, int, int] = (255, 255, 255),
    ) -> None:
        """Put the parts together.

        Args:
            background: fills the canvas beside images that are not square, for square models.

        Raises:
            WeightsError: the text encoder is not the one the model was trained with.
        """
        wanted = model.settings.text_digest
        if wanted and text.digest != wanted:
            raise WeightsError(
                f"model '{model.settings.name}' was trained with text encoder {wanted}, "
                f"this one is {text.digest}"
            )
        self.model, self.text, self.background = model, text, background
        self.settings, self.digest = model.settings, model.digest
        self.device = torch.device(device)

    @classmethod
    def load(
        cls,
        source: Path | Files,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Editor:
        """Load a model folder, or `model/` of a published artifact.

        Raises:
            WeightsError: see `load_model_folder` and `load_text_encoder`.
        """
        model = load_model_folder(source, device, dtype)
        return cls(model, load_text_encoder(model.settings.text_encoder, device), device)

    def edit(
        self,
        images: Sequence[Image],
        instruction: str,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        size: Size | None = None,
        on_step: OnStep | None = None,
    ) -> Image:
        """Apply `instruction` to the first image, with the others as further references.

        Args:
            images: uint8 [H, W, 3] arrays; none makes an image from the instruction alone.
            steps, guidance: None takes the model's own.
            seed: the noise; the same seed gives the same edit on one device.
            size: (width, height) of the result; None takes the first image's size for the model.

        Returns:
            uint8 [H, W, 3]. Square models give their native square, cut to the image's aspect.

        Raises:
            KontextError: empty instruction, arrays that are not RGB images, impossible size.
        """
        if not instruction.strip():
            raise KontextError("the instruction is empty")
        steps = self.settings.steps if steps is None else steps
        guidance = self.settings.guidance if guidance is None else guidance
        if steps < 1 or not guidance >= 0:
            raise KontextError(f"steps must be at least 1 and guidance not negative ({guidance})")
        canvases, frame = self._canvases(images)
        target = check_size(size or (canvases[0].shape[1::-1] if canvases else self._default()))
        with autocast(self.device):
            contexts = [self._encode(canvas) for canvas in canvases]
            latents = self._sample(contexts, instruction, target, steps, guidance, seed, on_step)
            pixels = self.model.autoencoder.decode(latents.to(self.device)).float()
        out: Image = to_uint8(pixels)[0]
        if size is None and frame is not None:
            out = out[frame.top : frame.top + frame.height, frame.left : frame.left + frame.width]
        return out

    def provenance(
        self, instruction: str, seed: int, steps: int | None = None, guidance: float | None = None
    ) -> Provenance:
        """What `save_image` writes into the file of such an edit."""
        return Provenance(
            model=self.settings.name,
            digest=self.digest,
            instruction=instruction,
            seed=seed,
            steps=self.settings.steps if steps is None else steps,
            guidance=self.settings.guidance if guidance is None else guidance,
        )

    def _default(self) -> Size:
        side = self.settings.resolution
        return model_size(self.settings.sizes, side, side, side)

    def _canvases(self, images: Sequence[Image]) -> tuple[list[Image], _Frame | None]:
        """The images at the model's sizes, and where the first one lies in its canvas."""
        canvases, frames = [], []
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise KontextError("images must be uint8 arrays [height, width, 3]")
            height, width = image.shape[:2]
            size = model_size(self.settings.sizes, self.settings.resolution, width, height)
            crop = self.settings.sizes == "kontext"
            canvas, frame = fit(image, size, self.background, stretch=crop)
            canvases.append(canvas)
            frames.append(frame)
        return canvases, frames[0] if frames else None

    @torch.no_grad()
    def _encode(self, canvas: Image) -> Tensor:
        return self.model.autoencoder.encode(to_tensor([canvas]).to(self.device)).float()

    def _sample(
        self,
        contexts: list[Tensor],
        instruction: str,
        target: Size,
        steps: int,
        guidance: float,
        seed: int,
        on_step: OnStep | None,
    ) -> Tensor:
        transformer, factor = self.model.transformer, self.model.autoencoder.factor
        shape = (transformer.shape.in_channels // 4, target[1] // factor, target[0] // factor)
        if transformer.shape.guidance_embed:
            scales, empty = Guidance(embedded=guidance), None
        else:
            scales = Guidance(text=guidance)
            empty = self._prompt("") if guidance != 1.0 else None
        return sample(
            transformer,
            noise(seed, [0], shape),
            self._prompt(instruction),
            contexts,
            steps=steps,
            guidance=scales,
            empty=empty,
            on_step=on_step,
        )

    def _prompt(self, text: str) -> Prompt:
        tokens, mask, pooled = self.text.encode([text], self.settings.text_length)
        return Prompt(tokens, pooled, mask if self.settings.text_mask else None)


def fit(
    image: Image, size: Size, background: tuple[int, int, int], stretch: bool = False
) -> tuple[Image, _Frame]:
    """Bring `image` to `size` by Lanczos: letterboxed on `background`, or stretched to fill.

    Kontext's sizes are so many that stretching moves the aspect by a few percent at most, which is
    what BFL's sampler does.
    """
    from PIL import Image as Pil

    width, height = size
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = (
        (width, height)
        if stretch
        else (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    )
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = background
    pil = Pil.fromarray(np.ascontiguousarray(image))
    resized = pil if pil.size == inner else pil.resize(inner, Pil.Resampling.LANCZOS)
    canvas[top : top + inner[1], left : left + inner[0]] = np.asarray(resized)
    return canvas, _Frame(left, top, *inner)


def to_tensor(images: Sequence[Image]) -> Tensor:
    """uint8 [H, W, 3] arrays of one size -> float32 [B, 3, H, W] in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(images))
    return stacked.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_uint8(pixels: Tensor) -> Image:
    """[B, 3, H, W] around [-1, 1] -> uint8 array [B, H, W, 3]."""
    scaled = pixels.float().add(1.0).mul(127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
