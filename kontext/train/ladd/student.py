"""What every method that distils has in common: its input, its batches, and whose turn it is.

The student starts as a copy of the teacher. Its batches are pairs that the teacher has edited, and
it is trained at the levels that its sampler will visit. Ranks hold the networks sharded side by
side and compute their own rows of one global batch; a batch may be computed in parts.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import (
    Batch,
    PairTensors,
    SizedDraw,
    gather,
    tokens_of,
)
from kontext.data.encoded.rows import Rows
from kontext.errors import RecipeError
from kontext.models.files.weights import Entry
from kontext.models.flux.sequence import pack
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.precision import compute_dtype
from kontext.parallel.attention import use_kernel
from kontext.parallel.flops import Tokens
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.shard import fill, shard
from kontext.parallel.world import World
from kontext.train.flow.timesteps import schedule
from kontext.train.flow.velocity import add_noise, velocity
from kontext.train.loop.clock import Work
from kontext.train.loop.fit import Measure, generator
from kontext.train.loop.state import Ema, TrainState, take_step
from kontext.train.optim.build import adamw
from kontext.train.start.teacher import stored_teacher
from schemas.sections.training import DistillConfig

TEACHER_EDITS = "teacher-edits"  # the bank of the real samples

Input = tuple[Batch, Tensor, Tensor]  # a batch, what the student sees [b, N, D], its levels [b]


class Estimated(NamedTuple):
    """A batch, and what the student makes of it."""

    rows: range | None  # of the step's global batch; None: it is a batch of its own
    batch: Batch
    fake: Tensor  # clean estimates, packed [b, N, D]


def taught(
    inputs: Inputs, world: World
) -> tuple[PairTensors, Tensor, Rows, FluxTransformer, World, list[Entry]]:
    """What a method that distils takes besides its settings.

    Pairs of encode's train split, those that were edited [E], their edits, which are in
    `inputs.files`, and the teacher, `inputs.model`. Without it the teacher is that of the
    artifacts, on the meta device, with what is to be read into it, and its world.
    """
    from kontext.data.encoded.banks import map_folder
    from kontext.data.encoded.latents import load_pairs

    data = load_pairs(inputs["encode"], "train", world.device)
    teacher, stored = inputs.model, list[Entry]()
    if teacher is None:
        teacher, stored = stored_teacher(inputs.artifacts)
    assert isinstance(teacher, FluxTransformer)
    made = map_folder(inputs.files[TEACHER_EDITS], TEACHER_EDITS)
    edits = made["pairs"][torch.arange(len(made["pairs"]))]
    return data, edits, made["latents"].to(world.device), teacher, world, stored


class FewStepMethod(ABC):
    """A student of few steps, taught by a frozen flow; how is the method's own.

    Args:
        config: the recipe section.
        data: encoded pairs; `edits` are indices [E] of those with a teacher edit.
        teacher_edits: the teacher's guided edits, E rows [C, h, w], the real samples.
        teacher: frozen here, and sharded where there are ranks; the student starts as its copy.
        world: this process among the ranks; alone by default.
        stored: what is to be read into a teacher on the meta device, and into its copies.

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
        stored: Sequence[Entry] = (),
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data = config, data
        self.edits, self.real = edits, teacher_edits
        self.device = data.latents.device
        self.world = world or World(device=self.device)
        self.world.check_batch(config.batch, config.accumulate)
        if config.parallel.context > 1 or config.parallel.compile or config.parallel.swap:
            raise RecipeError("distill takes no parallel.context, .compile or .swap")
        self._rows = self.world.rows(config.batch)
        self._parts = self.world.parts(config.batch, config.accumulate)
        self.teacher = teacher.requires_grad_(False).eval()
        self.teacher.zero_grad(set_to_none=True)  # left from its own training
        rates = self.learning_rates()
        # what is trained is float32, whatever the teacher is held in
        copies = {name: copy.deepcopy(teacher).float() for name in rates}
        self.trained = {name: each.requires_grad_(True).train() for name, each in copies.items()}
        self.student = self.trained["student"]
        self.products = compute_dtype(config.parallel.precision, self.device)
        self.measure: Measure | None = None
        use_kernel(config.parallel.kernel, self.device)
        for model in (self.teacher, *self.trained.values()):
            shard(model, config.parallel, self.world, self.products)
            if stored:
                fill(model, stored, self.device)
        self.total_steps = config.steps
        self._draw = SizedDraw(None, [data.shapes[pair] for pair in edits.tolist()])
        self.state = TrainState(
            modules={**self.trained},
            optimizers={n: adamw(self.trained[n].parameters(), rates[n]) for n in rates},
            ema={"student": Ema(self.student, config.ema_decay)},
        )
        self.set_up()

    def levels(self, tokens: int) -> Tensor:
        """The student's levels [steps] for targets of so many tokens, noisiest first.

        The sampler's own grid: training levels and sampling levels cannot drift apart.
        """
        return schedule(self.config.student_steps, tokens, self.teacher.shape.timestep_shift)[:-1]

    @abstractmethod
    def set_up(self) -> None:
        """Add to `state` what a method has besides the networks that start as the teacher."""

    def learning_rates(self) -> dict[str, float]:
        """Of the networks that are trained and start as the teacher; `student` is one of them."""
        return {"student": self.config.lr_student}

    @abstractmethod
    def level_odds(self, index: int) -> Tensor:
        """Probability of each of the student's levels [steps] in a step, noisiest first."""

    @abstractmethod
    def student_loss(self, index: int, part: Estimated) -> tuple[Tensor, dict[str, float]]:
        """What the student minimises on a part of step `index`, and means to report."""

    @abstractmethod
    def step(self, index: int) -> Mapping[str, float]:
        """Do update number `index` of everything that is trained."""

    @abstractmethod
    def work(self, index: int) -> Work:
        """What step `index` costs, over all ranks."""

    def denoised(self, batch: Batch, noisy: Tensor, t: Tensor) -> Tensor:
        """The student's clean estimate x_t - t v, packed [B, N, D]."""
        return noisy - t.view(-1, 1, 1) * velocity(self.student, noisy, batch, t)

    def student_input(self, index: int, rows: range | None = None) -> Input:
        """A batch whose targets are teacher edits, and them noised to levels of the grid.

        Returns `rows` (by default this rank's) of the batch, of the noised edits [B, N, D] and
        their levels [B].
        """
        rows = rows or self._rows
        batch, noise = self._edits_and_noise(index, rows)
        times = generator(self.config.seed, index, "time")
        odds, size = self.level_odds(index), self.config.batch
        chosen = torch.multinomial(odds, size, replacement=True, generator=times)
        levels = self.levels(noise.shape[1])
        t = levels[chosen[rows.start : rows.stop]].to(self.device)
        return batch, add_noise(pack(batch.target), noise, t), t

    def trained_input(self, index: int, rows: range) -> Input:
        """What the student is trained on in a step: its noised edits, or the method's own."""
        return self.student_input(index, rows)

    def estimates(self, index: int) -> tuple[Iterable[Estimated], Iterable[Estimated]]:
        """The student's estimates of a step's batch: without its graph, and then with it.

        A whole batch is estimated once for both. One in parts is estimated twice, each part when
        it is asked for, so that one part's graph is kept at a time.
        """
        inputs = [(rows, self.trained_input(index, rows)) for rows in self._parts]
        if len(inputs) == 1:
            whole = self._estimated(*inputs[0])
            return [whole._replace(fake=whole.fake.detach())], [whole]
        return (
            (self._without_graph(*each) for each in inputs),
            (self._estimated(*each) for each in inputs),
        )

    def estimates_alone(self, index: int) -> Iterator[Estimated]:
        """The student's estimates of batch `index` without its graph, for whom they teach."""
        for rows in self._parts:
            yield self._without_graph(rows, self.trained_input(index, rows))

    def update_student(self, index: int, parts: Iterable[Estimated]) -> dict[str, float]:
        """Let the student learn from its estimates, which carry its graph."""
        self._clear()
        report: dict[str, float] = {}
        for part in parts:
            loss, found = self.student_loss(index, part)
            self._add(report, found, part)
            (loss * self._share(part)).backward()  # type: ignore[no-untyped-call]
        norm = self._take("student")
        return {**self.world.sum(report), "student_grad_norm": norm}

    def draws(
        self, index: int, like: Tensor, rounds: int, rows: range | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """`rounds` independent draws for a step: standard normal [B], and noise as `like` [B, ...].

        Those of `rows` of the global batch; by default of a batch that `like` is.
        """
        draw = generator(self.config.seed, index, "renoise")
        size, own = len(like), slice(None)
        if rows is not None:
            size, own = self.config.batch, slice(rows.start, rows.stop)
        made = []
        for _ in range(rounds):
            normal = torch.randn(size, generator=draw)[own]
            noise = torch.randn(size, *like.shape[1:], generator=draw)[own]
            made.append((normal, noise.to(self.device)))
        return made

    def _estimated(self, rows: range | None, given: Input) -> Estimated:
        return Estimated(rows, given[0], self.denoised(*given))

    def _without_graph(self, rows: range | None, given: Input) -> Estimated:
        with torch.no_grad():
            return self._estimated(rows, given)

    def _edits_and_noise(self, index: int, rows: range) -> tuple[Batch, Tensor]:
        """Rows of a step's batch, its targets being teacher edits, and noise [b, N, D]."""
        own = slice(rows.start, rows.stop)
        picks = self._picks(index)[own]
        batch = gather(self.data, self.edits[picks])
        batch = Batch(self.real[picks], batch.context, batch.tokens, batch.pooled)
        draw = generator(self.config.seed, index, "noise")
        size = (self.config.batch, tokens_of(batch.grid), 4 * batch.target.shape[1])
        return batch, torch.randn(size, generator=draw)[own].to(self.device)

    def lengths(self, index: int) -> Tokens:
        """Token counts of the edits of a step's batch."""
        return self.data.lengths(self.edits[self._picks(index)])

    def _picks(self, index: int) -> Tensor:
        """Which edits are the global batch of a step, [B] into `edits`: of one shape."""
        draw = generator(self.config.seed, index, "batch")
        return self._draw(self.config.batch, draw)

    def _share(self, part: Estimated) -> float:
        """Of the global batch."""
        return 1.0 if part.rows is None else len(part.rows) / self.config.batch

    def _add(self, report: dict[str, float], means: Mapping[str, float], part: Estimated) -> None:
        """To means over the global batch, those over a part of it."""
        for name, value in means.items():
            report[name] = report.get(name, 0.0) + value * self._share(part)

    def _clear(self) -> None:
        """No gradients, of any side."""
        for optimizer in self.state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _take(self, name: str) -> float:
        """One optimiser step of one side; returns its gradient norm before it is cleared."""
        optimizer = self.state.optimizers[name]
        return take_step(self.state.modules[name], [optimizer], self.config.clip, self.world)
