"""The flow's last steps, judged in pictures: its estimate is decoded and compared as an eye would.

A flow regresses latents, where all differences weigh alike; what an edit looks like depends on few
of them. So after the regression the clean estimate x_t - t v is decoded by the frozen autoencoder
and compared with the decoded target in a feature network too (LPIPS's form, and the pooled
embedding), as few-step rectified flows are trained (Lee, Lin & Fanti 2024, arXiv 2405.20320). The
distance in latents stays in the loss: it holds what the feature network does not see.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kontext.errors import RecipeError
from kontext.models.autoencoder import Autoencoder
from kontext.models.batch import Batch, PairTensors, gather, sampling_weights
from kontext.models.precision import autocast
from kontext.models.sequence import pack, unpack
from kontext.models.transformer import FluxTransformer
from kontext.train.ema import Ema
from kontext.train.flow import add_noise, change_weights, velocity
from kontext.train.loop import TrainState, generator
from kontext.train.optim import scale_rates, transformer_optimizers, warmup_cosine
from kontext.train.perceptual import Backbone, feature_distances
from kontext.train.timesteps import sample_t
from schemas.train_config import FinetuneConfig


class PictureMethod:
    """One update of a trained flow on edits, by the pictures that its estimates decode to.

    Runs in one process. The model is trained in place; its averaged weights are in `state.ema`.

    Args:
        config: the recipe section; `pictures` has the steps and weights.
        data: encoded training pairs.
        model: a trained flow; what of it takes a gradient is trained.
        codec: the autoencoder that made the latents, frozen.
        features: the frozen network that pictures are compared in.

    Raises:
        RecipeError: there are no edits to train on.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        data: PairTensors,
        model: FluxTransformer,
        codec: Autoencoder,
        features: Backbone,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data, self.model = config, data, model
        self.codec, self.features = codec, features
        self.device = data.latents.device
        self.total_steps = config.pictures.steps
        optimizers = transformer_optimizers(
            model, config.optimizer, config.pictures.lr, config.weight_decay, config.groups
        )
        self.state = TrainState(
            modules={"model": model},
            optimizers={type(o).__name__.lower(): o for o in optimizers},
            ema={"model": Ema(model, config.pictures.ema_decay)},
        )
        self._edits = data.plain_edits()
        if not len(self._edits):
            raise RecipeError(
                "finetune.pictures needs edits, and there are none in the train split"
            )
        self._weights = sampling_weights(
            data, self._edits, config.category_weights, config.magnitude_balance
        )

    def step(self, index: int) -> Mapping[str, float]:
        """One update; `latents`, `maps` and `embedding` are the loss's parts without weights."""
        c = self.config.pictures
        optimizers = self.state.optimizers.values()
        scale_rates(optimizers, warmup_cosine(index, c.steps, c.warmup))
        batch, noisy, t = self._inputs(index)
        estimate = noisy - t.view(-1, 1, 1) * velocity(self.model, noisy, batch, t)
        latents = self._apart(batch, estimate)
        maps, embedding = self.compared(batch.target, unpack(estimate, *self.data.grid))
        loss = latents + c.perceptual_weight * maps + c.embedding_weight * embedding
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)
        for optimizer in optimizers:
            optimizer.step()
        self.state.ema["model"].update(self.model)
        parts = {"loss": loss, "latents": latents, "maps": maps, "embedding": embedding}
        return {name: float(part.detach()) for name, part in parts.items()} | {
            "grad_norm": float(norm)
        }

    def compared(self, target: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
        """Mean distances of feature maps and of embeddings of two decoded latents [B, C, h, w]."""
        with autocast(self.device):
            with torch.no_grad():
                wanted = self.codec.decode(target)
            made = self.codec.decode(estimate)
        return feature_distances(self.features, wanted.float(), made.float())

    def _apart(self, batch: Batch, estimate: Tensor) -> Tensor:
        """Mean square in latents, changed tokens weighing more where the recipe says so."""
        error = (estimate - pack(batch.target)).square()
        if self.config.mask_weight and batch.context is not None:
            error = error * change_weights(batch.target, batch.context, self.config.mask_weight)
        return error.mean()

    def _inputs(self, index: int) -> tuple[Batch, Tensor, Tensor]:
        """A batch of edits, its noised targets and their levels, as the flow is trained on."""
        seed = self.config.seed
        index += self.config.t2i_steps + self.config.joint_steps  # after the steps of the flow
        draw = generator(seed, index, "batch")
        size = self.config.pictures.batch
        picks = torch.multinomial(self._weights, size, replacement=True, generator=draw)
        batch = gather(self.data, self._edits[picks])
        clean = pack(batch.target)
        eps = torch.randn(clean.shape, generator=generator(seed, index, "noise")).to(self.device)
        normal = torch.randn(len(clean), generator=generator(seed, index, "time"))
        t = sample_t(normal, clean.shape[1], self.model.shape.timestep_shift).to(self.device)
        return batch, add_noise(clean, eps, t), t
