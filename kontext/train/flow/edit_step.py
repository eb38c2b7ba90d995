"""Batches and steps of methods that continue a flow's training on edits."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import (
    Batch,
    PairTensors,
    SizedDraw,
    gather,
    sampling_weights,
    sizes_of,
)
from kontext.errors import RecipeError
from kontext.models.files.weights import Entry
from kontext.models.flux.sequence import pack
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.precision import compute_dtype
from kontext.parallel.world import World
from kontext.train.flow.timesteps import sample_t
from kontext.train.flow.velocity import add_noise
from kontext.train.loop.clock import Work
from kontext.train.loop.fit import Measure, generator
from kontext.train.loop.state import take_step
from kontext.train.optim.build import scale_rates, transformer_state, warmup_cosine
from schemas.sections.training import AfterFlow, FinetuneConfig


@dataclass(frozen=True)
class NoisedEdits:
    """Some rows of a global batch of edits, ready to be denoised."""

    batch: Batch
    noisy: Tensor  # [b, N, D]: targets, noised
    t: Tensor  # [b]: how much
    uniform: Tensor  # [b]: one more number in [0, 1) each, on the CPU
    share: float  # of the global batch


class EditMethod(ABC):
    """A method that goes on training a flow, on edits with one context.

    Batches continue where the flow's own ended. Every rank draws the same global batch and
    computes its own rows of it.

    Args:
        config: the recipe section; its seed, steps and weights of categories hold here too.
        settings: the method's own part of it.
        data: encoded training pairs.
        shift: the model's timestep shift.
        world: this process among the ranks; alone by default.

    Raises:
        RecipeError: there are no such edits, or fewer in a batch than ranks times parts.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        settings: AfterFlow,
        data: PairTensors,
        shift: tuple[float, float],
        world: World | None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.settings, self.data = config, settings, data
        self.device = data.latents.device
        self.world = world or World(device=self.device)
        self.products = compute_dtype(config.parallel.precision, self.device)
        self.measure: Measure | None = None
        self.total_steps = settings.steps
        self._shift, self._edits = shift, data.plain_edits()
        if not len(self._edits):
            raise RecipeError(
                "guidance distillation and steps in pixels need edits, and the train split has none"
            )
        self.world.check_batch(settings.batch, config.accumulate)
        weights = sampling_weights(
            data,
            self._edits,
            config.category_weights,
            config.magnitude_balance,
            config.size_weights,
            config.source_weights,
        )
        self._draw = SizedDraw(weights, sizes_of(data, self._edits))
        self.numerics: dict[str, str] = {}  # lines that the ledger gets after this method

    def train_model(self, model: FluxTransformer, start: Sequence[Entry] = ()) -> None:
        """Set the model to train: its parameters that need a gradient; it may be sharded.

        Args:
            start: what was read into it, where adapters are beside it.
        """
        self.trained, c = model, self.settings
        self.state = transformer_state(model, self.config, c.lr, c.ema_decay, start)

    @abstractmethod
    def losses(self, part: NoisedEdits) -> dict[str, Tensor]:
        """Scalars of a part: `loss`, which is minimised, and what else is reported."""

    def summary(self, recent: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Metrics of the stage, from the last rows of the history; none by default."""
        return {}

    def step(self, index: int) -> Mapping[str, float]:
        """One update; returns the means of `losses` over the global batch."""
        c, optimizers = self.settings, self.state.optimizers.values()
        scale_rates(optimizers, warmup_cosine(index, c.steps, c.warmup))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        report: Counter[str] = Counter()
        for part in self.parts_at(index):
            losses = self.losses(part)
            (losses["loss"] * part.share).backward()  # type: ignore[no-untyped-call]
            report.update({k: float(v.detach()) * part.share for k, v in losses.items()})
        norm = take_step(self.trained, optimizers, c.clip, self.world)
        self.state.ema["model"].update(self.trained)
        return self.world.sum(report) | {"grad_norm": norm}

    def parts_at(self, index: int) -> list[NoisedEdits]:
        """This rank's rows of step `index`, in the parts that they are computed in.

        Targets have one size; contexts of other sizes are parts of their own, on every rank.
        """
        c, data, size = self.config, self.data, self.settings.batch
        draw = partial(generator, c.seed, c.t2i_steps + c.joint_steps + index)
        pairs = self._pairs_at(index)
        shape = (data.lengths(pairs).target, 4 * data.channels)
        eps = torch.randn(size, *shape, generator=draw("noise"))
        normal = torch.randn(size, generator=draw("time"))
        uniform = torch.rand(size, generator=draw("dropout"))
        t = sample_t(normal, shape[0], self._shift).to(self.device)
        made = []
        for alike in data.by_shape(pairs):
            for rows in self.world.parts(len(alike), c.accumulate):
                # a rank without rows computes one of no weight: collectives need every rank
                own = alike[list(rows) or [0]]
                batch = gather(data, pairs[own])
                noisy = add_noise(pack(batch.target), eps[own].to(t.device), t[own])
                made.append(NoisedEdits(batch, noisy, t[own], uniform[own], len(rows) / size))
        return made

    def work(self, index: int) -> Work:
        """Tokens of a step's edits, once; operations stay uncounted."""
        pairs = self._pairs_at(index)
        parts = [pairs[rows] for rows in self.data.by_shape(pairs)]
        return Work(sum(len(part) * self.data.lengths(part).count for part in parts))

    def _pairs_at(self, index: int) -> Tensor:
        """The edits [B] of a step's global batch."""
        c = self.config
        draw = generator(c.seed, c.t2i_steps + c.joint_steps + index, "batch")
        return self._edits[self._draw(self.settings.batch, draw)]
