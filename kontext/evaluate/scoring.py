"""From outputs to scorings: features and CLIP vectors, computed once per distinct picture set."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.false_editors import FALSE_EDITORS
from kontext.evaluate.metrics.base import ClipVectors, Scoring
from kontext.evaluate.pixels import Images, Rows, taken
from kontext.models.features.clip import SmallScorer
from kontext.models.features.efficientnet import FeatureNet

BATCH = 64


@torch.no_grad()
def pooled_features(
    net: FeatureNet, images: Images, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Embeddings [N, 1280] of uint8 [N, H, W, 3] at the images' own size.

    In float32, so that equal images agree.
    """
    rows = []
    for low in range(0, len(images), BATCH):
        batch = torch.from_numpy(images[low : low + BATCH]).to(device)
        rows.append(net.pooled(batch.permute(0, 3, 1, 2).float() / 255.0, None).cpu().numpy())
    return np.concatenate(rows)


def prepare(
    bench: Bench,
    outputs: Mapping[str, Images],
    net: FeatureNet,
    clip: SmallScorer,
    device: torch.device | str = "cpu",
) -> dict[str, list[Scoring]]:
    """Per editor one Scoring for each part of the bench.

    Outputs that are the context or the target reuse its vectors. Editors that are wrong on purpose
    show what success says of them: they get no vectors.
    """
    found: dict[str, list[Scoring]] = {name: [] for name in outputs}
    for rows, part in bench.parts:
        own = {name: _own(made, bench, part, rows) for name, made in outputs.items()}
        for name, scoring in _prepared(part, own, net, clip, device).items():
            found[name].append(scoring)
    return found


def _own(made: Images, bench: Bench, part: Bench, rows: Rows) -> Images:
    """A part's own outputs; its own context and target where outputs are the bench's."""
    if part is bench:
        return made
    same = {id(bench.context): part.context, id(bench.target): part.target}
    return same[id(made)] if id(made) in same else taken(made, rows)


def _prepared(
    bench: Bench,
    outputs: Mapping[str, Images],
    net: FeatureNet,
    clip: SmallScorer,
    device: torch.device | str,
) -> dict[str, Scoring]:
    """One Scoring per editor, of a bench of one size."""
    known = {
        id(bench.context): pooled_features(net, bench.context, device),
        id(bench.target): pooled_features(net, bench.target, device),
    }
    context, target = clip.image_embeddings(bench.context), clip.image_embeddings(bench.target)
    context_text = clip.text_embeddings([item.context_caption for item in bench.items])
    target_text = clip.text_embeddings([item.target_caption for item in bench.items])
    found = {}
    for name, made in outputs.items():
        own, vectors = known.get(id(made)), None
        if name not in FALSE_EDITORS:
            own = pooled_features(net, made, device) if own is None else own
            embedded = clip.image_embeddings(made)
            vectors = ClipVectors(context, target, embedded, context_text, target_text)
        found[name] = Scoring(
            bench=bench,
            output=made,
            codec=outputs["codec"],
            codec_target=outputs["codec_target"],
            context_features=known[id(bench.context)],
            target_features=known[id(bench.target)],
            output_features=own,
            clip=vectors,
        )
    return found
