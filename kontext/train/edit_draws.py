"""Batches of edits, noised as a flow is trained on: for the methods that train it further."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kontext.data.pair_tensors import Batch, PairTensors, gather, sampling_weights
from kontext.errors import RecipeError
from kontext.models.sequence import pack
from kontext.parallel.world import World
from kontext.train.clock import Work
from kontext.train.loop import generator
from kontext.train.timesteps import sample_t
from kontext.train.velocity import add_noise
from schemas.sections.training import FinetuneConfig


@dataclass(frozen=True)
class NoisedEdits:
    """Some rows of a global batch of edits, ready to be denoised."""

    batch: Batch
    noisy: Tensor  # [b, N, D]: targets, noised
    t: Tensor  # [b]: how much
    uniform: Tensor  # [b]: one more number in [0, 1) each, on the CPU
    share: float  # of the global batch


class EditDraws:
    """Draws of edits of one picture that go on where the flow's own draws ended.

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
            raise RecipeError("what follows the flow needs edits, and the train split has none")
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

    def work(self) -> Work:
        """Tokens of a step: of its edits, once; operations stay uncounted."""
        return Work(self._size * self._data.edit_tokens.count)

    def _generator(self, index: int, purpose: str) -> torch.Generator:
        return generator(self._seed, self._first + index, purpose)
