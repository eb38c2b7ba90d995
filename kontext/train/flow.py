"""The rectified-flow step: x_t = (1 - t) x + t e, predict e - x, loss on the target's tokens only.

Phase one trains text-to-image from scratch (at full size its place is taken by a FLUX.1
checkpoint); phase two trains text-to-image and image-to-image jointly. With an empty context its
tokens are omitted. Source: FLUX.1 Kontext (arXiv 2506.15742) section 3 and A.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kontext.errors import RecipeError
from kontext.models.batch import Batch, PairTensors, gather, sampling_weights
from kontext.models.precision import autocast, compute_dtype, full_precision
from kontext.models.sequence import pack, sequence_ids
from kontext.models.transformer import FluxTransformer
from kontext.parallel.attention import use_kernel
from kontext.parallel.compile import closed_lengths
from kontext.parallel.shard import shard
from kontext.parallel.world import World
from kontext.train.clock import waiting
from kontext.train.ema import Ema
from kontext.train.loop import TrainState, generator
from kontext.train.optim import scale_rates, transformer_optimizers, warmup_cosine
from kontext.train.state import take_step
from kontext.train.timesteps import sample_t, validation_levels
from kontext.train.whiten import whiten_text_inputs
from schemas.sections.training import FinetuneConfig


def velocity(
    model: FluxTransformer, noisy: Tensor, batch: Batch, t: Tensor, guidance: Tensor | None = None
) -> Tensor:
    """The model's velocity for packed noisy targets.

    Args:
        noisy: packed noisy targets [B, N, 4C].
        batch: gives context, text and the grid; its target is not looked at.
        t: noise levels [B] in [0, 1].
        guidance: what a model with a guidance embedding is told [B]; 1, which is none, by default.

    Returns:
        [B, N, 4C] float32.
    """
    guidance = told(model, t) if guidance is None else guidance
    tokens, ids = with_contexts(noisy, batch)
    with autocast(noisy.device):
        out = model(
            tokens,
            ids,
            batch.tokens,
            batch.pooled,
            t,
            target_length=noisy.shape[1],
            guidance=guidance,
        )
    predicted: Tensor = out.float()
    return predicted


def with_contexts(noisy: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Packed targets [B, N, 4C] followed by the batch's contexts, and the positions of all."""
    grid, *grids = [(z.shape[2] // 2, z.shape[3] // 2) for z in (batch.target, *batch.contexts)]
    tokens = torch.cat((noisy, *map(pack, batch.contexts)), dim=1)
    return tokens, sequence_ids(grid, grids, device=noisy.device)


def told(model: FluxTransformer, like: Tensor) -> Tensor | None:
    """Guidance 1, which is none, like [B], for a model with an embedding of it; else None."""
    return torch.ones_like(like) if model.shape.guidance_embed else None


def add_noise(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """(1 - t) x + t e for packed [B, N, D] and t [B]."""
    return torch.lerp(clean, noise, t.view(-1, 1, 1))


_CHANGED = 0.3


@dataclass(frozen=True)
class Part:
    """Pairs [B] of one step that go through the model together, and the texts they go with."""

    name: str
    pairs: Tensor
    text: Tensor
    with_context: bool = True


@dataclass(frozen=True)
class Drawn:
    """A batch's packed targets and what was drawn for each of them."""

    clean: Tensor  # [B, N, D]
    eps: Tensor  # [B, N, D]
    normal: Tensor  # [B], of which the noise level is made
    guidance: Tensor | None = None  # [B], what the model is told

    def select(self, rows: Tensor) -> Drawn:
        """Reduced to `rows`."""
        guidance = None if self.guidance is None else self.guidance[rows]
        return Drawn(self.clean[rows], self.eps[rows], self.normal[rows], guidance)


class FlowMethod:
    """One update of the flow model on a mixed batch.

    Every rank draws the same global batch and computes its own rows of it, so losses and updates
    do not depend on the number of ranks but for the order of sums. Text-to-image and edits go
    forward and backward one after the other: their sequences have different lengths. So do the
    parts of a batch that is accumulated: its gradient is the whole batch's.

    Args:
        config: the recipe section.
        data: encoded training pairs.
        model: starting weights, the same on all ranks; a fresh model where None.
        world: this process among the ranks; alone by default.

    Raises:
        RecipeError: the shares of CFG dropout sum to more than 1, or make batches of all sizes
            where blocks are to be compiled.
        KernelError: the recipe's attention kernel does not run here.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        data: PairTensors,
        model: FluxTransformer | None = None,
        world: World | None = None,
    ) -> None:
        if config.text_dropout + config.image_dropout + config.both_dropout > 1:
            raise RecipeError("text_dropout, image_dropout and both_dropout sum to more than 1")
        torch.manual_seed(config.seed)
        self.config, self.data = config, data
        self.device = data.latents.device
        self.world = world or World(device=self.device)
        self.model = (model or _fresh(config, data)).to(self.device)
        dtype = compute_dtype(config.parallel.precision, self.device)
        use_kernel(config.parallel.kernel, self.device)
        shard(self.model, config.parallel, self.world, dtype, flow_lengths(config, data))
        self.fp32 = dtype == torch.float32
        self.total_steps = config.t2i_steps + config.joint_steps
        optimizers = transformer_optimizers(
            self.model, config.optimizer, config.lr, config.weight_decay, config.groups
        )
        self.state = TrainState(
            modules={"model": self.model},
            optimizers={type(o).__name__.lower(): o for o in optimizers},
            ema={"model": Ema(self.model, config.ema_decay)},
        )
        self._edits, self._singles = data.edits(), data.singles()
        self._edit_weights = sampling_weights(
            data, self._edits, config.category_weights, config.magnitude_balance
        )

    def step(self, index: int) -> Mapping[str, float]:
        """One update; T2I only in phase one, a fixed T2I/I2I split in phase two."""
        c = self.config
        factor = warmup_cosine(index, self.total_steps, c.warmup)
        scale_rates(self.state.optimizers.values(), factor)
        parts = self.picked(index)
        for optimizer in self.state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        report = self._backward(index, parts)
        norm = take_step(self.state, c.clip)
        return {"loss": report.pop("loss"), "grad_norm": norm, **report}

    def picked(self, index: int) -> list[tuple[str, Tensor]]:
        """The pairs [B] of a step: edits, text-to-image, or both."""
        c = self.config
        draw = generator(c.seed, index, "batch")
        edits = 0 if index < c.t2i_steps else c.batch - round(c.t2i_share * c.batch)
        parts: list[tuple[str, Tensor]] = []
        if edits:
            picks = torch.multinomial(self._edit_weights, edits, replacement=True, generator=draw)
            parts.append(("edit", self._edits[picks]))
        if c.batch > edits and len(self._singles):
            picks = torch.randint(len(self._singles), (c.batch - edits,), generator=draw)
            parts.append(("t2i", self._singles[picks]))
        return parts

    def mixture(self) -> list[dict[str, float | str]]:
        """Rows {category, asked, drawn}: shares of the joint phase's edits, counted step by step.

        `asked` is what the weights say, `drawn` what every batch of the whole run really held.
        """
        names = self.data.categories
        counts = torch.zeros(len(names))
        for index in range(self.config.t2i_steps, self.total_steps):
            for name, pairs in self.picked(index):
                if name == "edit":
                    counts += torch.bincount(self.data.category[pairs], minlength=len(names))
        asked = torch.zeros(len(names))
        asked.index_add_(0, self.data.category[self._edits], self._edit_weights.float())
        drawn = counts / counts.sum().clamp(min=1)
        return [
            {"category": name, "asked": wanted, "drawn": found}
            for name, wanted, found in zip(names, asked.tolist(), drawn.tolist(), strict=True)
            if wanted or found
        ]

    def _backward(self, index: int, parts: list[tuple[str, Tensor]]) -> dict[str, float]:
        """Leave the batch's gradient in the model; returns the global mean losses."""
        c = self.config
        noise = generator(c.seed, index, "noise")
        times = generator(c.seed, index, "time")
        drops = generator(c.seed, index, "dropout")
        report: dict[str, float] = {}
        total = torch.zeros((), device=self.device)
        for name, pairs in parts:
            for part in self.dropped(name, pairs, drops):
                with waiting():
                    batch = gather(self.data, part.pairs, part.text, part.with_context)
                drawn = self._draw(batch, noise, times, drops)
                report[part.name] = 0.0
                for rows in self.world.parts(len(part.pairs), c.accumulate):
                    with full_precision(self.fp32):
                        loss = self._loss(batch, drawn, rows)
                    weighted = loss * (len(rows) / c.batch)
                    weighted.backward()  # type: ignore[no-untyped-call]
                    total = total + weighted.detach()
                    report[part.name] += float(loss.detach()) * (len(rows) / len(part.pairs))
        return self.world.sum({"loss": float(total), **report})

    def dropped(self, name: str, pairs: Tensor, draw: torch.Generator) -> list[Part]:
        """Pairs [B] after CFG dropout: those that keep their context, and those that lose it.

        A sample loses its instruction (to the encoded empty prompt), its context (whose tokens
        are then omitted), or both (InstructPix2Pix, arXiv 2211.09800).
        """
        no_text, alone = cfg_dropout(self.config, len(pairs), draw)
        text = torch.where(no_text, self.data.empty_text, self.data.text[pairs])
        if name != "edit":
            return [Part(name, pairs, text)]
        parts, kept, kept_text = [], pairs[~alone], text[~alone]
        for rows in self.data.alike(kept):
            count = int(self.data.context_counts()[kept[rows[0]]])
            told = name if count == 1 else f"{name}_{count}_contexts"
            parts.append(Part(told, kept[rows], kept_text[rows]))
        if bool(alone.any()):
            parts.append(Part("edit_without_context", pairs[alone], text[alone], False))
        return parts

    def _draw(
        self, batch: Batch, noise: torch.Generator, times: torch.Generator, drops: torch.Generator
    ) -> Drawn:
        """What is random about a whole global batch, wherever its rows are computed."""
        clean = pack(batch.target)
        eps = torch.randn(clean.shape, generator=noise).to(clean.device)
        normal = torch.randn(len(clean), generator=times).to(clean.device)
        if not self.model.shape.guidance_embed:
            return Drawn(clean, eps, normal)
        low, high = self.config.guidance_told
        guidance = low + (high - low) * torch.rand(len(clean), generator=drops)
        return Drawn(clean, eps, normal, guidance.to(clean.device))

    def _loss(self, batch: Batch, drawn: Drawn, rows: range) -> Tensor:
        """Mean loss of some rows of the global batch."""
        c = self.config
        if len(rows) < len(drawn.clean):
            # a rank without rows computes one of no weight: FSDP's collectives need every rank
            mine = torch.tensor(list(rows) or [0], device=drawn.clean.device)
            batch, drawn = batch.select(mine), drawn.select(mine)
        clean, eps = drawn.clean, drawn.eps
        t = sample_t(drawn.normal, clean.shape[1], self.model.shape.timestep_shift)
        predicted = velocity(self.model, add_noise(clean, eps, t), batch, t, drawn.guidance)
        error = (predicted - (eps - clean)).square()
        if c.mask_weight and batch.context is not None:
            error = error * change_weights(batch.target, batch.context, c.mask_weight)
        return error.mean()


def _fresh(config: FinetuneConfig, data: PairTensors) -> FluxTransformer:
    model = FluxTransformer(config.shape)
    if config.whiten_text:
        whiten_text_inputs(model, data)
    return model


def flow_lengths(config: FinetuneConfig, data: PairTensors) -> tuple[int, ...]:
    """All lengths of this data's sequences, for compiled blocks."""
    if config.parallel.compile and config.image_dropout + config.both_dropout:
        raise RecipeError(
            "parallel.compile needs batches of fixed sizes: image_dropout and both_dropout make "
            "others at every step"
        )
    most = int(data.context_counts().max())
    if config.parallel.compile and most > 1:
        raise RecipeError(
            "parallel.compile needs batches of fixed sizes: pairs with references make others at "
            "every step"
        )
    return closed_lengths([data.target_tokens], data.text_tokens.shape[1], most)


def cfg_dropout(config: FinetuneConfig, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which of `count` samples lose their text and which their context: bool [count] each."""
    u = torch.rand(count, generator=draw)
    one, two = config.text_dropout, config.text_dropout + config.image_dropout
    both = (u >= two) & (u < two + config.both_dropout)
    return (u < one) | both, (u >= one) & (u < two) | both


def change_weights(target: Tensor, context: Tensor, weight: float) -> Tensor:
    """Loss weights [B, N, 1] of the target's tokens: 1 + weight where the edit changes them.

    A token is changed where its latents [B, C, h, w] differ from the context's by more than 0.3 of
    their unit spread, as a root mean square. Each sample's weights have mean 1, so that the option
    shifts attention between tokens, not between samples or noise levels.
    """
    apart = (pack(target) - pack(context)).square().mean(dim=-1, keepdim=True)
    weights = 1 + weight * (apart > _CHANGED**2).float()
    return weights / weights.mean(dim=1, keepdim=True)


def validation(method: FlowMethod, held_out: PairTensors) -> Callable[[int], Mapping[str, float]]:
    """What is measured while a flow trains: the averaged weights' loss per category and level.

    On several ranks all compute the same: their weights are gathered block by block.
    """
    c = method.config

    def measure(_: int) -> Mapping[str, float]:
        with method.state.ema["model"].applied(method.model), full_precision(method.fp32):
            rows = level_losses(method.model, held_out, limit=c.validate_pairs, seed=c.seed)
        found = {"val_loss": _mean(rows)}
        for key in ("category", "level"):
            for value in sorted({row[key] for row in rows}, key=str):
                found[f"val_loss/{key}_{value}"] = _mean([r for r in rows if r[key] == value])
        return found

    return measure


def _mean(rows: Sequence[Mapping[str, float | str]]) -> float:
    return sum(float(row["loss"]) for row in rows) / max(1, len(rows))


@torch.no_grad()
def level_losses(
    model: FluxTransformer, data: PairTensors, levels: int = 8, limit: int = 64, seed: int = 0
) -> list[dict[str, float | str]]:
    """Held-out loss per noise level and category, with noise fixed by `seed`.

    Returns rows {category, level, t, loss, n}; at most `limit` pairs per category.
    """
    rows: list[dict[str, float | str]] = []
    times = validation_levels(levels, data.target_tokens, model.shape.timestep_shift)
    for index, name in enumerate(data.categories):
        pairs = torch.nonzero(data.category == index).flatten()[:limit]
        if not len(pairs):
            continue
        draw = generator(seed, index, "noise")
        losses = torch.zeros(levels)
        for part in data.alike(pairs):
            batch = gather(data, pairs[part])
            eps = torch.randn(pack(batch.target).shape, generator=draw).to(batch.target.device)
            for level, t in enumerate(times.tolist()):
                losses[level] += _level_loss(model, batch, eps, t) * (len(part) / len(pairs))
        rows += [
            {"category": name, "level": level, "t": t, "loss": loss, "n": len(pairs)}
            for level, (t, loss) in enumerate(zip(times.tolist(), losses.tolist(), strict=True))
        ]
    return rows


def _level_loss(model: FluxTransformer, batch: Batch, eps: Tensor, t: float) -> float:
    clean = pack(batch.target)
    moment = torch.full((len(clean),), t, device=clean.device)
    predicted = velocity(model, add_noise(clean, eps, moment), batch, moment)
    return float((predicted - (eps - clean)).square().mean())
