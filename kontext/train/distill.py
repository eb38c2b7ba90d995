"""LADD for editing: a few-step student against heads on the frozen teacher's own features.

Latent adversarial diffusion distillation (Sauer et al. 2024, arXiv 2403.12015): the student's
clean estimate and the teacher's synthetic edits are renoised to t ~ logit-normal(1, 1), pass
through the frozen teacher, and small heads on its blocks tell them apart. Synthetic edits made
with guidance are the real samples, so no distillation loss is needed and the student needs no
guidance. For editing, the context stays in the teacher's sequence, and real targets under a wrong
instruction, beside a wrong context, or replaced by a copy of the context are fakes too: otherwise
the heads judge realism, not faithfulness.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext.errors import GateError
from kontext.models.batch import Batch, PairTensors, gather
from kontext.models.discriminators import LaddHeads
from kontext.models.precision import autocast
from kontext.models.sequence import pack, sequence_ids
from kontext.models.transformer import FluxTransformer
from kontext.train.ema import Ema
from kontext.train.flow import add_noise, velocity
from kontext.train.loop import TrainState, generator
from kontext.train.optim import adamw
from kontext.train.timesteps import logit_normal, schedule
from schemas.recipes import DistillConfig

# Probability of each of the student's levels {1, .75, .5, .25}, noisiest first (LADD, section 4).
WARMUP_PROBABILITIES = (0.0, 0.0, 0.5, 0.5)
PROBABILITIES = (0.7, 0.1, 0.1, 0.1)


def level_probabilities(steps: int, warming_up: bool) -> Tensor:
    """Probability of each student level for a grid of `steps`, noisiest first.

    The paper gives four levels; other counts keep its shape: warm-up trains the cleaner half, then
    the first level gets 0.7 and the rest share 0.3.
    """
    if steps == 1:
        return torch.ones(1)
    if steps == 4:
        return torch.tensor(WARMUP_PROBABILITIES if warming_up else PROBABILITIES)
    weights = torch.zeros(steps)
    if warming_up:
        weights[steps // 2 :] = 1.0
    else:
        weights[:] = 0.3 / (steps - 1)
        weights[0] = 0.7
    return weights / weights.sum()


def default_taps(shape_depth: int, single_depth: int, count: int = 4) -> tuple[int, ...]:
    """Blocks spread over the depth, so that structure and texture both vote."""
    total = shape_depth + single_depth
    count = min(count, total)
    return tuple(sorted({round((i + 1) * total / count) - 1 for i in range(count)}))


_CHANCE = 0.55  # share of right answers below which heads are guessing


class DistillMethod:
    """Alternating updates of heads and student, one of each per step.

    Args:
        config: the recipe section.
        data: encoded pairs; `edits` are indices [E] of those with a teacher edit.
        teacher_edits: the teacher's guided edits [E, C, h, w], the real samples.
        teacher: frozen here; the student starts as its copy.
    """

    def __init__(
        self,
        config: DistillConfig,
        data: PairTensors,
        edits: Tensor,
        teacher_edits: Tensor,
        teacher: FluxTransformer,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data = config, data
        self.edits, self.real = edits, teacher_edits
        self.device = data.latents.device
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = copy.deepcopy(teacher).requires_grad_(True).train()
        shape = teacher.shape
        self.taps = config.taps or default_taps(shape.depth, shape.depth_single_blocks)
        self.heads = LaddHeads(shape.hidden_size, self.taps, shape.vec_in_dim).to(self.device)
        self.total_steps = config.steps
        # The sampler's own grid: training levels and sampling levels cannot drift apart.
        self.levels = schedule(config.student_steps, data.target_tokens)[:-1]
        self.state = TrainState(
            modules={"student": self.student, "heads": self.heads},
            optimizers={
                "student": adamw(self.student.parameters(), config.lr_student),
                "heads": adamw(self.heads.parameters(), config.lr_heads),
            },
            ema={"student": Ema(self.student, config.ema_decay)},
        )

    def step(self, index: int) -> Mapping[str, float]:
        """One update of the heads, then one of the student."""
        batch, noisy, t = self._student_input(index)
        with torch.no_grad():
            fake = self.denoised(batch, noisy, t)
        report = self._update_heads(index, batch, fake)
        report.update(self._update_student(index, batch, noisy, t))
        self.state.ema["student"].update(self.student)
        return report

    def denoised(self, batch: Batch, noisy: Tensor, t: Tensor) -> Tensor:
        """The student's clean estimate x_t - t v, packed [B, N, D]."""
        return noisy - t.view(-1, 1, 1) * velocity(self.student, noisy, batch, t)

    def logits(self, batch: Batch, clean: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Head logits [B, taps * N] of packed clean samples renoised to `level` [B]."""
        noisy = add_noise(clean, noise, level)
        tokens, grids = noisy, []
        if batch.context is not None:
            tokens = torch.cat((noisy, pack(batch.context)), dim=1)
            grids = [self.data.grid]
        ids = sequence_ids(self.data.grid, grids, device=noisy.device)
        with autocast(self.device):
            states = self.teacher.features(
                tokens, ids, batch.tokens, batch.pooled, level, taps=self.taps
            )
            logits: Tensor = self.heads(states, self.data.grid, level, batch.pooled)
        return logits.float()

    def _student_input(self, index: int) -> tuple[Batch, Tensor, Tensor]:
        """A batch whose targets are teacher edits, noised to levels of the student's grid."""
        c = self.config
        draw = generator(c.seed, index, "batch")
        picks = torch.randint(len(self.edits), (c.batch,), generator=draw)
        batch = gather(self.data, self.edits[picks])
        batch = Batch(self.real[picks], batch.context, batch.tokens, batch.pooled)
        odds = level_probabilities(c.student_steps, warming_up=index < c.warmup_steps)
        times = generator(c.seed, index, "time")
        chosen = torch.multinomial(odds, c.batch, replacement=True, generator=times)
        t = self.levels[chosen].to(self.device)
        clean = pack(batch.target)
        eps = torch.randn(clean.shape, generator=generator(c.seed, index, "noise"))
        return batch, add_noise(clean, eps.to(self.device), t), t

    def _renoise(self, index: int, like: Tensor, rounds: int) -> list[tuple[Tensor, Tensor]]:
        """`rounds` independent (level [B], noise) draws from logit-normal(mean, std)."""
        c = self.config
        draw = generator(c.seed, index, "renoise")
        made = []
        for _ in range(rounds):
            normal = torch.randn(len(like), generator=draw)
            level = logit_normal(normal, c.renoise_mean, c.renoise_std).to(self.device)
            made.append((level, torch.randn(like.shape, generator=draw).to(self.device)))
        return made

    def _update_heads(self, index: int, batch: Batch, fake: Tensor) -> dict[str, float]:
        c = self.config
        real = pack(batch.target)
        (real_level, real_noise), (fake_level, fake_noise), (bad_level, bad_noise) = self._renoise(
            index, real, 3
        )
        on_real = self.logits(batch, real, real_level, real_noise)
        on_fake = self.logits(batch, fake, fake_level, fake_noise)
        wrong, clean = self._negatives(index, batch)
        on_wrong = self.logits(wrong, clean, bad_level, bad_noise)
        loss = heads_hinge(on_real, on_fake, on_wrong, c.negative_weight)
        smooth = torch.zeros((), device=self.device)
        if c.r1_weight:
            # Approximate R1 (APT, arXiv 2501.08316): no second derivatives through the teacher.
            nudged = real + c.r1_sigma * real_noise
            again = self.logits(batch, nudged, real_level, real_noise)
            smooth = (again - on_real).square().mean()
        self._apply("heads", loss + c.r1_weight * smooth)
        accuracy = 0.5 * ((on_real > 0).float().mean() + (on_fake < 0).float().mean())
        return {
            "heads_loss": float(loss.detach()),
            "r1": float(smooth.detach()),
            "real_logit": float(on_real.mean().detach()),
            "fake_logit": float(on_fake.mean().detach()),
            "wrong_logit": float(on_wrong.mean().detach()),
            "accuracy": float(accuracy),
        }

    def _negatives(self, index: int, batch: Batch) -> tuple[Batch, Tensor]:
        """Real edits made wrong, a third each: instruction, context, copied context."""
        real = pack(batch.target)
        if batch.context is None:
            other = _rolled(len(real), index)
            return Batch(batch.target, None, batch.tokens[other], batch.pooled[other]), real
        kind = torch.arange(len(real), device=self.device) % 3
        other = _rolled(len(real), index)
        pick = kind.view(-1, 1, 1)
        tokens = torch.where(pick == 0, batch.tokens[other], batch.tokens)
        pooled = torch.where(pick[:, 0] == 0, batch.pooled[other], batch.pooled)
        context = torch.where(pick[..., None] == 1, batch.context[other], batch.context)
        clean = torch.where(pick == 2, pack(batch.context), real)
        return Batch(batch.target, context, tokens, pooled), clean

    def _update_student(
        self, index: int, batch: Batch, noisy: Tensor, t: Tensor
    ) -> dict[str, float]:
        fake = self.denoised(batch, noisy, t)
        *_, (level, noise) = self._renoise(index, fake, 4)
        loss = -self.logits(batch, fake, level, noise).mean()
        report = {"student_loss": float(loss.detach())}
        if self.config.anchor_weight:
            anchor = (fake - pack(batch.target)).square().mean()
            loss = loss + self.config.anchor_weight * anchor
            report["anchor"] = float(anchor.detach())
        report["student_grad_norm"] = self._apply("student", loss)
        return report

    def _apply(self, name: str, loss: Tensor) -> float:
        """One optimiser step of one side; returns its gradient norm before it is cleared."""
        module, optimizer = self.state.modules[name], self.state.optimizers[name]
        for other in self.state.optimizers.values():
            other.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(module.parameters(), self.config.clip))
        optimizer.step()
        return norm


