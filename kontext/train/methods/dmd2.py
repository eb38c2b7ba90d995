"""DMD2 for editing: a few-step student whose distribution is moved onto its teacher's.

Improved distribution matching distillation (Yin et al. 2024, arXiv 2405.14867), after DMD (Yin et
al. 2023, arXiv 2311.18828). The student's clean estimate is renoised and denoised twice: by the
frozen teacher, with its guidance, and by the fake score, a copy of the teacher that is trained all
along on what the student makes. The difference of the two is the gradient that the student follows
(section 3). What is taken from the paper:

- no regression on the teacher's own samples (section 4.1): `distill.anchor_weight` does not count;
- two time scales (section 4.2): the fake score is updated `distill.dmd_fake_updates` times, on a
  fresh batch each, per update of the student;
- a GAN loss (section 4.3), weighing `distill.gan_weight`. Its heads are LADD's and sit on the
  frozen teacher, not on the fake score, and its real samples are the teacher's edits;
- a student of several steps (section 4.4), trained at each of its levels equally often;
- backward simulation (section 4.5): with `distill.dmd_simulate` the student's input is what its own
  earlier steps have made of noise, by the sampler's own (Euler) steps. Otherwise it is the noised
  edit, as LADD's is.

Levels of renoising are drawn as the teacher's training drew them: there both networks know best
what they say. (The paper draws evenly, which is how its teachers were trained.)
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from kontext.models.precision import full_precision
from kontext.parallel.flops import Tokens
from kontext.parallel.flops import step_flops as forward_flops
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.flow.timesteps import sample_t
from kontext.train.flow.velocity import add_noise, guided_velocity, velocity
from kontext.train.ladd.formulas import tapped_flops
from kontext.train.ladd.judged import JudgedMethod
from kontext.train.ladd.student import Estimated, Input, taught
from kontext.train.loop.clock import Work
from kontext.train.loop.fit import generator
from schemas.sections.models import TransformerShape
from schemas.sections.training import DistillConfig

DISTILS = ("student", "fake")  # networks as large as the teacher that it trains
_SMALL = 1e-6  # of a distance that is divided by


def build(config: DistillConfig, inputs: Inputs, world: World) -> Dmd2Method:
    """DMD2 on the pairs of encode's train split, with the teacher's edits in `inputs.files`.

    The teacher is `inputs.model`; without it finetune's, of which ranks read their own rows.
    """
    return Dmd2Method(config, *taught(inputs, world))


def step_flops(config: DistillConfig, shape: TransformerShape, tokens: Tokens) -> int:
    """Operations of one step on average: the transformers' products; the heads' own are left out.

    Every batch is estimated by the student, after as many steps of its own as its level needs. The
    fake score trains on all batches but one, and says what it thinks of that one; the teacher says
    so once, or twice where it is guided, and serves the heads as in LADD.
    """
    once = forward_flops(shape, tokens, config.batch)
    before = (config.student_steps - 1) / 2 if config.dmd_simulate else 0
    fake = config.dmd_fake_updates * (round((before + 1) * once.total) + once.training)
    guided = config.guidance > 1 and not shape.guidance_embed
    student = round((before + 1 + (2 if guided else 1)) * once.total) + once.training
    heads = (5 + (1 if config.r1_weight else 0)) if config.gan_weight else 0
    return fake + student + heads * tapped_flops(config, shape, tokens)


def matching_direction(clean: Tensor, as_real: Tensor, as_fake: Tensor) -> Tensor:
    """The gradient of the distribution-matching loss by the student's estimates [B, N, D].

    As in DMD (arXiv 2311.18828, equations 7 and 8): what the fake score sees in the renoised
    estimates minus what the teacher sees, each sample divided by its mean distance to the latter,
    so that all noise levels weigh alike.
    """
    size = (clean - as_real).abs().mean(dim=(1, 2), keepdim=True)
    return (as_fake - as_real) / size.clamp(min=_SMALL)


class Dmd2Method(JudgedMethod):
    """Several updates of the fake score per step, then one of the heads and one of the student.

    Arguments and errors are those of `FewStepMethod`. The fake score is sharded as the student is.
    """

    @property
    def taught_by(self) -> str:
        """The difference of two scores."""
        return "distribution-matching"

    def learning_rates(self) -> dict[str, float]:
        """Of the student and of the fake score, which starts as the teacher too."""
        return {"student": self.config.lr_student, "fake": self.config.lr_fake}

    @property
    def judged(self) -> bool:
        """Whether there is a GAN loss."""
        return self.config.gan_weight > 0

    def level_odds(self, index: int) -> Tensor:
        """The same for all levels, in every step."""
        steps = self.config.student_steps
        return torch.full((steps,), 1 / steps)

    def step(self, index: int) -> Mapping[str, float]:
        """Updates of the fake score on batches of their own, then of the heads and the student."""
        with full_precision(self.products == torch.float32):
            for turn in range(1, self.config.dmd_fake_updates + 1):
                report = self.update_fake(turn * self.total_steps + index)
            for_heads, for_student = self.estimates(index)
            if self.judged:
                report.update(self.update_heads(index, for_heads))
            report.update(self.update_student(index, for_student))
        self.state.ema["student"].update(self.student)
        return report

    def work(self, index: int) -> Work:
        """Tokens of the student's batch, once, and the operations of a whole step."""
        c, tokens = self.config, self.lengths(index)
        return Work(c.batch * tokens.count, step_flops(c, self.teacher.shape, tokens))

    def trained_input(self, index: int, rows: range) -> Input:
        """What the student's own steps made of noise, or noised edits, as the recipe says.

        The whole batch is at one level, so that all ranks take equally many steps.
        """
        if not self.config.dmd_simulate:
            return self.student_input(index, rows)
        batch, noisy = self._edits_and_noise(index, rows)
        place, levels = self._place(index), self.levels(noisy.shape[1])
        with torch.no_grad():
            for now, then in pairwise(levels[: place + 1].tolist()):
                t = noisy.new_full((len(noisy),), now)
                noisy = noisy + (then - now) * velocity(self.student, noisy, batch, t)
        return batch, noisy, noisy.new_full((len(noisy),), float(levels[place]))

    def update_fake(self, index: int) -> dict[str, float]:
        """Let the fake score learn the flow of what the student makes of batch `index`."""
        self._clear()
        report: dict[str, float] = {}
        for part in self.estimates_alone(index):
            noisy, noise, t = self._renoised(index, part, 1)
            found = velocity(self.trained["fake"], noisy, part.batch, t)
            loss = (found - (noise - part.fake)).square().mean()
            self._add(report, {"fake_loss": float(loss.detach())}, part)
            (loss * self._share(part)).backward()  # type: ignore[no-untyped-call]
        norm = self._take("fake")
        return {**self.world.sum(report), "fake_grad_norm": norm}

    def lesson(self, index: int, part: Estimated) -> Tensor:
        """A loss whose gradient by the estimates is `matching_direction`, as a mean."""
        noisy, _, t = self._renoised(index, part, 5)
        levels = t.view(-1, 1, 1)
        with torch.no_grad():
            as_real = noisy - levels * self.teacher_velocity(noisy, part, t)
            as_fake = noisy - levels * velocity(self.trained["fake"], noisy, part.batch, t)
            goal = part.fake - matching_direction(part.fake, as_real, as_fake)
        return 0.5 * (part.fake - goal).square().mean()

    def student_loss(self, index: int, part: Estimated) -> tuple[Tensor, dict[str, float]]:
        """Distribution matching, and the heads' judgement where it has a weight."""
        loss = self.lesson(index, part)
        found = {"matching": float(loss.detach())}
        if self.judged:
            adversarial = self.adversarial(index, part.batch, part.fake, part.rows)
            loss = loss + self.config.gan_weight * adversarial
            found["adversarial"] = float(adversarial.detach())
        return loss, {"student_loss": float(loss.detach()), **found}

    def teacher_velocity(self, noisy: Tensor, part: Estimated, t: Tensor) -> Tensor:
        """The teacher's velocity [B, N, D], guided as its edits are."""
        guidance = torch.full_like(t, self.config.guidance)
        if self.teacher.shape.guidance_embed or self.config.guidance == 1:
            told = guidance if self.teacher.shape.guidance_embed else None
            return velocity(self.teacher, noisy, part.batch, t, told)
        empty = self.data.empty_prompt()
        return guided_velocity(self.teacher, noisy, part.batch, t, guidance, empty)[0]

    def _place(self, index: int) -> int:
        """Which of the student's levels a step trains: the same on all ranks."""
        draw = generator(self.config.seed, index, "time")
        return int(torch.multinomial(self.level_odds(index), 1, generator=draw))

    def _renoised(self, index: int, part: Estimated, rounds: int) -> tuple[Tensor, Tensor, Tensor]:
        """Estimates at levels of the teacher's training [b, N, D], their noise, the levels [b].

        Args:
            rounds: the last of so many draws is taken; the heads take the first four.
        """
        clean = part.fake.detach()
        *_, (normal, noise) = self.draws(index, clean, rounds, part.rows)
        shift = self.teacher.shape.timestep_shift
        t = sample_t(normal, clean.shape[1], shift).to(self.device)
        return add_noise(clean, noise, t), noise, t
