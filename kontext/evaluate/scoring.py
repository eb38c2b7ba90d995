"""From outputs to scorings: features and CLIP vectors, computed once per distinct picture set."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.metrics.base import ClipVectors, Scoring
from kontext.evaluate.pixels import Images
from kontext.models.features.clip import WEIGHTS_FILE, SmallScorer, load_scorer
from kontext.models.features.efficientnet import FeatureNet
from kontext.models.text.encoders import TextEncoder
from kontext.store.artifacts.artifact_store import Artifact

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
    clip: SmallScorer | None,
    device: torch.device | str = "cpu",
) -> dict[str, Scoring]:
    """One Scoring per editor. Outputs that are the context or the target reuse its vectors."""
    known = {
        id(bench.context): pooled_features(net, bench.context, device),
        id(bench.target): pooled_features(net, bench.target, device),
    }
    vectors = _clip_vectors(bench, clip)
    found = {}
    for name, made in outputs.items():
        own = known.get(id(made))
        found[name] = Scoring(
            bench=bench,
            output=made,
            codec=outputs["codec"],
            context_features=known[id(bench.context)],
            target_features=known[id(bench.target)],
            output_features=pooled_features(net, made, device) if own is None else own,
            clip=vectors(made),
        )
    return found


def _clip_vectors(bench: Bench, clip: SmallScorer | None) -> Callable[[Images], ClipVectors | None]:
    """What gives an editor's outputs their vectors; those of the bench are computed here, once."""
    if clip is None:
        return lambda made: None
    context, target = clip.image_embeddings(bench.context), clip.image_embeddings(bench.target)
    context_text = clip.text_embeddings([item.context_caption for item in bench.items])
    target_text = clip.text_embeddings([item.target_caption for item in bench.items])
    return lambda made: ClipVectors(
        context, target, clip.image_embeddings(made), context_text, target_text
    )


def small_clip(
    screen: Artifact,
    features: FeatureNet,
    text: TextEncoder,
    device: torch.device | str = "cpu",
) -> SmallScorer | None:
    """The screen stage's small CLIP, or None where the artifact has none.

    Raises:
        WeightsError: it was trained on other towers than those given.
    """
    if WEIGHTS_FILE not in screen.names():
        return None
    return load_scorer(screen, features, text, device)
