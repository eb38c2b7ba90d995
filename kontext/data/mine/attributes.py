"""The attribute miner: two images of one group whose labels differ in exactly one attribute.

Style is the exception that needs pixels: two art sets may draw one concept in different poses, and
such a pair teaches redrawing, not restyling. It is kept only where the silhouettes agree, and only
towards a style that needs no invention: black and white, line art and pixel art are targets, never
contexts, because colours or detail are not in them.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kontext.data.licenses import strictest_license
from kontext.data.mine.candidate import Candidate, MinedImage, rows_by
from kontext.data.mine.relations import relation_of
from kontext.data.sources.stable import stable_hash
from schemas.sections.data import MineConfig

VERSION = "2"
_POORER = ("black and white", "line art", "pixel art")  # than the drawing they come from

T = TypeVar("T")
Key = tuple[str, frozenset[tuple[str, str]]]  # label, all other labels


def mine(images: Sequence[MinedImage], config: MineConfig) -> Iterator[Candidate]:
    """Directed pairs in both directions, in an order fixed by the images' order.

    Images are looked up by all their labels but one, so the work grows with the images, not with
    their pairs; a target is proposed with at most `pairs_per_image` contexts by a label.
    """
    return (candidate for candidate, _ in with_targets(images, config))


def with_targets(
    images: Sequence[MinedImage], config: MineConfig
) -> Iterator[tuple[Candidate, MinedImage]]:
    """The pairs of `mine`, each with the image that is its target; one group is held at a time."""
    for rows in rows_by(images, lambda image: image.group_key).values():
        yield from _in_group([images[row] for row in rows], config)


def _in_group(
    images: Sequence[MinedImage], config: MineConfig
) -> Iterator[tuple[Candidate, MinedImage]]:
    alike: dict[Key, list[MinedImage]] = defaultdict(list)
    for image in images:
        labels = frozenset(image.attributes.items())
        for item in sorted(labels):
            alike[item[0], labels - {item}].append(image)
    silhouettes = _Silhouettes()
    for (label, _), members in alike.items():
        for target in members:
            for context in _contexts(target, members, label, config.pairs_per_image):
                evidence = silhouettes.evidence(context, target, label, config.style_overlap_min)
                if evidence is not None:
                    yield _candidate(context, target, label, evidence), target


def _contexts(
    target: MinedImage, members: Sequence[MinedImage], label: str, most: int
) -> Iterator[MinedImage]:
    """Images with another value, from a place that is fixed by the target's id on."""
    first = stable_hash("contexts", target.pixel_id, label) % len(members)
    others = (
        context
        for context in in_turn_from(members, first)
        if context.attributes[label] != target.attributes[label]
        and context.pixel_id != target.pixel_id
        and (label == "art_style" or context.source == target.source)
    )
    return islice(others, most)


def in_turn_from(members: Sequence[T], first: int) -> Iterator[T]:
    """All members once, from the one at `first` on."""
    return (members[(first + step) % len(members)] for step in range(len(members)))


class _Silhouettes:
    """Silhouettes of the images that style pairs are made of, each computed once."""

    def __init__(self) -> None:
        self._known: dict[str, NDArray[np.bool_]] = {}

    def _of(self, image: MinedImage) -> NDArray[np.bool_]:
        if image.pixel_id not in self._known:
            self._known[image.pixel_id] = silhouette(image.rgb)
        return self._known[image.pixel_id]

    def evidence(
        self, context: MinedImage, target: MinedImage, label: str, least: float
    ) -> dict[str, float] | None:
        """What speaks for a pair; None where it is a style pair that is none."""
        if relation_of(label)[1] != "style":
            return {}
        if context.attributes[label] in _POORER:
            return None
        iou = overlap(self._of(context), self._of(target))
        return {"silhouette_iou": round(iou, 4)} if iou >= least else None


def _candidate(
    context: MinedImage, target: MinedImage, label: str, evidence: dict[str, float]
) -> Candidate:
    relation, category = relation_of(label)
    return Candidate(
        context_ids=(context.pixel_id,),
        target_id=target.pixel_id,
        relation_class=category,
        relation=relation,
        miner="attributes",
        miner_version=VERSION,
        params={
            "attribute": label,
            "from": context.attributes[label],
            "to": target.attributes[label],
            "subject": target.concept,
            **evidence,
        },
        group_key=target.group_key,
        source=target.source,
        license_spdx=strictest_license(context.license_spdx, target.license_spdx),
    )


def silhouette(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Filled foreground of a flat picture [H, W]: what lies between its outermost ink.

    A pixel is ink where it differs from the corner colour; a pixel is inside where ink lies on both
    sides of it in its row and in its column. Outline and filled drawings so get one silhouette.
    """
    ink = np.abs(rgb.astype(np.int16) - rgb[0, 0].astype(np.int16)).max(axis=2) > 24
    inside: NDArray[np.bool_] = np.ones_like(ink)
    for axis in (0, 1):
        before = np.maximum.accumulate(ink, axis=axis)
        after = np.flip(np.maximum.accumulate(np.flip(ink, axis), axis=axis), axis)
        inside &= before & after
    filled: NDArray[np.bool_] = inside | ink
    return filled


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 0 where both are empty, or of different sizes."""
    if a.shape != b.shape:
        return 0.0
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 0.0
