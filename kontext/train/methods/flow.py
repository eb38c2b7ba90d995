"""The rectified-flow step: x_t = (1 - t) x + t e, predict e - x, loss on the target's tokens only.

Phase one trains text-to-image from scratch (at full size its place is taken by a FLUX.1
checkpoint); phase two trains text-to-image and image-to-image jointly. With an empty context its
tokens are omitted. Source: FLUX.1 Kontext (arXiv 2506.15742) section 3 and A.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import (
    PairTensors,
    SizedDraw,
    gather,
    sampling_weights,
    sizes_of,
)
from kontext.data.encoded.rows import row_shapes
from kontext.errors import ArtifactError
from kontext.models.files.weights import Entry
from kontext.models.flux.sequence import pack
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.precision import full_precision, products_dtype
from kontext.parallel.attention import use_kernel
from kontext.parallel.flops import step_flops
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.flow.model import check_widths, fresh_model
from kontext.train.flow.timesteps import sample_t
from kontext.train.flow.validation import validation
from kontext.train.flow.velocity import add_noise, change_weights, velocity
from kontext.train.loop.clock import Work, waiting
from kontext.train.loop.fit import Measure, generator
from kontext.train.loop.state import take_step
from kontext.train.optim.build import rate_factor, scale_rates, transformer_state
from kontext.train.start.model import START, lay_out, starting_model
from schemas.sections.training import FinetuneConfig


@dataclass(frozen=True)
class Part:
    """Pairs [B] of one step that go through the model together, and the texts they go with."""

    name: str
    pairs: Tensor
    text: Tensor
    with_context: bool = True

    def select(self, rows: Tensor) -> Part:
        """Reduced to `rows`."""
        return replace(self, pairs=self.pairs[rows], text=self.text[rows])


@dataclass(frozen=True)
class Drawn:
    """What was drawn for each sample of a batch."""

    eps: Tensor  # [B, N, D], as its packed targets
    normal: Tensor  # [B], of which the noise level is made
    guidance: Tensor | None = None  # [B], strength for a guidance embedding

    def to(self, device: torch.device) -> Drawn:
        """The same on a device."""
        guidance = None if self.guidance is None else self.guidance.to(device)
        return Drawn(self.eps.to(device), self.normal.to(device), guidance)

    def select(self, rows: Tensor) -> Drawn:
        """Reduced to `rows`."""
        guidance = None if self.guidance is None else self.guidance[rows]
        return Drawn(self.eps[rows], self.normal[rows], guidance)


def build(config: FinetuneConfig, inputs: Inputs, world: World) -> FlowMethod:
    """Flow training on the pairs of encode's train split.

    `inputs.model` is trained; without it the weights that the stage was given, or a fresh model of
    the recipe's shape; with adapters where the recipe trains those.
    """
    from kontext.data.encoded.latents import load_pairs

    data = load_pairs(inputs["encode"], "train", world.device)
    start: list[Entry] = []
    model = inputs.model
    if model is None and (START in inputs.files or world.launches):
        model, start = starting_model(config, inputs, data, world)
    assert model is None or isinstance(model, FluxTransformer)
    method = FlowMethod(config, data, model, world, start)
    if config.validate_every:
        held_out = load_pairs(inputs["encode"], "val", world.device)
        method.measure = Measure(
            config.validate_every, lambda step: method.validation_losses(held_out), config.patience
        )
    return method


class FlowMethod:
    """One update of the flow model on a mixed batch.

    Every rank draws the same global batch, and reads and computes its own rows of it, so losses
    and updates do not depend on the number of ranks but for the order of sums. Text-to-image and
    edits go forward and backward one after the other: their sequences have different lengths. So do
    the parts of a batch that is accumulated: its gradient is the whole batch's.

    Args:
        config: the recipe section.
        data: encoded training pairs.
        model: starting weights, the same on all ranks; a fresh model where None.
        world: this process among the ranks; alone by default.
        start: what is to be read into a model on the meta device.

    Raises:
        RecipeError: the shares of CFG dropout make batches of all sizes where blocks are to be
            compiled; the model takes latents or texts of other widths.
        ArtifactError: there is no training pair.
        KernelError: the recipe's attention kernel does not run here.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        data: PairTensors,
        model: FluxTransformer | None = None,
        world: World | None = None,
        start: Sequence[Entry] = (),
    ) -> None:
        shape = model.shape if model is not None else config.shape
        widths = (int(row_shapes(rows)[0][-1]) for rows in (data.text_tokens, data.text_pooled))
        check_widths(shape, data.channels, *widths)
        torch.manual_seed(config.seed)
        self.config, self.data = config, data
        self.device = data.latents.device
        self.world = world or World(device=self.device)
        self.model = model or fresh_model(config, data)
        held = self.model.img_in.weight.dtype
        self.products = products_dtype(held, config.parallel.precision, self.device)
        self.measure: Measure | None = None
        use_kernel(config.parallel.kernel, self.device)
        lay_out(self.model, start, config, data, self.world, self.products)
        self.total_steps = config.t2i_steps + config.joint_steps
        self.state = transformer_state(self.model, config, config.lr, config.ema_decay, start)
        self._edits, self._singles = data.edits(), data.singles()
        if not len(self._edits) and not len(self._singles):
            raise ArtifactError("the training split holds no pair")
        self._edit_weights = sampling_weights(
            data,
            self._edits,
            config.category_weights,
            config.magnitude_balance,
            config.size_weights,
            config.source_weights,
        )
        alike = None  # singles by their number, or by their source's weight
        drawn = config.t2i_steps or config.t2i_share or not len(self._edits)
        if config.source_weights and drawn:
            alike = sampling_weights(data, self._singles, {}, source_weights=config.source_weights)
        self._draw_edits = SizedDraw(self._edit_weights, sizes_of(data, self._edits))
        self._draw_singles = SizedDraw(alike, sizes_of(data, self._singles))

    def step(self, index: int) -> Mapping[str, float]:
        """One update; T2I only in phase one, a fixed T2I/I2I split in phase two."""
        c = self.config
        factor = rate_factor(c.schedule, index, self.total_steps, c.warmup)
        scale_rates(self.state.optimizers.values(), factor)
        parts = self.pairs_at(index)
        for optimizer in self.state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        report = self._backward(index, parts)
        norm = take_step(self.model, self.state.optimizers.values(), c.clip, self.world)
        self.state.ema["model"].update(self.model)
        return {"loss": report.pop("loss"), "grad_norm": norm, **report}

    def pairs_at(self, index: int) -> list[tuple[str, Tensor]]:
        """The pairs [B] of a step: edits, text-to-image, or both; targets of one size in each."""
        c = self.config
        draw = generator(c.seed, index, "batch")
        edits = self._edits_at(index)
        parts: list[tuple[str, Tensor]] = []
        if edits:
            parts.append(("edit", self._edits[self._draw_edits(edits, draw)]))
        if c.batch > edits and len(self._singles):
            picks = self._draw_singles(c.batch - edits, draw)
            parts.append(("t2i", self._singles[picks]))
        return parts

    def _edits_at(self, index: int) -> int:
        """How many samples of a step's batch are edits; all or none where there is nothing else."""
        c = self.config
        if not len(self._singles) or not len(self._edits):
            return c.batch if len(self._edits) else 0
        return 0 if index < c.t2i_steps else c.batch - round(c.t2i_share * c.batch)

    def work(self, index: int) -> Work:
        """Text, target and context tokens of a step's samples, and the operations they take."""
        c, drops = self.config, generator(self.config.seed, index, "dropout")
        tokens = flops = 0
        for name, pairs in self.pairs_at(index):
            for part in self.drop_conditions(name, pairs, drops):
                lengths, count = self.data.lengths(part.pairs), len(part.pairs)
                if not part.with_context:
                    lengths = replace(lengths, context=0)
                cost = step_flops(c.shape, lengths, count)
                flops += cost.of_adapters if c.lora_rank else cost.training
                tokens += count * lengths.count
        return Work(tokens, flops)

    def validation_losses(self, held_out: PairTensors) -> dict[str, float]:
        """The averaged weights' loss on held-out pairs, per category and noise level.

        All ranks compute all of it; the mean over them is the same number on each, so that they
        agree on when to end.
        """
        c, exact = self.config, self.products == torch.float32
        with self.state.ema["model"].applied(self.model), full_precision(exact):
            found = validation(self.model, held_out, c.validate_pairs, c.seed, self.told)
        groups = self.world.size // self.world.context
        return self.world.sum({name: value / groups for name, value in found.items()})

    @property
    def told(self) -> float:
        """The guidance that validation tells a model with an embedding: training's, on average."""
        return sum(self.config.guidance_told) / 2

    def mixture(self) -> list[dict[str, float | str]]:
        """Rows {category, asked, drawn}: shares of the joint phase's edits, counted step by step.

        `asked` is what the weights say, `drawn` what every batch of the whole run really held.
        """
        names = self.data.categories
        counts = torch.zeros(len(names))
        for index in range(self.config.t2i_steps, self.total_steps):
            for name, pairs in self.pairs_at(index):
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
            found = self.drop_conditions(name, pairs, drops)
            named = Counter[str]()
            for part in found:
                named[part.name] += len(part.pairs)
            for part in found:
                drawn = self._draw(part.pairs, noise, times, drops)
                report.setdefault(part.name, 0.0)
                for rows in self.world.parts(len(part.pairs), c.accumulate):
                    with full_precision(self.products == torch.float32):
                        loss = self._loss(part, drawn, rows)
                    weighted = loss * (len(rows) / c.batch)
                    weighted.backward()  # type: ignore[no-untyped-call]
                    total = total + weighted.detach()
                    report[part.name] += float(loss.detach()) * (len(rows) / named[part.name])
        return self.world.sum({"loss": float(total), **report})

    def drop_conditions(self, name: str, pairs: Tensor, draw: torch.Generator) -> list[Part]:
        """Pairs [B] after CFG dropout: those that keep their context, and those that lose it.

        A sample loses its instruction (to the encoded empty prompt), its context (whose tokens
        are then omitted), or both (InstructPix2Pix, arXiv 2211.09800).
        """
        no_text, alone = cfg_dropout(self.config, len(pairs), draw)
        text = torch.where(no_text, self.data.empty_text, self.data.text[pairs])
        if name != "edit":
            return [Part(name, pairs, text)]
        parts, kept, kept_text = [], pairs[~alone], text[~alone]
        for rows in self.data.by_shape(kept):
            count = len(self.data.shapes[int(kept[rows[0]])]) - 1
            label = name if count == 1 else f"{name}_{count}_contexts"
            parts.append(Part(label, kept[rows], kept_text[rows]))
        if bool(alone.any()):
            parts.append(Part("edit_without_context", pairs[alone], text[alone], False))
        return parts

    def _draw(
        self, pairs: Tensor, noise: torch.Generator, times: torch.Generator, drops: torch.Generator
    ) -> Drawn:
        """What is random about the global batch of pairs [B], wherever its rows are computed."""
        tokens, size = self.data.lengths(pairs).target, len(pairs)
        eps = torch.randn(size, tokens, 4 * self.data.channels, generator=noise)
        normal = torch.randn(size, generator=times)
        if not self.model.shape.guidance_embed:
            return Drawn(eps, normal)
        low, high = self.config.guidance_told
        return Drawn(eps, normal, low + (high - low) * torch.rand(size, generator=drops))

    def _loss(self, part: Part, drawn: Drawn, rows: range) -> Tensor:
        """Mean loss of some rows of a part of the global batch; no others are read."""
        c = self.config
        if len(rows) < len(part.pairs):
            # a rank without rows computes one of no weight: FSDP's collectives need every rank
            mine = torch.tensor(list(rows) or [0])
            part, drawn = part.select(mine), drawn.select(mine)
        with waiting():
            batch = gather(self.data, part.pairs, part.text, part.with_context)
            drawn = drawn.to(self.device)
        clean, eps = pack(batch.target), drawn.eps
        t = sample_t(drawn.normal, clean.shape[1], self.model.shape.timestep_shift)
        predicted = velocity(self.model, add_noise(clean, eps, t), batch, t, drawn.guidance)
        error = (predicted - (eps - clean)).square()
        if c.mask_weight and batch.context is not None:
            error = error * change_weights(batch.target, batch.context, c.mask_weight)
        return error.mean()


def cfg_dropout(config: FinetuneConfig, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which of `count` samples lose their text and which their context: bool [count] each."""
    u = torch.rand(count, generator=draw)
    one, two = config.text_dropout, config.text_dropout + config.image_dropout
    both = (u >= two) & (u < two + config.both_dropout)
    return (u < one) | both, (u >= one) & (u < two) | both
