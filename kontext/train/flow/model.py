"""The model that a flow trains, and the lengths of its sequences, as the recipe says.

A fresh model's text inputs can start whitened, so that texts that mean other things differ. States
of a sentence encoder lie close together: what all texts share, and a few directions, make up most
of every vector, and "purple" and "blue" differ little beside that. A random first layer hands that
on. Composed with the whitening of the texts it will read, all directions in which they differ
arrive alike. It is weights alone: the architecture and what text encoders return stay as they are.
"""

import torch
from torch import Tensor, nn

from kontext.data.encoded.pair_tensors import PairTensors
from kontext.data.encoded.rows import sampled
from kontext.errors import RecipeError
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import BLOCKS, LoraConfig, apply_lora
from kontext.parallel.compile import closed_lengths
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

_FLOOR = 0.05  # of the mean variance: directions below it are noise and are not blown up


def fresh_model(config: FinetuneConfig, data: PairTensors) -> FluxTransformer:
    """An untrained model of the recipe's shape, with adapters where the recipe trains those."""
    model = FluxTransformer(config.shape)
    if config.whiten_text:
        whiten_text_inputs(model, data)
    if config.lora_rank:
        apply_lora(model, lora_config(config))
    return model


def lora_config(config: FinetuneConfig) -> LoraConfig:
    """The adapters that the recipe trains."""
    return LoraConfig(
        rank=config.lora_rank,
        alpha=config.lora_alpha or None,
        targets=config.lora_targets or BLOCKS,
        seed=config.seed,
    )


def check_widths(shape: TransformerShape, channels: int, tokens: int, pooled: int) -> None:
    """Compare what a transformer takes with what there is.

    Args:
        channels: of a latent.
        tokens, pooled: channels of a text token's state and of the pooled vector.

    Raises:
        RecipeError: a width differs; one line with all of them.
    """
    there = (4 * channels, tokens, pooled)
    wanted = (shape.in_channels, shape.context_in_dim, shape.vec_in_dim)
    if there == wanted:
        return
    names = ("image tokens of", "text tokens of", "pooled texts of")
    wrong = [
        f"{name} {width} channels, and there are {found}"
        for name, width, found in zip(names, wanted, there, strict=True)
        if width != found
    ]
    raise RecipeError(
        f"the transformer takes {'; '.join(wrong)}: autoencoder and texts must be those it was "
        "made for (weights.autoencoder, weights.text; for a new transformer finetune.shape)"
    )


def flow_lengths(config: FinetuneConfig, data: PairTensors) -> tuple[int, ...]:
    """All lengths of this data's sequences, for compiled blocks."""
    most = int(data.context_counts().max())
    unlike = any(len(set(shape)) > 1 for shape in set(data.shapes))
    drops = config.image_dropout + config.both_dropout > 0
    if config.parallel.compile and (drops or most > 1 or unlike):
        what = "pairs with references" if most > 1 else "contexts of other sizes than their targets"
        what = "image_dropout and both_dropout" if drops else what
        raise RecipeError(
            f"parallel.compile needs batches of fixed sizes: {what} make others at every step"
        )
    return closed_lengths(data.target_tokens, data.text_tokens.shape[1], most)


@torch.no_grad()
def whiten_text_inputs(model: FluxTransformer, data: PairTensors) -> None:
    """Compose the first text layers of an untrained model with the whitening of its pairs' texts.

    The bank has the held-out pairs' texts too: those count for nothing. The empty prompt is among
    the texts; padding, which is zero, is not.
    """
    rows = torch.unique(torch.cat([data.text, torch.tensor([data.empty_text])]))
    tokens = sampled(data.text_tokens, rows).flatten(0, 1)
    _compose(model.txt_in, tokens[tokens.abs().sum(1) > 0])
    first = model.vector_in.in_layer
    for layer in (first, model.vector_in.out_layer):
        nn.init.xavier_uniform_(layer.weight)  # of the usual 0.02, texts would hardly be heard
    _compose(first, sampled(data.text_pooled, rows))


def _compose(layer: nn.Linear, vectors: Tensor) -> None:
    """W, b -> W S, b - W S m, where S (x - m) has about unit variance in all directions."""
    if len(vectors) < 2:
        return
    mean, whitening = whitening_of(vectors)
    weight = layer.weight @ whitening.to(layer.weight)
    layer.weight.copy_(weight)
    layer.bias.sub_(weight @ mean.to(weight))


def whitening_of(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and symmetric whitening matrix [D, D] (ZCA) of at least two vectors [K, D]."""
    variance, directions = torch.linalg.eigh(torch.cov(vectors.T))
    floor = (_FLOOR * variance.mean()).clamp(min=1e-12)
    scale = (variance.clamp(min=0) + floor).rsqrt()
    return vectors.mean(0), (directions * scale) @ directions.T
