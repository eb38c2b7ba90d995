"""Batches and the step of methods that continue a flow's training on edits."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import Batch, PairTensors, gather, sampling_weights
from kontext.errors import RecipeError
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


class EditDraws:
    """Batches of edits with one context, continuing where the flow's own batches ended.

    Every rank draws the same global batch and keeps its own rows of it.

    Args:
        config: whose seed, steps and weights of categories hold here too.
        size: edits of a global batch.
        shift: the model's timestep shift.

    Raises:
        RecipeError: there are no such edits, or fewer in a batch than ranks times parts.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        data: PairTensors,
        size: int,
        shift: tuple[float, float],
        world: World,
    ) -> None:
        self._edits = data.plain_edits()
        if not len(self._edits):
            raise RecipeError(
                "guidance distillation and steps in pixels need edits, and the train split has none"
            )
        if size < world.size * config.accumulate:
            raise RecipeError(
                f"a batch of {size} is too small for {world.size} ranks"
                + (f" times {config.accumulate} parts" if config.accumulate > 1 else "")
            )
        self._seed, self._data, self._size, self._shift = config.seed, data, size, shift
        self._first = config.t2i_steps + config.joint_steps
        self._weights = sampling_weights(
            data, self._edits, config.category_weights, config.magnitude_balance
        )
        self._parts = world.parts(size, config.accumulate)

    def at(self, index: int) -> list[NoisedEdits]:
        """This rank's rows of step `index`, in the parts that they are computed in."""
        data, size = self._data, self._size
        draw = self._generator(index, "batch")
        picks = torch.multinomial(self._weights, size, replacement=True, generator=draw)
        shape = (data.target_tokens, 4 * data.latents.shape[1])
        eps = torch.randn(size, *shape, generator=self._generator(index, "noise"))
        normal = torch.randn(size, generator=self._generator(index, "time"))
        uniform = torch.rand(size, generator=self._generator(index, "dropout"))
        t = sample_t(normal, shape[0], self._shift).to(data.latents.device)
        made = []
        for rows in self._parts:
            own = slice(rows.start, rows.stop)
            batch = gather(data, self._edits[picks[own]])
            noisy = add_noise(pack(batch.target), eps[own].to(t.device), t[own])
            made.append(NoisedEdits(batch, noisy, t[own], uniform[own], len(rows) / size))
        return made

    def _generator(self, index: int, purpose: str) -> torch.Generator:
        return generator(self._seed, self._first + index, purpose)


class EditMethod(ABC):
    """A method that goes on training a flow, on edits with one context.

    Every rank draws the same global batch and computes its own rows of it.

    Args:
        config: the recipe section.
        settings: the method's own part of it.
        data: encoded training pairs.
        shift: the model's timestep shift.
        world: this process among the ranks; alone by default.

    Raises:
        RecipeError: there are no edits to train on, or fewer in a batch than there are ranks.
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
        self.draws = EditDraws(config, data, settings.batch, shift, self.world)
        self.total_steps = settings.steps
        self.numerics: dict[str, str] = {}  # lines that the ledger gets after this method

    def train_model(self, model: FluxTransformer) -> None:
        """Set the model to train: its parameters that need a gradient; it may be sharded."""
        self.trained = model
        self.state = transformer_state(
            model, self.config, self.settings.lr, self.settings.ema_decay
        )

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
        for part in self.draws.at(index):
            losses = self.losses(part)
            (losses["loss"] * part.share).backward()  # type: ignore[no-untyped-call]
            report.update({k: float(v.detach()) * part.share for k, v in losses.items()})
        norm = take_step(self.state, c.clip)
        return self.world.sum(report) | {"grad_norm": norm}

    def work(self, index: int) -> Work:
        """Tokens of a step's edits, once; operations stay uncounted."""
        return Work(self.settings.batch * self.data.edit_tokens.count)
