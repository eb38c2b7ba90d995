"""The model that a flow trains, and the lengths of its sequences, as the recipe says."""

from __future__ import annotations

from kontext.data.encoded.pair_tensors import PairTensors
from kontext.errors import RecipeError
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraConfig, apply_lora
from kontext.parallel.compile import closed_lengths
from kontext.train.flow.whiten import whiten_text_inputs
from schemas.sections.training import FinetuneConfig


def fresh_model(config: FinetuneConfig, data: PairTensors) -> FluxTransformer:
    """An untrained model of the recipe's shape, with adapters where the recipe trains those."""
    model = FluxTransformer(config.shape)
    if config.whiten_text:
        whiten_text_inputs(model, data)
    if config.lora_rank:
        apply_lora(model, LoraConfig(rank=config.lora_rank, seed=config.seed))
    return model


def flow_lengths(config: FinetuneConfig, data: PairTensors) -> tuple[int, ...]:
    """All lengths of this data's sequences, for compiled blocks."""
    if config.parallel.compile and config.image_dropout + config.both_dropout:
        raise RecipeError(
            "parallel.compile needs batches of fixed sizes: image_dropout and both_dropout make "
            "others at every step"
        )
    most = int(data.context_counts().max())
    if config.parallel.compile and most > 1:
        raise RecipeError(
            "parallel.compile needs batches of fixed sizes: pairs with references make others at "
            "every step"
        )
    return closed_lengths([data.target_tokens], data.text_tokens.shape[1], most)
