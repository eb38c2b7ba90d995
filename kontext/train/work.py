"""How much work a step of a method is: tokens through the model, and operations where counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from kontext.models.autoencoder import Autoencoder
from kontext.models.batch import PairTensors, sampling_weights
from kontext.models.discriminators import PatchDiscriminator
from kontext.parallel.flops import Tokens, step_flops
from kontext.train.clock import Work
from kontext.train.flow import cfg_dropout
from kontext.train.ladd import default_taps
from kontext.train.loop import generator
from kontext.train.perceptual import unloaded_backbone
from schemas.sections.models import TransformerShape
from schemas.sections.training import AutoencoderConfig, DistillConfig, FinetuneConfig


def flow_work(config: FinetuneConfig, data: PairTensors) -> Callable[[int], Work]:
    """Work of `FlowMethod`'s steps: text, target and context tokens of its edits and singles."""
    single = Tokens(data.text_tokens.shape[1], data.target_tokens)
    alone = len(data.singles()) > 0
    shares = _context_shares(config, data)
    edits_of = [(share, replace(single, context=n * single.target)) for n, share in shares]

    def work(index: int) -> Work:
        edits = (
            0 if index < config.t2i_steps else config.batch - round(config.t2i_share * config.batch)
        )
        singles = config.batch - edits if alone else 0
        if config.image_dropout or config.both_dropout:
            # the step's own first draw: an edit that loses its context is as long as a single
            draw = generator(config.seed, index, "dropout")
            lost = int(cfg_dropout(config, edits, draw)[1].sum()) if edits else 0
            edits, singles = edits - lost, singles + lost
        flops = step_flops(config.shape, single, singles).training
        tokens = singles * _count(single)
        for share, edit in edits_of:
            flops += round(share * step_flops(config.shape, edit, edits).training)
            tokens += round(share * edits * _count(edit))
        return Work(tokens, flops)

    return work


def _context_shares(config: FinetuneConfig, data: PairTensors) -> list[tuple[int, float]]:
    """(number of contexts, share of the edits drawn that have it), as the weights say."""
    edits = data.edits()
    counts = data.context_counts()[edits]
    odds = sampling_weights(data, edits, config.category_weights, config.magnitude_balance)
    return [(n, float(odds[counts == n].sum())) for n in sorted(set(counts.tolist()))]


def picture_work(config: FinetuneConfig, data: PairTensors) -> Callable[[int], Work]:
    """Work of `PictureMethod`'s steps: tokens of its edits; operations stay uncounted."""
    tokens = Tokens(data.text_tokens.shape[1], data.target_tokens, data.target_tokens)
    return lambda index: Work(config.pictures.batch * _count(tokens), None)


def guidance_work(config: FinetuneConfig, data: PairTensors) -> Callable[[int], Work]:
    """Work of `GuidanceMethod`'s steps: three passes over its edits; operations stay uncounted."""
    tokens = Tokens(data.text_tokens.shape[1], data.target_tokens, data.target_tokens)
    return lambda index: Work(config.guidance_distill.batch * _count(tokens), None)


def ladd_work(
    config: DistillConfig, data: PairTensors, shape: TransformerShape | None = None
) -> Callable[[int], Work]:
    """Work of `DistillMethod`'s steps: one update of the heads and one of the student.

    Args:
        shape: the teacher's; without it operations stay uncounted.
    """
    tokens = Tokens(data.text_tokens.shape[1], data.target_tokens, data.target_tokens)
    flops = None if shape is None else ladd_flops(config, shape, tokens)
    return lambda index: Work(config.batch * _count(tokens), flops)


def ladd_flops(config: DistillConfig, shape: TransformerShape, tokens: Tokens) -> int:
    """Operations of one LADD step: the transformers' products; the heads' own are left out.

    The student goes forward once, for the heads' fakes and its own update, and backward. The
    teacher, to its deepest tap, goes forward for the reals, the fakes, the wrong
    conditions and R1's nudged reals, and for the student's update forward and backward towards its
    inputs alone.
    """
    blocks = shape.depth + shape.depth_single_blocks
    deepest = 1 + max(config.taps or default_taps(shape.depth, shape.depth_single_blocks))
    reach = {"depth": min(deepest, shape.depth), "depth_single_blocks": deepest - shape.depth}
    reach["depth_single_blocks"] = max(0, reach["depth_single_blocks"])
    assert deepest <= blocks, "a tap lies behind the last block"
    student = step_flops(shape, tokens, config.batch)
    teacher = step_flops(shape.model_copy(update=reach), tokens, config.batch)
    passes = 3 + (1 if config.r1_weight else 0) + 2
    return student.training + passes * teacher.total


def codec_work(config: AutoencoderConfig, side: int) -> Callable[[int], Work]:
    """Work of `AutoencoderMethod`'s steps on images of `side` pixels.

    Tokens are the 16 x 16 pixels that a transformer will take for one. Operations are counted on
    the meta device: the codec forward and backward; from `perceptual_start` the feature network,
    forward twice and backward once towards its inputs; from `disc_start` the critic, forward and
    backward towards its inputs for the codec, and forward and backward on two batches for itself.
    """
    codec, features, critic = _codec_passes(config, side)

    def work(index: int) -> Work:
        flops = 3 * codec
        if index >= config.perceptual_start:
            flops += 3 * features
        if index >= config.disc_start:
            flops += (2 + 6) * critic
        return Work(config.batch * (side // 16) ** 2, config.batch * flops)

    return work


def _codec_passes(config: AutoencoderConfig, side: int) -> tuple[int, int, int]:
    """Forward operations of one image: codec, feature network, critic."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        image = torch.empty(1, 3, side, side)
        codec, critic = Autoencoder(config.shape), PatchDiscriminator(channels=config.disc_channels)
        features = unloaded_backbone(config)
    runs: tuple[Callable[[], object], ...] = (
        lambda: codec.decode_raw(codec.moments(image)[0]),
        lambda: features.maps(image, None, config.perceptual_levels),
        lambda: critic(image),
    )
    counts = []
    for run in runs:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        counts.append(int(counter.get_total_flops()))
    return counts[0], counts[1], counts[2]


def _count(tokens: Tokens) -> int:
    return tokens.text + tokens.target + tokens.context
