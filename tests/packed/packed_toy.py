"""A pack of a few pictures and a recipe whose whole run takes seconds."""

from __future__ import annotations

import numpy as np
import torch

from kontext.data.packed import Pack, Pairs, Texts
from kontext.data.pair_tensors import NO_CONTEXT
from kontext.models.features import FeatureNet
from schemas.recipes import Recipe, load_recipe
from schemas.sections.training import PictureConfig
from schemas.tables import RELATION_CLASSES
from tests.data.pictures import scene
from tests.train.toy import SHAPE

TEXT = 12
SIDE = 32


def toy_recipe() -> Recipe:
    """Every phase for real, a handful of steps each."""
    ci = load_recipe("ci")
    shape = SHAPE.model_copy(update={"in_channels": 64})
    codec = ci.autoencoder.shape.model_copy(update={"ch": 8, "norm_groups": 4})
    return ci.model_copy(
        update={
            "ingest": ci.ingest.model_copy(update={"resolution": SIDE}),
            "autoencoder": ci.autoencoder.model_copy(
                update={"shape": codec, "steps": 6, "batch": 4, "warmup": 1}
                | {"disc_start": 3, "perceptual_start": 2, "checkpoint_every": 1}
            ),
            "finetune": ci.finetune.model_copy(
                update={"shape": shape, "t2i_steps": 2, "joint_steps": 6, "batch": 4, "warmup": 1}
                | {"checkpoint_every": 1, "pictures": PictureConfig(steps=2, batch=4)}
            ),
            "distill": ci.distill.model_copy(
                update={"teacher_edits": 8, "teacher_steps": 2, "steps": 4, "warmup_steps": 1}
                | {"batch": 4, "checkpoint_every": 1, "lr_student": 1e-4}
            ),
            "evaluate": ci.evaluate.model_copy(update={"items_per_category": 4}),
        }
    )


def toy_pack() -> Pack:
    """20 images, 30 edits of three categories and 6 singles over three splits."""
    images = np.stack([scene(n, SIDE) for n in range(20)])
    draw = torch.Generator().manual_seed(0)
    count = 36
    categories = torch.arange(count) % 3
    context = torch.randint(20, (count,), generator=draw)
    context[30:] = NO_CONTEXT
    categories[30:] = RELATION_CLASSES.index("t2i")
    mask = torch.arange(5)[None] < torch.randint(2, 6, (8, 1), generator=draw)
    torch.manual_seed(0)
    features = FeatureNet()
    tokens = torch.randn(8, 5, TEXT, generator=draw) * mask[..., None]
    return Pack(
        images=images,
        texts=Texts.of(tokens, mask, torch.randn(8, TEXT, generator=draw)),
        pairs=Pairs(
            target=torch.randint(20, (count,), generator=draw),
            context=context,
            text=torch.randint(1, 8, (count,), generator=draw),
            category=categories,
            split=torch.tensor([0, 0, 2] * 12),
        ),
        instructions=[f"text {n}" for n in range(8)],
        categories=tuple(RELATION_CLASSES),
        features={name: value.half() for name, value in features.state_dict().items()},
        recipe=toy_recipe().model_dump(mode="json"),
    )
