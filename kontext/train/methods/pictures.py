"""The flow's last steps, with a loss in pixels: the clean estimate is decoded and compared.

In latents all differences weigh the same, but what an edit looks like depends on few of them. So
the clean estimate x_t - t v is decoded by the frozen autoencoder and compared with the decoded
target in a feature network too (LPIPS's form, and the pooled embedding), as in few-step rectified
flows (Lee, Lin & Fanti 2024, arXiv 2405.20320). The distance in latents stays in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import Batch, PairTensors
from kontext.models.autoencoder.network import Autoencoder, load_autoencoder
from kontext.models.files.weights import Entry
from kontext.models.flux.sequence import pack, unpack
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.precision import autocast, products_dtype
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.flow.edit_step import EditMethod, NoisedEdits
from kontext.train.flow.velocity import change_weights, velocity
from kontext.train.images.perceptual import Backbone, feature_distances, load_backbone
from kontext.train.start.model import lay_out, starting_model
from schemas.sections.training import AutoencoderConfig, FinetuneConfig

AFTER_FLOW = "pictures"
IN_PLACE = True


def build(config: FinetuneConfig, inputs: Inputs, world: World) -> PictureMethod:
    """Training with a loss in pixels on encode's train split, with train-autoencoder's decoder.

    `inputs.model` is trained further, sharded as its own training left it. Without it the model
    that the flow started from is made, sharded as the recipe says.
    """
    from kontext.data.encoded.latents import load_pairs
    from kontext.engine.stage import section_of

    data = load_pairs(inputs["encode"], "train", world.device)
    codec = load_autoencoder(inputs["train-autoencoder"], world.device)
    trained_with = section_of(inputs["train-autoencoder"].manifest, AutoencoderConfig)
    features = load_backbone(trained_with, world.device)
    model, start = inputs.model, list[Entry]()
    if model is None or config.lora_rank:  # what adapters are beside is not in a checkpoint
        empty, start = starting_model(config, inputs, data, world)
        if model is None:
            held = empty.img_in.weight.dtype
            products = products_dtype(held, config.parallel.precision, world.device)
            lay_out(empty, start, config, data, world, products)
        model = model or empty
    assert isinstance(model, FluxTransformer)
    return PictureMethod(config, data, model, codec, features, world, start)


class PictureMethod(EditMethod):
    """Trains a flow on edits, with a loss on its decoded estimates.

    The model is trained in place; its averaged weights are in `state.ema`. On several ranks it
    comes sharded, and each rank decodes its own rows of a global batch. Other arguments and errors
    are those of `EditMethod`.

    Args:
        model: a trained flow; what of it takes a gradient is trained.
        codec: the autoencoder that made the latents, frozen.
        features: the frozen network that pictures are compared in.
        start: what was read into the model before it was trained.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        data: PairTensors,
        model: FluxTransformer,
        codec: Autoencoder,
        features: Backbone,
        world: World | None = None,
        start: Sequence[Entry] = (),
    ) -> None:
        super().__init__(config, config.pictures, data, model.shape.timestep_shift, world)
        self.model, self.codec, self.features = model, codec, features
        self.train_model(model, start)

    def losses(self, part: NoisedEdits) -> dict[str, Tensor]:
        """`loss`, and its parts without weights: `latents`, `maps` and `embedding`."""
        c, batch = self.config.pictures, part.batch
        predicted = velocity(self.model, part.noisy, batch, part.t)
        estimate = part.noisy - part.t.view(-1, 1, 1) * predicted
        latents = self._latent_loss(batch, estimate)
        maps, embedding = self.decoded_distances(batch.target, unpack(estimate, *batch.grid))
        loss = latents + c.perceptual_weight * maps + c.embedding_weight * embedding
        return {"loss": loss, "latents": latents, "maps": maps, "embedding": embedding}

    def summary(self, recent: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """The mean distance of the pictures' embeddings over the last steps."""
        return {"picture_embedding_last": sum(row["embedding"] for row in recent) / len(recent)}

    def decoded_distances(self, target: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
        """Mean distances of feature maps and of embeddings of two decoded latents [B, C, h, w]."""
        with autocast(self.device):
            with torch.no_grad():
                wanted = self.codec.decode(target)
            made = self.codec.decode(estimate)
        return feature_distances(self.features, wanted.float(), made.float())

    def _latent_loss(self, batch: Batch, estimate: Tensor) -> Tensor:
        """Mean square in latents, changed tokens weighing more where the recipe says so."""
        error = (estimate - pack(batch.target)).square()
        if self.config.mask_weight and batch.context is not None:
            error = error * change_weights(batch.target, batch.context, self.config.mask_weight)
        return error.mean()
