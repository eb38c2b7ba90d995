"""LADD for editing: a few-step student against heads on the frozen teacher's own features.

Latent adversarial diffusion distillation (Sauer et al. 2024, arXiv 2403.12015): the student's
clean estimate and the teacher's synthetic edits are renoised to t ~ logit-normal(1, 1), pass
through the frozen teacher, and small heads on its blocks tell them apart. Synthetic edits made
with guidance are the real samples, so no distillation loss is needed and the student needs no
guidance (section 4). `distill.anchor_weight` adds a distance to the teacher's edit all the same;
with `distill.adversarial_weight=0` it is all that the student learns from, and there are no heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, float32

from kontext.errors import DivergedError, RecipeError
from kontext.models.flux.sequence import pack
from kontext.models.precision import full_precision
from kontext.parallel.flops import Tokens
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.ladd.formulas import ladd_flops, level_probabilities
from kontext.train.ladd.judged import PINNED, JudgedMethod
from kontext.train.ladd.student import Estimated, taught
from kontext.train.loop.clock import Work
from schemas.sections.models import TransformerShape
from schemas.sections.training import DistillConfig

DISTILS = ("student",)  # networks as large as the teacher that it trains
_PINNED_STEPS = 20  # so many steps of a pinned hinge in a row stop the run
_ACCURACY_DECAY = 0.9


def build(config: DistillConfig, inputs: Inputs, world: World) -> LaddMethod:
    """LADD on the pairs of encode's train split, with the teacher's edits in `inputs.files`.

    The teacher is `inputs.model`; without it finetune's, of which ranks read their own rows.
    """
    return LaddMethod(config, *taught(inputs, world))


def step_flops(config: DistillConfig, shape: TransformerShape, tokens: Tokens) -> int:
    """Operations of one step."""
    return ladd_flops(config, shape, tokens)


class LaddMethod(JudgedMethod):
    """Alternating updates of heads and student, one of each per step.

    A batch that is accumulated is computed part by part, first for the heads and then, estimated
    anew, for the student: both gradients are the whole batch's. Arguments are those of
    `FewStepMethod`.

    Raises:
        RecipeError: neither heads nor distance teach the student; also as `FewStepMethod`.
    """

    def set_up(self) -> None:
        """Refuse what teaches nothing; else as every judged method."""
        if not self.config.adversarial_weight and not self.config.anchor_weight:
            raise RecipeError(
                "distill: with adversarial_weight=0 and anchor_weight=0 the student learns nothing"
            )
        super().set_up()

    @property
    def judged(self) -> bool:
        """Whether there is an adversarial loss."""
        return self.config.adversarial_weight > 0

    @property
    def rests_on_heads(self) -> bool:
        """Always where there are heads: the distance to the edit is an aid."""
        return self.judged

    @property
    def taught_by(self) -> str:
        """The heads, or the distance alone."""
        return "adversarial" if self.judged else "anchor's"

    def level_odds(self, index: int) -> Tensor:
        """The paper's, in warm-up and after it."""
        c = self.config
        return level_probabilities(c.student_steps, warming_up=index < c.warmup_steps)

    def step(self, index: int) -> Mapping[str, float]:
        """One update of the heads, then one of the student.

        Raises:
            DivergedError: the heads' hinge has been zero for too long: the student learns nothing.
        """
        report: dict[str, float] = {}
        with full_precision(self.products == float32):
            for_heads, for_student = self.estimates(index)
            if self.judged:
                report = self._heads_turn(index, for_heads)
            report.update(self.update_student(index, for_student))
        self.state.ema["student"].update(self.student)
        if self.judged:
            self._watch(report["heads_loss"])
        return report

    def work(self, index: int) -> Work:
        """Tokens of a step's batch, once, and the operations of one update of each side."""
        c, tokens = self.config, self.lengths(index)
        return Work(c.batch * tokens.count, ladd_flops(c, self.teacher.shape, tokens))

    def lesson(self, index: int, part: Estimated) -> Tensor:
        """The adversarial loss; the distance to the edit where there is no other."""
        if self.judged:
            return self.adversarial(index, part.batch, part.fake, part.rows)
        return self._anchor(part)

    def student_loss(self, index: int, part: Estimated) -> tuple[Tensor, dict[str, float]]:
        """The lesson, and where the recipe says so the distance to the teacher's edit."""
        c, loss = self.config, self.lesson(index, part)
        found = {"student_loss": float(loss.detach())}
        if not self.judged:
            return c.anchor_weight * loss, {**found, "anchor": found["student_loss"]}
        loss = c.adversarial_weight * loss
        if c.anchor_weight:
            anchor = self._anchor(part)
            loss = loss + c.anchor_weight * anchor
            found["anchor"] = float(anchor.detach())
        return loss, found

    def _anchor(self, part: Estimated) -> Tensor:
        """Mean square distance of the estimates to the teacher's edits."""
        return (part.fake - pack(part.batch.target)).square().mean()

    def _heads_turn(self, index: int, parts: Iterable[Estimated]) -> dict[str, float]:
        """The heads' part of a step: one update, or none or two where they win or lose too much.

        What decides is the moving average of their accuracy over all samples of the step.
        """
        c = self.config
        seen = self.state.extra.get("accuracy", 0.5 * (c.heads_floor + c.heads_ceiling))
        report = self.update_heads(index, parts, learn=seen <= c.heads_ceiling)
        updates = int(seen <= c.heads_ceiling)
        if seen < c.heads_floor:  # another update, on a batch that no step has
            more, updates = self.total_steps + index, 2
            self.update_heads(more, self.estimates_alone(more))
        if c.heads_floor > 0 or c.heads_ceiling < 1:
            report["heads_updates"] = updates
            self.state.extra["accuracy"] = (
                _ACCURACY_DECAY * seen + (1 - _ACCURACY_DECAY) * report["accuracy"]
            )
        return report

    def _watch(self, heads_loss: float) -> None:
        pinned = self.state.extra.get("pinned", 0) + 1 if heads_loss < PINNED else 0
        self.state.extra["pinned"] = pinned
        if pinned >= _PINNED_STEPS:
            raise DivergedError(
                f"distill: the heads' loss has been pinned at zero for {pinned} steps, the student "
                "learns nothing"
            )
