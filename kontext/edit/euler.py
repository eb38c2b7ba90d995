"""Euler sampling of the flow, from noise (t = 1) to latents (t = 0).

The grid is training's own timestep function, so a distilled student's few-step grid is the same
schedule with fewer steps. Noise depends on (seed, index) alone, never on the batch it is in.

Every edit is drawn by `sample`: `EditModel` starts from pictures and instructions,
`EditSampler` from encoded pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kontext.models import precision
from kontext.models.flux.layout import ContextCache
from kontext.models.flux.sequence import pack, sequence_ids, unpack
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.timesteps import schedule

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Prompt:
    """Encoded text: states [B, L, D], pooled [B, P], and optionally which tokens are real [B, L].

    FLUX.1 attends to padding, so `mask` stays None unless the model was trained with one.
    """

    text: Tensor
    pooled: Tensor
    mask: Tensor | None = None

    def select(self, rows: Sequence[int]) -> Prompt:
        """These rows of the batch, in this order."""
        mask = None if self.mask is None else self.mask[rows]
        return Prompt(self.text[rows], self.pooled[rows], mask)


@dataclass(frozen=True)
class Guidance:
    """How far to push away from the unconditional prediction. 1 = not at all.

    text: classifier-free guidance on the instruction, the context kept.
    image: guidance on the context as well (InstructPix2Pix's s_I); needs a model trained with
        dropped contexts.
    embedded: the input of a model with a guidance embedding; for such models only.
    """

    text: float = 1.0
    image: float = 1.0
    embedded: float | None = None

    @property
    def plain(self) -> bool:
        """Whether one prediction is enough: nothing is pushed away from."""
        return self.text == 1.0 and self.image == 1.0

    @classmethod
    def of(
        cls, model: FluxTransformer, scale: float, image: float = 1.0, true_cfg: float = 1.0
    ) -> Guidance:
        """Guidance of strength `scale` in the form that the model takes: embedded, or on the text.

        Args:
            true_cfg: classifier-free guidance on the text of a model with a guidance embedding.
        """
        if model.shape.guidance_embed:
            return cls(true_cfg, image, scale)
        return cls(scale, image)


@dataclass(frozen=True)
class Keep:
    """What sampling must not change: outside `free` the result is `latents`.

    At every step those latents are put back at the step's own noise level, so that what is made
    inside fits what is around it (blended latent diffusion, arXiv 2206.02779).

    latents: [B, C, h, w]. free: bool, [B or 1, 1, h, w], True where sampling decides.
    """

    latents: Tensor
    free: Tensor

    @classmethod
    def join(cls, keeps: Sequence[Keep]) -> Keep:
        """What a batch of edits keeps."""
        return cls(torch.cat([k.latents for k in keeps]), torch.cat([k.free for k in keeps]))


def part_of(on_step: OnStep | None, part: int, parts: int) -> OnStep | None:
    """`on_step` for one of `parts` samplings of equal length: it is told the steps of all."""
    if on_step is None:
        return None
    return lambda done, total: on_step(part * total + done, parts * total)


def noise(seed: int, indices: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise [len(indices), *shape], float32 on CPU, by (seed, index)."""
    out = torch.empty(len(indices), *shape)
    for row, index in enumerate(indices):
        digest = hashlib.sha256(f"noise/{seed}/{index}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        out[row].normal_(generator=generator)
    return out


@torch.no_grad()
def sample(
    model: FluxTransformer,
    start: Tensor,
    prompt: Prompt,
    contexts: Sequence[Tensor] = (),
    *,
    steps: int = 28,
    times: Tensor | None = None,
    guidance: Guidance | None = None,
    empty: Prompt | None = None,
    keep: Keep | None = None,
    on_step: OnStep | None = None,
    autocast: bool = False,
) -> Tensor:
    """Integrate the flow from `start`: latents [B, C, h, w], float32, on the model's device.

    Args:
        start: noise [B, C, h, w], or latents noised to times[0].
        contexts: latents of the context images, each [B, C, h_k, w_k]; sizes may differ.
        steps: number of steps on the shifted schedule of this target's token count.
        times: a grid of one's own, [n + 1] falling to 0; replaces `steps`.
        empty: the encoded empty prompt, batch 1 or B; needed for guidance.text != 1.
        keep: what to leave as it is, like `start` in size.
        on_step: called with (steps done, steps).
        autocast: compute in bf16 where the device is faster with it.

    Raises:
        ValueError: guidance that this model or these arguments do not support.
    """
    h, w = start.shape[2] // 2, start.shape[3] // 2
    times = schedule(steps, h * w, model.shape.timestep_shift) if times is None else times
    velocity = _Velocity(model, (h, w), prompt, contexts, guidance or Guidance(), empty)
    x = first = pack(start.float().to(velocity.device))
    if keep is not None:
        kept = pack(keep.latents.to(x))
        free = pack(keep.free.to(x.device).expand_as(start))
    n = len(times) - 1
    with precision.autocast(velocity.device, autocast):
        for step in range(n):
            t, following = float(times[step]), float(times[step + 1])
            x = torch.add(x, velocity(x, t), alpha=following - t)
            if keep is not None:
                x = torch.where(free, x, torch.lerp(kept, first, following))
            if on_step is not None:
                on_step(step + 1, n)
    return unpack(x, h, w)


@dataclass
class _Velocity:
    """v(x, t), guided. Branches with the same tokens share a forward pass."""

    model: FluxTransformer
    grid: tuple[int, int]
    prompt: Prompt
    latents: Sequence[Tensor]  # of the contexts
    guidance: Guidance
    empty: Prompt | None
    cache: ContextCache | None = None

    def __post_init__(self) -> None:
        if self.model.shape.guidance_embed != (self.guidance.embedded is not None):
            raise ValueError("Guidance.embedded is for models with a guidance embedding only")
        if not self.guidance.plain and self.empty is None:
            raise ValueError("classifier-free guidance needs the encoded empty prompt")
        if self.guidance.image != 1.0 and not self.latents:
            raise ValueError("image guidance needs a context image")
        weight = self.model.img_in.weight
        self.device, self.dtype = weight.device, weight.dtype
        grids = [(c.shape[2] // 2, c.shape[3] // 2) for c in self.latents]
        self.ids = sequence_ids(self.grid, grids, self.device)
        self.contexts = [pack(c.float()).to(self.device) for c in self.latents]

    def __call__(self, x: Tensor, t: float) -> Tensor:
        g = self.guidance
        if g.plain:
            return self._forward(x, t, [self.prompt], with_context=True)[0]
        assert self.empty is not None
        full, no_text = self._forward(x, t, [self.prompt, self.empty], with_context=True)
        out = no_text + g.text * (full - no_text)
        if g.image != 1.0:
            neither = self._forward(x, t, [self.empty], with_context=False)[0]
            out = out + (g.image - 1.0) * (no_text - neither)
        return out

    def _forward(
        self, x: Tensor, t: float, prompts: Sequence[Prompt], with_context: bool
    ) -> tuple[Tensor, ...]:
        b, n, k = x.shape[0], x.shape[1], len(prompts)
        contexts = self.contexts if with_context else []
        n_image = n + sum(c.shape[1] for c in contexts)
        text = torch.cat([p.text.expand(b, -1, -1) for p in prompts]).to(self.device)
        pooled = torch.cat([p.pooled.expand(b, -1) for p in prompts]).to(self.device)
        g = self.guidance.embedded
        # BFL's sampler holds t in the model's dtype, so bf16 weights see bf16 times
        times = torch.full((k * b,), t, dtype=self.dtype, device=self.device)
        embedded, cache = None if g is None else torch.full_like(times, g), None
        if contexts and self.model.shape.cached_context:
            contexts, cache = [], self._context_cache(pooled, embedded)
        tokens = torch.cat([x, *contexts], dim=1).repeat(k, 1, 1)
        out = self.model(
            tokens,
            self.ids[: tokens.shape[1]],
            text,
            pooled,
            times,
            target_length=n,
            guidance=embedded,
            attention_mask=self._mask(prompts, b, n_image),
            cache=cache,
        )
        return tuple(out.float().chunk(k))

    def _context_cache(self, pooled: Tensor, guidance: Tensor | None) -> ContextCache:
        """The contexts' keys and values, computed at the first step and kept for the others."""
        if self.cache is None:
            clean = torch.cat(self.contexts, dim=1)
            clean = clean.repeat(len(pooled) // len(clean), 1, 1)
            ids = self.ids[-clean.shape[1] :]
            self.cache = self.model.context_cache(clean, ids, pooled, guidance=guidance)
        return self.cache

    def _mask(self, prompts: Sequence[Prompt], b: int, n_image: int) -> Tensor | None:
        masks = [p.mask.expand(b, -1) for p in prompts if p.mask is not None]
        if not masks:
            return None
        assert len(masks) == len(prompts), "either every prompt has a mask or none"
        image = torch.ones(b * len(masks), n_image, dtype=torch.bool, device=self.device)
        return torch.cat([torch.cat(masks).to(self.device), image], dim=1)
