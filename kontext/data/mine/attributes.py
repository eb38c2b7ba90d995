"""The attribute miner: two images of one group whose labels differ in exactly one attribute.

Style is the exception that needs pixels: two art sets may draw one concept in different poses, and
such a pair teaches redrawing, not restyling. It is kept only where the silhouettes agree, and only
towards a style that needs no invention: black and white, line art and pixel art are targets, never
contexts, because colours or detail are not in them.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from kontext.data.mine.candidate import Candidate, MinedImage, strictest_license
from kontext.data.mine.relations import relation_of
from schemas.sections.data import MineConfig

VERSION = "2"
_POORER = ("black and white", "line art", "pixel art")  # than the drawing they come from


def mine(images: Sequence[MinedImage], config: MineConfig) -> Iterator[Candidate]:
    """Directed pairs in both directions, in an order fixed by the images' order."""
    groups: dict[tuple[str, frozenset[str]], list[MinedImage]] = defaultdict(list)
    for image in images:
        if image.attributes:
            groups[image.group_key, frozenset(image.attributes)].append(image)
    for members in groups.values():
        silhouettes = {id(image): silhouette(image.rgb) for image in members}
        for context, target in permutations(members, 2):
            changed = [k for k, v in target.attributes.items() if context.attributes[k] != v]
            if len(changed) != 1 or context.pixel_id == target.pixel_id:
                continue
            if changed[0] != "art_style" and context.source != target.source:
                continue
            relation, category = relation_of(changed[0])
            evidence: dict[str, float] = {}
            if category == "style":
                if context.attributes[changed[0]] in _POORER:
                    continue
                iou = overlap(silhouettes[id(context)], silhouettes[id(target)])
                if iou < config.style_overlap_min:
                    continue
                evidence["silhouette_iou"] = round(iou, 4)
            yield Candidate(
                context_ids=(context.pixel_id,),
                target_id=target.pixel_id,
                relation_class=category,
                relation=relation,
                miner="attributes",
                miner_version=VERSION,
                params={
                    "attribute": changed[0],
                    "from": context.attributes[changed[0]],
                    "to": target.attributes[changed[0]],
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
