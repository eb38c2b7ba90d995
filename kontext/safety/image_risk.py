"""The risk of images, by the scores of all that is read of them: the whole picture, and crops."""

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kontext.safety.policy import ImageRisk, Policy


def image_risk(
    scores: pa.Table, pixel_ids: Sequence[str], policy: Policy, names: Collection[str]
) -> ImageRisk:
    """The risks `names` [M] of images, in the order of `pixel_ids`, by IMAGE_SCORES rows.

    Each is the largest over all forms that are read of an image. What a pair does to a person is
    another matter: there a context must not seem barer than what is seen beside the target.
    """
    risk = policy.risk(label_arrays(scores, pixel_ids), names)
    if not len(scores) or pc.max(pc.list_value_length(scores["forms"])).as_py() == 1:
        return risk
    whole, most, least = (
        policy.risk(label_arrays(scores, pixel_ids, values), names).look
        for values in _forms(scores)
    )
    made = most._replace(covered=least.covered)
    edited = least._replace(person=most.person, face=most.face, covered=most.covered)
    return risk._replace(read=((whole, whole), (made, edited)))


def _forms(scores: pa.Table) -> tuple[NDArray[np.float32], ...]:
    """IMAGE_SCORES rows' scores of the whole picture; largest and smallest of its crops.

    Where there is no crop, all three are the whole picture's.
    """
    lists = scores["forms"].combine_chunks()
    values = lists.flatten().to_numpy(zero_copy_only=False)
    counts = np.asarray(lists.value_lengths())
    assert len(counts) == len(scores) and counts.min() > 0
    firsts = np.cumsum(counts) - counts
    crops = firsts + (counts > 1)  # behind the first, where there are more
    edges = np.stack([crops, firsts + counts], 1).reshape(-1)
    ends = np.append(values, np.float32(0))  # the last edge is one behind the last score
    most, least = (each.reduceat(ends, edges)[::2] for each in (np.maximum, np.minimum))
    return values[firsts], most, least


def label_arrays(
    scores: pa.Table, pixel_ids: Sequence[str], values: NDArray[np.float32] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Label -> float32 [M] in the order of `pixel_ids`; NaN where an image has no score.

    `values` are others than the rows' own scores.
    """
    found: dict[str, NDArray[np.float32]] = {}
    rows = pc.index_in(scores["pixel_id"], value_set=pa.array(pixel_ids, pa.string())).to_numpy()
    values = scores["score"].to_numpy() if values is None else values
    for label in sorted(pc.unique(scores["label"]).to_pylist()):
        mine = pc.equal(scores["label"], label).to_numpy()
        array = np.full(len(pixel_ids), np.nan, np.float32)
        array[rows[mine]] = values[mine]
        found[label] = array
    return found
