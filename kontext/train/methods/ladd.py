"""LADD for editing: a few-step student against heads on the frozen teacher's own features.

Latent adversarial diffusion distillation (Sauer et al. 2024, arXiv 2403.12015): the student's
clean estimate and the teacher's synthetic edits are renoised to t ~ logit-normal(1, 1), pass
through the frozen teacher, and small heads on its blocks tell them apart. Synthetic edits made
with guidance are the real samples, so no distillation loss is needed and the student needs no
guidance. For editing, the context stays in the teacher's sequence, and real targets under a wrong
instruction, with a wrong context, or replaced by a copy of the context are fakes too: otherwise
the heads judge realism, not faithfulness.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import Batch, PairTensors, Rows, gather
from kontext.errors import DivergedError, RecipeError
from kontext.models.flux.sequence import pack
from kontext.models.flux.transformer import FluxTransformer, load_transformer
from kontext.models.precision import autocast, compute_dtype, full_precision
from kontext.parallel.attention import use_kernel
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.shard import gather_weights_for, shard
from kontext.parallel.world import World
from kontext.train.flow.timesteps import logit_normal, schedule
from kontext.train.flow.velocity import add_noise, unit_guidance, velocity, with_contexts
from kontext.train.ladd.formulas import (
    default_taps,
    heads_hinge,
    ladd_flops,
    level_probabilities,
    rolled,
)
from kontext.train.ladd.heads import LaddHeads
from kontext.train.loop.clock import Work
from kontext.train.loop.fit import Measure, generator
from kontext.train.loop.state import Ema, TrainState, take_step
from kontext.train.optim.build import adamw
from schemas.sections.training import DistillConfig

PINNED = 1e-3  # a hinge below this gives no gradient worth the name
_PINNED_STEPS = 20  # so many such steps in a row stop the run
_ACCURACY_DECAY = 0.9
TEACHER_EDITS = "teacher-edits"  # the bank of the real samples


class Estimated(NamedTuple):
    """A batch, and what the student makes of it."""

    rows: range | None  # of the step's global batch; None: it is a batch of its own
    batch: Batch
    fake: Tensor  # clean estimates, packed [b, N, D]


def build(config: DistillConfig, inputs: Inputs, world: World) -> LaddMethod:
    """LADD on the pairs of encode's train split, with the teacher's edits in `inputs.files`.

    The teacher is `inputs.model`; without it finetune's.
    """
    from kontext.data.encoded.banks import map_folder
    from kontext.data.encoded.latents import load_pairs

    data = load_pairs(inputs["encode"], "train", world.device)
    teacher = inputs.model
    if teacher is None:
        teacher = load_transformer(inputs["finetune"], "flow.safetensors", world.device)
    assert isinstance(teacher, FluxTransformer)
    made = map_folder(inputs.files[TEACHER_EDITS], TEACHER_EDITS)
    edits = made["pairs"][torch.arange(len(made["pairs"]))]
    return LaddMethod(config, data, edits, made["latents"].to(world.device), teacher, world)


class LaddMethod:
    """Alternating updates of heads and student, one of each per step.

    On several ranks student and teacher are sharded side by side and the heads, which are small,
    are held by every rank; each computes its rows of the same global batch. A batch that is
    accumulated is computed part by part, first for the heads and then, estimated anew, for the
    student: both gradients are the whole batch's.

    Args:
        config: the recipe section.
        data: encoded pairs; `edits` are indices [E] of those with a teacher edit.
        teacher_edits: the teacher's guided edits [E, C, h, w], the real samples.
        teacher: frozen here, and sharded where there are ranks; the student starts as its copy.
        world: this process among the ranks; alone by default.

    Raises:
        RecipeError: a batch has fewer samples than there are ranks and parts, or ranks are to
            share sequences, whose features the heads would see in parts.
    """

    def __init__(
        self,
        config: DistillConfig,
        data: PairTensors,
        edits: Tensor,
        teacher_edits: Rows,
        teacher: FluxTransformer,
        world: World | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data = config, data
        self.edits, self.real = edits, teacher_edits
        self.device = data.latents.device
        self.world = world or World(device=self.device)
        self.world.check_batch(config.batch, config.accumulate)
        if config.parallel.context > 1 or config.parallel.compile:
            raise RecipeError("distill takes no parallel.context and no parallel.compile")
        self._rows = self.world.rows(config.batch)
        self._parts = self.world.parts(config.batch, config.accumulate)
        self.teacher = teacher.requires_grad_(False).eval()
        self.teacher.zero_grad(set_to_none=True)  # left from its own training
        self.student = copy.deepcopy(teacher).requires_grad_(True).train()
        self.products = compute_dtype(config.parallel.precision, self.device)
        self.measure: Measure | None = None
        use_kernel(config.parallel.kernel, self.device)
        for model in (self.teacher, self.student):
            shard(model, config.parallel, self.world, self.products)
        gather_weights_for(self.teacher, "features")
        shape = teacher.shape
        self.taps = config.taps or default_taps(shape.depth, shape.depth_single_blocks)
        self.heads = LaddHeads(shape.hidden_size, self.taps, shape.vec_in_dim).to(self.device)
        self.total_steps = config.steps
        # The sampler's own grid: training levels and sampling levels cannot drift apart.
        self.levels = schedule(config.student_steps, data.target_tokens, shape.timestep_shift)[:-1]
        self.state = TrainState(
            modules={"student": self.student, "heads": self.heads},
            optimizers={
                "student": adamw(self.student.parameters(), config.lr_student),
                "heads": adamw(self.heads.parameters(), config.lr_heads),
            },
            ema={"student": Ema(self.student, config.ema_decay)},
        )

    def step(self, index: int) -> Mapping[str, float]:
        """One update of the heads, then one of the student.

        Raises:
            DivergedError: the heads' hinge has been zero for too long: the student learns nothing.
        """
        with full_precision(self.products == torch.float32):
            inputs = [self.student_input(index, rows) for rows in self._parts]
            at_once = len(inputs) == 1  # then one graph of the student serves both turns
            with torch.set_grad_enabled(at_once):
                parts = [
                    Estimated(rows, each[0], self.denoised(*each))
                    for rows, each in zip(self._parts, inputs, strict=True)
                ]
            heads = [part._replace(fake=part.fake.detach()) for part in parts]
            report = self._heads_turn(index, heads)
            again = (
                part if at_once else part._replace(fake=self.denoised(*each))
                for part, each in zip(parts, inputs, strict=True)
            )
            report.update(self.update_student(index, again))
        self.state.ema["student"].update(self.student)
        self._watch(report["heads_loss"])
        return report

    def work(self, index: int) -> Work:
        """Tokens of a step's batch, once, and the operations of one update of each side."""
        c, tokens = self.config, self.data.edit_tokens
        return Work(c.batch * tokens.count, ladd_flops(c, self.teacher.shape, tokens))

    def denoised(self, batch: Batch, noisy: Tensor, t: Tensor) -> Tensor:
        """The student's clean estimate x_t - t v, packed [B, N, D]."""
        return noisy - t.view(-1, 1, 1) * velocity(self.student, noisy, batch, t)

    def logits(self, batch: Batch, clean: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Head logits [B, taps * N] of packed clean samples renoised to `level` [B]."""
        tokens, ids = with_contexts(add_noise(clean, noise, level), batch)
        inputs = (tokens, ids, batch.tokens, batch.pooled, level)
        guidance = unit_guidance(self.teacher, level)
        with autocast(self.device):
            states = self.teacher.features(*inputs, taps=self.taps, guidance=guidance)
            logits: Tensor = self.heads(states, self.data.grid, level, batch.pooled)
        return logits.float()

    def student_input(self, index: int, rows: range | None = None) -> tuple[Batch, Tensor, Tensor]:
        """A batch whose targets are teacher edits, and them noised to levels of the grid.

        Returns `rows` (by default this rank's) of the batch, of the noised edits [B, N, D] and
        their levels [B].
        """
        c, rows = self.config, rows or self._rows
        own = slice(rows.start, rows.stop)
        picks = self._picks(index)[own]
        batch = gather(self.data, self.edits[picks])
        batch = Batch(self.real[picks], batch.context, batch.tokens, batch.pooled)
        odds = level_probabilities(c.student_steps, warming_up=index < c.warmup_steps)
        times = generator(c.seed, index, "time")
        chosen = torch.multinomial(odds, c.batch, replacement=True, generator=times)
        t = self.levels[chosen[own]].to(self.device)
        clean = pack(batch.target)
        draw = generator(c.seed, index, "noise")
        eps = torch.randn(c.batch, *clean.shape[1:], generator=draw)[own]
        return batch, add_noise(clean, eps.to(self.device), t), t

    def _picks(self, index: int) -> Tensor:
        """Which edits are the global batch of a step, [B] into `edits`."""
        draw = generator(self.config.seed, index, "batch")
        return torch.randint(len(self.edits), (self.config.batch,), generator=draw)

    def renoise(
        self, index: int, like: Tensor, rounds: int, rows: range | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """`rounds` independent (level [B], noise) draws from logit-normal(mean, std).

        Those of `rows` of the global batch; by default of a batch that `like` [B, ...] is.
        """
        c = self.config
        draw = generator(c.seed, index, "renoise")
        size, own = len(like), slice(None)
        if rows is not None:
            size, own = c.batch, slice(rows.start, rows.stop)
        made = []
        for _ in range(rounds):
            normal = torch.randn(size, generator=draw)[own]
            level = logit_normal(normal, c.renoise_mean, c.renoise_std).to(self.device)
            noise = torch.randn(size, *like.shape[1:], generator=draw)[own]
            made.append((level, noise.to(self.device)))
        return made

    def _heads_turn(self, index: int, parts: Sequence[Estimated]) -> dict[str, float]:
        """The heads' part of a step: one update, or none or two where they win or lose too much.

        What decides is the moving average of their accuracy over all samples of the step.
        """
        c = self.config
        seen = self.state.extra.get("accuracy", 0.5 * (c.heads_floor + c.heads_ceiling))
        report = self.update_heads(index, parts, learn=seen <= c.heads_ceiling)
        updates = int(seen <= c.heads_ceiling)
        if seen < c.heads_floor:  # another update, on a batch that no step has
            more, updates = self.total_steps + index, 2
            with torch.no_grad():
                inputs = ((rows, self.student_input(more, rows)) for rows in self._parts)
                parts = [Estimated(rows, each[0], self.denoised(*each)) for rows, each in inputs]
            self.update_heads(more, parts)
        if c.heads_floor > 0 or c.heads_ceiling < 1:
            report["heads_updates"] = updates
            self.state.extra["accuracy"] = (
                _ACCURACY_DECAY * seen + (1 - _ACCURACY_DECAY) * report["accuracy"]
            )
        return report

    def update_heads(
        self, index: int, parts: Iterable[Estimated], learn: bool = True
    ) -> dict[str, float]:
        """Let the heads learn (or only judge) edits, the student's estimates and wrong conditions.

        Args:
            parts: of the batch, their estimates without the student's graph.
            learn: whether the heads' weights are updated.
        """
        self._clear()
        report: dict[str, float] = {}
        for part in parts:
            loss, found = self.heads_loss(index, part.batch, part.fake, part.rows)
            self._add(report, found, part)
            if learn:
                (loss * self._share(part)).backward()  # type: ignore[no-untyped-call]
        if learn:
            self._take("heads")
        return self.world.sum(report)

    def heads_loss(
        self, index: int, batch: Batch, fake: Tensor, rows: range | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The heads' loss on a batch, or on `rows` of the global one, and means to report."""
        c = self.config
        real = pack(batch.target)
        (real_level, real_noise), (fake_level, fake_noise), (bad_level, bad_noise) = self.renoise(
            index, real, 3, rows
        )
        on_real = self.logits(batch, real, real_level, real_noise)
        on_fake = self.logits(batch, fake, fake_level, fake_noise)
        wrong, clean = self.negatives(index, batch, rows)
        on_wrong = self.logits(wrong, clean, bad_level, bad_noise)
        loss = heads_hinge(on_real, on_fake, on_wrong, c.negative_weight)
        smooth = torch.zeros((), device=self.device)
        if c.r1_weight:
            # Approximate R1 (APT, arXiv 2501.08316): no second derivatives through the teacher.
            nudged = real + c.r1_sigma * real_noise
            again = self.logits(batch, nudged, real_level, real_noise)
            smooth = (again - on_real).square().mean()
        accuracy = 0.5 * ((on_real > 0).float().mean() + (on_fake < 0).float().mean())
        return loss + c.r1_weight * smooth, {
            "heads_loss": float(loss.detach()),
            "r1": float(smooth.detach()),
            "real_logit": float(on_real.mean().detach()),
            "fake_logit": float(on_fake.mean().detach()),
            "wrong_logit": float(on_wrong.mean().detach()),
            "accuracy": float(accuracy),
        }

    def negatives(
        self, index: int, batch: Batch, rows: range | None = None
    ) -> tuple[Batch, Tensor]:
        """Real edits made wrong, a third each: instruction, context, copied context.

        What is wrong comes from other samples of `rows`' global batch; by default of `batch`.
        """
        real = pack(batch.target)
        row = torch.arange(len(real))
        if rows is None:
            wrong = batch.select(rolled(len(real), index))
        else:  # the other sample may be another rank's
            row = torch.arange(rows.start, rows.stop)
            other = self._picks(index)[rolled(self.config.batch, index)[row]]
            wrong = gather(self.data, self.edits[other])
        if batch.context is None or wrong.context is None:
            return Batch(batch.target, None, wrong.tokens, wrong.pooled), real
        pick = (row.to(self.device) % 3).view(-1, 1, 1)
        tokens = torch.where(pick == 0, wrong.tokens, batch.tokens)
        pooled = torch.where(pick[:, 0] == 0, wrong.pooled, batch.pooled)
        context = torch.where(pick[..., None] == 1, wrong.context, batch.context)
        clean = torch.where(pick == 2, pack(batch.context), real)
        return Batch(batch.target, context, tokens, pooled), clean

    def adversarial(
        self, index: int, batch: Batch, fake: Tensor, rows: range | None = None
    ) -> Tensor:
        """The student's adversarial loss: its gradient comes through the frozen teacher."""
        *_, (level, noise) = self.renoise(index, fake, 4, rows)
        return -self.logits(batch, fake, level, noise).mean()

    def update_student(self, index: int, parts: Iterable[Estimated]) -> dict[str, float]:
        """Let the student learn from its estimates, which carry its graph."""
        self._clear()
        report: dict[str, float] = {}
        for part in parts:
            loss = self.adversarial(index, part.batch, part.fake, part.rows)
            found = {"student_loss": float(loss.detach())}
            if self.config.anchor_weight:
                anchor = (part.fake - pack(part.batch.target)).square().mean()
                loss = loss + self.config.anchor_weight * anchor
                found["anchor"] = float(anchor.detach())
            self._add(report, found, part)
            (loss * self._share(part)).backward()  # type: ignore[no-untyped-call]
        norm = self._take("student")
        return {**self.world.sum(report), "student_grad_norm": norm}

    def _share(self, part: Estimated) -> float:
        """Of the global batch."""
        return 1.0 if part.rows is None else len(part.rows) / self.config.batch

    def _add(self, report: dict[str, float], means: Mapping[str, float], part: Estimated) -> None:
        """To means over the global batch, those over a part of it."""
        for name, value in means.items():
            report[name] = report.get(name, 0.0) + value * self._share(part)

    def _watch(self, heads_loss: float) -> None:
        pinned = self.state.extra.get("pinned", 0) + 1 if heads_loss < PINNED else 0
        self.state.extra["pinned"] = pinned
        if pinned >= _PINNED_STEPS:
            raise DivergedError(
                f"distill: the heads' loss has been pinned at zero for {pinned} steps, the student "
                "learns nothing"
            )

    def _clear(self) -> None:
        """No gradients, of either side."""
        for optimizer in self.state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _take(self, name: str) -> float:
        """One optimiser step of one side; returns its gradient norm before it is cleared."""
        optimizer = self.state.optimizers[name]
        return take_step(self.state.modules[name], [optimizer], self.config.clip, self.world)
