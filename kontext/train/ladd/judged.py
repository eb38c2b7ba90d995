"""Students that are judged: heads on the frozen teacher's features tell their estimates from edits.

What is judged is renoised to t ~ logit-normal and passes through the frozen teacher; small heads on
its blocks vote. For editing, the context stays in the teacher's sequence, and real targets under a
wrong instruction, with a wrong context, or replaced by a copy of the context are fakes too:
otherwise the heads judge realism, not faithfulness.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import Batch, gather
from kontext.models.flux.sequence import pack
from kontext.models.precision import autocast
from kontext.parallel.shard import gather_weights_for
from kontext.train.flow.timesteps import logit_normal
from kontext.train.flow.velocity import add_noise, unit_guidance, with_contexts
from kontext.train.ladd.formulas import default_taps, heads_hinge, rolled
from kontext.train.ladd.heads import LaddHeads
from kontext.train.ladd.student import Estimated, FewStepMethod
from kontext.train.optim.build import adamw

WRONGS = ("instruction", "context", "copy")  # what can be wrong with a negative
PINNED = 1e-3  # a hinge below this gives no gradient worth the name


class JudgedMethod(FewStepMethod):
    """A student of few steps, and heads that judge it where the method's loss asks them.

    The heads, which are small, are held by every rank. Arguments and errors are those of
    `FewStepMethod`.
    """

    def set_up(self) -> None:
        """Add the heads; they train where the loss asks them."""
        gather_weights_for(self.teacher, "features")
        c, shape = self.config, self.teacher.shape
        self.taps = c.taps or default_taps(shape.depth, shape.depth_single_blocks)
        self.heads = LaddHeads(shape.hidden_size, self.taps, shape.vec_in_dim).to(self.device)
        if self.judged:
            self.state.modules["heads"] = self.heads
            self.state.optimizers["heads"] = adamw(self.heads.parameters(), c.lr_heads)

    @property
    @abstractmethod
    def judged(self) -> bool:
        """Whether the heads' judgement is part of the student's loss; else they are not trained."""

    @property
    @abstractmethod
    def taught_by(self) -> str:
        """What its lesson is, in a word."""

    @property
    def rests_on_heads(self) -> bool:
        """Whether the student learns nothing where the heads tell it nothing."""
        return False

    @abstractmethod
    def lesson(self, index: int, part: Estimated) -> Tensor:
        """The part of the student's loss that the method is about, alone."""

    def logits(self, batch: Batch, clean: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Head logits [B, taps * N] of packed clean samples renoised to `level` [B]."""
        tokens, ids = with_contexts(add_noise(clean, noise, level), batch)
        inputs = (tokens, ids, batch.tokens, batch.pooled, level)
        guidance = unit_guidance(self.teacher, level)
        with autocast(self.device):
            states = self.teacher.features(*inputs, taps=self.taps, guidance=guidance)
            logits: Tensor = self.heads(states, batch.grid, level, batch.pooled)
        return logits.float()

    def renoise(
        self, index: int, like: Tensor, rounds: int, rows: range | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """`rounds` independent (level [B], noise) draws from logit-normal(mean, std).

        Those of `rows` of the global batch; by default of a batch that `like` [B, ...] is.
        """
        c = self.config
        return [
            (logit_normal(normal, c.renoise_mean, c.renoise_std).to(self.device), noise)
            for normal, noise in self.draws(index, like, rounds, rows)
        ]

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
        """Real edits made wrong, by turns: instruction, context, copied context.

        All three, a third each, where the recipe leaves none out; a context is copied where it has
        the target's size. What is wrong comes from other samples of `rows`' global batch; by
        default of `batch`.
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
        # a context of another size cannot stand for the target
        aligned = batch.context.shape == batch.target.shape
        asked = [kind for kind in self.config.negatives if aligned or kind != "copy"]
        kinds = torch.tensor([WRONGS.index(kind) for kind in asked or ["instruction"]])
        pick = kinds[row % len(kinds)].to(self.device).view(-1, 1, 1)
        tokens = torch.where(pick == 0, wrong.tokens, batch.tokens)
        pooled = torch.where(pick[:, 0] == 0, wrong.pooled, batch.pooled)
        context = torch.where(pick[..., None] == 1, wrong.context, batch.context)
        clean = torch.where(pick == 2, pack(batch.context), real) if aligned else real
        return Batch(batch.target, context, tokens, pooled), clean

    def adversarial(
        self, index: int, batch: Batch, fake: Tensor, rows: range | None = None
    ) -> Tensor:
        """The student's adversarial loss: its gradient comes through the frozen teacher."""
        *_, (level, noise) = self.renoise(index, fake, 4, rows)
        return -self.logits(batch, fake, level, noise).mean()
