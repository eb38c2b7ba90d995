"""How much work a step of a method is: tokens through the model, and operations where counted."""

from __future__ import annotations

from collections.abc import Callable

from kontext.models.batch import PairTensors
from kontext.parallel.flops import Tokens, step_flops
from kontext.train.clock import Work
from schemas.recipes import DistillConfig, FinetuneConfig


def flow_work(config: FinetuneConfig, data: PairTensors) -> Callable[[int], Work]:
    """Work of `FlowMethod`'s steps: text, target and context tokens of its edits and singles."""
    edit = Tokens(data.text_tokens.shape[1], data.target_tokens, data.target_tokens)
    single = Tokens(edit.text, edit.target)
    alone = len(data.singles()) > 0

    def work(index: int) -> Work:
        edits = (
            0 if index < config.t2i_steps else config.batch - round(config.t2i_share * config.batch)
        )
        singles = config.batch - edits if alone else 0
        flops = step_flops(config.shape, edit, edits) + step_flops(config.shape, single, singles)
        tokens = edits * _count(edit) + singles * _count(single)
        return Work(tokens, flops.training)

    return work


def ladd_work(config: DistillConfig, data: PairTensors) -> Callable[[int], Work]:
    """Work of `DistillMethod`'s steps: tokens only, its passes stop at different blocks."""
    tokens = config.batch * _count(
        Tokens(data.text_tokens.shape[1], data.target_tokens, data.target_tokens)
    )
    return lambda index: Work(tokens)


def _count(tokens: Tokens) -> int:
    return tokens.text + tokens.target + tokens.context