def heads_hinge(
    on_real: Tensor, on_fake: Tensor, on_wrong: Tensor, negative_weight: float
) -> Tensor:
    """Hinge loss of the heads, with all fakes together weighing as much as the reals.

    If they weighed more, the best constant answer would be "fake" at a logit of -1, where the
    fakes' hinge has no gradient any more, and the heads would stay there.
    """
    fakes = F.relu(1 + on_fake).mean() + negative_weight * F.relu(1 + on_wrong).mean()
    return F.relu(1 - on_real).mean() + fakes / (1 + negative_weight)


def _rolled(n: int, index: int) -> Tensor:
    """A permutation without fixed points: every sample gets another one's condition."""
    shift = 1 + index % (n - 1) if n > 1 else 0
    return (torch.arange(n) + shift) % n


def check_wiring(method: DistillMethod) -> None:
    """Gates before the first step (LADD's known wiring faults).

    Raises:
        GateError: no gradient reaches the student, the teacher would train, the student does not
            start as the teacher, or the real samples are not latents of the teacher's scale.
    """
    batch, noisy, t = method._student_input(0)
    start = noisy - t.view(-1, 1, 1) * velocity(method.teacher, noisy, batch, t)
    fake = method.denoised(batch, noisy, t)
    if method.state.step == 0 and not torch.allclose(fake, start, atol=1e-4):
        raise GateError("distill: the student's first estimate is not the teacher's")
    (level, noise), *_ = method._renoise(0, fake, 1)
    (-method.logits(batch, fake, level, noise).mean()).backward()  # type: ignore[no-untyped-call]
    reached = any(
        p.grad is not None and bool(p.grad.abs().sum() > 0) for p in method.student.parameters()
    )
    leaked = any(p.requires_grad or p.grad is not None for p in method.teacher.parameters())
    for module in method.state.modules.values():
        module.zero_grad(set_to_none=True)
    if not reached:
        raise GateError("distill: no gradient reaches the student through the teacher")
    if leaked:
        raise GateError("distill: the frozen teacher would receive gradients")
    spread = float(method.real.std() / method.data.latents.std())
    if not 0.5 < spread < 2.0:
        raise GateError(
            f"distill: teacher edits have {spread:.2f} times the spread of real latents"
        )


def check_training(history: Sequence[Mapping[str, float]], window: int = 20) -> list[str]:
    """Gate after training, and what people should know about it, one line each.

    Heads that end undecided may have met a student as good as its teacher; heads that were never
    better than chance over any `window` steps gave it no signal, which is said here.

    Raises:
        GateError: the heads' hinge is pinned at zero.
    """
    recent = [row["heads_loss"] for row in history[-window:]]
    if recent and max(recent) < 1e-3:
        raise GateError("distill: the heads' loss is pinned at zero, the student learns nothing")
    told = [row["accuracy"] for row in history]
    means = [sum(told[i : i + window]) / window for i in range(len(told) - window + 1)]
    if means and max(means) < _CHANCE:
        return [
            f"the discriminator heads never told real from fake (best {max(means):.0%} over "
            f"{window} steps, chance is 50%): the student learned from its distance to the "
            "teacher's edits alone"
        ]
    return []
