"""Safety training: asked for what is excluded, the flow gives back the picture it was given.

A share of a batch asks for it, in any of the phrasings found so far, on any training picture: the
target is that picture. The rest is everything else, in the data's words and in words of the
same making as the excluded phrasings, so that words that are odd but harmless keep their effect
too; there the goal is the data's own, or the velocity of the flow as it was. FLUX.1 Kontext names
safety training as a mitigation and publishes no method (arXiv 2506.15742); a context as target is
the edit's counterpart of erasing a concept from a text-to-image model (Gandikota et al., arXiv
2303.07345).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kontext.data.encoded.pair_tensors import (
    NO_CONTEXT,
    Batch,
    PairTensors,
    SizedDraw,
    gather,
    sampling_weights,
    sizes_of,
)
from kontext.errors import RecipeError
from kontext.models.flux.sequence import pack
from kontext.models.flux.transformer import FluxTransformer, load_transformer
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.shard import shard
from kontext.parallel.world import World
from kontext.train.flow.edit_step import EditMethod, NoisedEdits
from kontext.train.flow.timesteps import sample_t
from kontext.train.flow.velocity import add_noise, velocity
from kontext.train.loop.clock import Work
from kontext.train.loop.fit import generator
from kontext.train.start.teacher import FLOW
from schemas.sections.exclusion import ExcludeConfig
from schemas.sections.training import FinetuneConfig

ASKED = "asked"  # the file, among a round's inputs, with what `Asked` holds
_OTHER_WORDS = 0.5  # share of kept pairs that are asked for in other words than the data's
_OWN, _NONE = -1, -2  # in place of a text: the pair's own, and the empty prompt


@dataclass(frozen=True)
class Asked:
    """What a round trains on. The first A of the K texts ask for what is excluded.

    tokens, pooled: [K, L, D], [K, D]. excluded: pairs [E] whose own instruction asks for it.
    asks: A. related: [R] kept pairs of the relations that are excluded in part, the likeliest to be
    lost. groups: [P], a number for what a pair asks for, -1 where no text says it in other
    words; said: [K - A], that of each of the other texts. first: steps of the rounds before.
    """

    tokens: Tensor
    pooled: Tensor
    excluded: Tensor
    asks: int
    related: Tensor
    groups: Tensor
    said: Tensor
    first: int = 0

    def save(self, path: Path) -> None:
        """Write it for ranks to read."""
        numbers = {"asks": torch.tensor(self.asks), "first": torch.tensor(self.first)}
        save_file({**vars(self), **numbers}, path)

    @classmethod
    def load(cls, path: Path) -> Asked:
        """What `save` wrote."""
        found: dict[str, Any] = load_file(path)
        return cls(**{**found, "asks": int(found["asks"]), "first": int(found["first"])})


def build(config: ExcludeConfig, inputs: Inputs, world: World) -> ExcludeMethod:
    """A round of safety training on encode's train split, of `inputs.model` or finetune's flow."""
    from kontext.data.encoded.latents import load_pairs
    from kontext.engine.stage import section_of

    data = load_pairs(inputs["encode"], "train", world.device)
    before = load_transformer(inputs["finetune"], FLOW, world.device)
    model = inputs.model or load_transformer(inputs["finetune"], FLOW, world.device)
    assert isinstance(model, FluxTransformer)
    flow = section_of(inputs["finetune"].manifest, FinetuneConfig)
    return ExcludeMethod(config, flow, data, Asked.load(inputs.files[ASKED]), model, before, world)


@dataclass(frozen=True)
class NoisedPairs(NoisedEdits):
    """Rows that ask for what is excluded, or that are to be kept as they were."""

    kept: bool


class ExcludeMethod(EditMethod):
    """One round: `config.steps` updates of a flow, with the optimizer that the flow had.

    Other arguments and errors are those of `EditMethod`.

    Args:
        config: the recipe section.
        flow: the section that the flow was trained with.
        asked: what is excluded, and in which words.
        model: the flow; all of it is trained, in place.
        before: the flow as it was before the first round, frozen.

    Raises:
        RecipeError: everything is excluded, or a batch has fewer of either kind than ranks.
    """

    def __init__(
        self,
        config: ExcludeConfig,
        flow: FinetuneConfig,
        data: PairTensors,
        asked: Asked,
        model: FluxTransformer,
        before: FluxTransformer,
        world: World | None = None,
    ) -> None:
        settings: Any = config  # has what `EditMethod` asks of a method's own part of a section
        super().__init__(flow, settings, data, model.shape.timestep_shift, world)
        self.exclude, self.asked = config, asked
        self.before = before.requires_grad_(False).eval()
        model.float()  # what is trained is float32, whatever finetune's flow is held in
        if self.world.size > 1:
            for network in (before, model):
                shard(network, flow.parallel, self.world, self.products)
        self.train_model(model.requires_grad_(True).train())
        kept = torch.ones(len(data.target), dtype=torch.bool)
        kept[asked.excluded] = False
        self._kept = torch.nonzero(kept).flatten()
        if not bool((data.context[self._kept] != NO_CONTEXT).any()):
            raise RecipeError(
                "exclude: every training edit asks for what is excluded: none is kept"
            )
        self.count = min(max(1, round(config.share * config.batch)), config.batch - 1)
        for part in (self.count, config.batch - self.count):
            self.world.check_batch(part)
        self._draw_kept = SizedDraw(self._kept_weights(), sizes_of(data, self._kept))
        self._asking = _aligned(data, self._edits)
        self._draw_asking = SizedDraw(None, sizes_of(data, self._asking))
        self._texts_of = {
            group: torch.nonzero(asked.said == group).flatten() + asked.asks
            for group in set(asked.said.tolist())
        }

    def _kept_weights(self) -> Tensor:
        """Half as the flow's training draws them, half from those that are related."""
        weights = sampling_weights(self.data, self._kept, self.config.category_weights)
        related = torch.isin(self._kept, self.asked.related).float()
        if not related.any():
            return weights
        return (weights + related / related.sum()) / 2

    def losses(self, part: NoisedEdits) -> dict[str, Tensor]:
        """`loss`, and what it is of: `excluded` and `kept`, means over the rows of either kind."""
        assert isinstance(part, NoisedPairs)
        c = self.exclude
        found = velocity(self.trained, part.noisy, part.batch, part.t)
        if not part.kept:
            goal = (part.noisy - pack(part.batch.target)) / part.t.view(-1, 1, 1)
            error = (found - goal).square().mean()
            return {"loss": error, "excluded": error * (c.batch / self.count)}
        if c.preserve == "model":
            with torch.no_grad():
                goal = velocity(self.before, part.noisy, part.batch, part.t)
        else:
            goal = (part.noisy - pack(part.batch.target)) / part.t.view(-1, 1, 1)
        error = (found - goal).square().mean()
        share = (c.batch - self.count) / c.batch
        return {"loss": c.preserve_weight * error, "kept": error / share}

    def summary(self, recent: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Mean losses of both kinds over the last steps."""
        names = ("excluded", "kept")
        return {f"{name}_loss": sum(row[name] for row in recent) / len(recent) for name in names}

    def parts_at(self, index: int) -> list[NoisedEdits]:
        """This rank's rows of step `index`: those that ask for what is excluded come first."""
        draw = partial(generator, self.config.seed, self._index(index))
        asking, kept = self._drawn(index)
        words = draw("negatives")
        asks = torch.randint(self.asked.asks, (len(asking),), generator=words)
        texts = self._other_words(kept, words)
        noise, times = draw("noise"), draw("time")
        made: list[NoisedEdits] = []
        for pairs, own, keep in ((asking, asks, False), (kept, texts, True)):
            grid = (self.data.lengths(pairs).target, 4 * self.data.channels)
            eps = torch.randn(len(pairs), *grid, generator=noise)
            normal = torch.randn(len(pairs), generator=times)
            t = sample_t(normal, grid[0], self._shift).to(self.device)
            for alike in self.data.by_shape(pairs):
                for rows in self.world.parts(len(alike), self.config.accumulate):
                    # a rank without rows computes one of no weight: collectives need every rank
                    mine = alike[list(rows) or [0]]
                    batch = self._batch(pairs[mine], own[mine], keep)
                    noisy = add_noise(pack(batch.target), eps[mine].to(t.device), t[mine])
                    share = len(rows) / self.exclude.batch
                    made.append(NoisedPairs(batch, noisy, t[mine], normal[mine], share, keep))
        return made

    def work(self, index: int) -> Work:
        """Tokens of a step's pairs, once; operations stay uncounted."""
        data = self.data
        parts = [pairs[rows] for pairs in self._drawn(index) for rows in data.by_shape(pairs)]
        return Work(sum(len(part) * data.lengths(part).count for part in parts))

    def _index(self, index: int) -> int:
        """A step's number among all that this flow was trained with."""
        c = self.config
        return c.t2i_steps + c.joint_steps + self.asked.first + index

    def _drawn(self, index: int) -> tuple[Tensor, Tensor]:
        """Pairs of a step: some whose context is asked to change as is excluded, and kept ones."""
        draw = generator(self.config.seed, self._index(index), "batch")
        asking = self._asking[self._draw_asking(self.count, draw)]
        return asking, self._kept[self._draw_kept(self.exclude.batch - self.count, draw)]

    def _other_words(self, pairs: Tensor, draw: torch.Generator) -> Tensor:
        """Texts [B] that say what the pairs' own do, `_OWN` for some; and none, as in training.

        Guidance compares with the empty prompt, so what that does is to stay as well.
        """
        dropped = self.config.text_dropout + self.config.both_dropout
        picks, chosen, drops = torch.rand(3, len(pairs), generator=draw)
        texts = torch.full((len(pairs),), _OWN)
        for row, group in enumerate(self.asked.groups[pairs].tolist()):
            if group in self._texts_of and float(chosen[row]) < _OTHER_WORDS:
                own = self._texts_of[group]
                texts[row] = own[int(picks[row] * len(own))]
        return torch.where(drops < dropped, _NONE, texts)

    def _batch(self, pairs: Tensor, texts: Tensor, keep: bool) -> Batch:
        """Pairs [b] of one shape with texts [b]. The target is the context of those not kept."""
        own = torch.where(texts == _NONE, self.data.empty_text, self.data.text[pairs])
        batch = gather(self.data, pairs, own)
        other, rows = (texts >= 0).to(batch.tokens.device), texts.clamp(min=0)
        tokens = self.asked.tokens[rows].to(batch.tokens)
        pooled = self.asked.pooled[rows].to(batch.pooled)
        batch = replace(
            batch,
            tokens=torch.where(other.view(-1, 1, 1), tokens, batch.tokens),
            pooled=torch.where(other.view(-1, 1), pooled, batch.pooled),
        )
        if keep:
            return batch
        assert batch.context is not None
        return replace(batch, target=batch.context)


def _aligned(data: PairTensors, pairs: Tensor) -> Tensor:
    """Those of pairs [B] whose context has the target's size, so that it can be the target.

    Raises RecipeError where there are none.
    """
    rows = [row for row, pair in enumerate(pairs.tolist()) if len(set(data.shapes[pair])) == 1]
    if not rows:
        raise RecipeError("exclude: no training edit has a context of its target's size")
    return pairs[rows]
