"""Edits of encoded pairs: the teacher's (LADD's real samples), and those that training shows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import Batch, PairTensors, gather, tokens_of
from kontext.edit.euler import Guidance, Prompt, noise, sample
from kontext.errors import RecipeError
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.timesteps import schedule
from schemas.sections.training import DistillConfig


@dataclass(frozen=True)
class EditSampler:
    """Draws edits of `data` from noise that depends on (seed, pair) alone.

    steps: on the shifted schedule of a target's size.
    guidance: see `Guidance.of`.
    """

    data: PairTensors
    steps: int
    guidance: float = 1.0
    seed: int = 0

    def times(self, model: FluxTransformer, tokens: int) -> Tensor:
        """The grid [steps + 1] from 1 to 0 for targets of so many tokens, by the model's shift."""
        return schedule(self.steps, tokens, model.shape.timestep_shift)

    def start(self, pairs: Tensor) -> Tensor:
        """The noise [B, C, h, w] that the edits of `pairs` [B], which have one size, start from."""
        rows, columns = self.data.grid(pairs)
        shape = (self.data.channels, 2 * rows, 2 * columns)
        return noise(self.seed, pairs.tolist(), shape).to(self.data.latents.device)

    def edits(self, model: FluxTransformer, pairs: Tensor) -> Tensor:
        """Guided edits [B, C, h, w] of `pairs` [B].

        Raises:
            ValueError: the pairs differ in shape.
        """
        batch = gather(self.data, pairs)
        times = self.times(model, tokens_of(batch.grid))
        return self.draw(model, self.start(pairs), batch, times, self.guidance)

    def draw(
        self,
        model: FluxTransformer,
        start: Tensor,
        batch: Batch,
        times: Tensor,
        guidance: float = 1.0,
    ) -> Tensor:
        """Latents [B, C, h, w] after integrating the flow from `start` along `times` [n + 1]."""
        return sample(
            model,
            start,
            Prompt(batch.tokens, batch.pooled),
            batch.contexts,
            times=times,
            guidance=Guidance.of(model, guidance),
            empty=Prompt(*self.data.empty_prompt()),
            autocast=True,
        )


def edit_sampler(config: DistillConfig, data: PairTensors) -> EditSampler:
    """The sampler of the teacher's edits, with the recipe's steps, guidance and seed."""
    return EditSampler(data, config.teacher_steps, config.guidance, config.seed)


def plain_edits(data: PairTensors) -> list[Tensor]:
    """Pairs [n] of each of `data.categories` that have one context and no reference."""
    edits = data.plain_edits()
    return [edits[data.category[edits] == i] for i in range(len(data.categories))]


def choose_edits(data: PairTensors, config: DistillConfig) -> Tensor:
    """Pairs [E] to synthesise, as many from each category as there are. None has references.

    `distill.t2i_share` of them have no context: what the teacher draws from words alone. Those of
    one shape come together.

    Raises:
        RecipeError: the data has too few pairs without a context for the share, or no edit.
    """
    draw = torch.Generator().manual_seed(config.seed)
    drawn = round(config.t2i_share * config.teacher_edits)
    edits = config.teacher_edits - drawn
    pools = [pool for pool in plain_edits(data) if len(pool)]
    pools = [pool[torch.randperm(len(pool), generator=draw)] for pool in pools]
    if edits and not pools:
        raise RecipeError(
            "distill: training has no edits with one context; set distill.t2i_share=1 for a "
            "student that draws from words alone, or distill.steps=0 for none"
        )
    share = -(-edits // max(1, len(pools)))
    chosen = torch.cat([*(pool[:share] for pool in pools), torch.zeros(0, dtype=torch.int64)])
    chosen = torch.cat([chosen[:edits], _singles(data, drawn, draw)])
    return torch.cat([chosen[rows] for rows in data.by_shape(chosen)])


def _singles(data: PairTensors, count: int, draw: torch.Generator) -> Tensor:
    """So many pairs without a context [count]."""
    if not count:
        return torch.zeros(0, dtype=torch.int64)
    pool = data.singles()
    if len(pool) < count:
        raise RecipeError(
            f"distill: t2i_share asks for {count:,} pictures from words, and training has "
            f"{len(pool):,} pairs without a context"
        )
    return pool[torch.randperm(len(pool), generator=draw)[:count]]
