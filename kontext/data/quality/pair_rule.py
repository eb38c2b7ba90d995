"""The pair rule on a table of pairs, and what it means for chains of them.

Pairs that a source gives may be turns of one chain, each of which edits what the last one made. So
each pair is judged against the least exposed picture that its edited image was made of, as edits of
users are, and what was made of a picture that is stopped falls with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kontext.data.images import ImageBank
from kontext.data.mine.candidate import GIVEN
from kontext.data.quality.pairs import Edges, Rows
from kontext.safety.ids import Reason
from kontext.safety.ncii import (
    Look,
    changed_share,
    changes_of,
    may_be_replaced,
    nothing,
)
from kontext.safety.ncii import pair_reasons as pair_reasons  # the proof calls it from here
from kontext.safety.policy import COMBINATION, ImageRisk, Policy

_AT_A_TIME = 1 << 17  # pairs
_BACK = r'"row": ?"[^"]*:back"'  # in params: the way back of a pair, which makes nothing new

Mask = NDArray[np.bool_]


def judge_pairs(
    bank: ImageBank,
    pairs: pa.Table,
    edges: Edges,
    text: Sequence[Reason | None],
    risk: ImageRisk,
    refused: Mask,
    policy: Policy,
) -> tuple[list[str | None], NDArray[np.float32]]:
    """What the pair rule says of each pair, or the combination that fires; and its rise [P].

    Args:
        bank: pixels: only the few pairs that need a look at them get one.
        text: what the text rules say of each pair.
        refused: images [M] that the policy refuses by themselves.
    """
    given = np.asarray(pc.equal(pairs["miner"], GIVEN).fill_null(False), bool)
    ways = [Way.of(made, edited, edges, given) for made, edited in risk.ways]
    found: list[Reason | None] = []
    rises = [np.zeros(0, np.float32)]
    for start in range(0, len(pairs), _AT_A_TIME):
        stop = min(start + _AT_A_TIME, len(pairs))
        low, high = np.searchsorted(edges.pair, [start, stop])
        part = edges.target[start:stop], edges.pair[low:high] - start, edges.context[low:high]
        own, said = pairs[start:stop], text[start:stop]
        judged = [_judge(bank, own, part, said, way, policy) for way in ways]
        rises.append(np.maximum.reduce([rise for _, rise in judged]))  # keeps NaN
        of_ways = zip(*(reasons for reasons, _ in judged), strict=True)
        found += [next(filter(None, reasons), None) for reasons in of_ways]
    reasons = _with_combinations(found, edges, risk, policy)
    stopped = np.array([reason is not None for reason in reasons], bool)
    for row in np.flatnonzero(made_of_stopped(pairs, edges, given, refused, stopped)).tolist():
        reasons[row] = reasons[row] or Reason.RELATED
    return reasons, np.concatenate(rises)


@dataclass(frozen=True)
class Way:
    """How pairs are read: their pictures whole, or cropped."""

    look: Look  # [2 M] of the M images as targets, then as contexts
    floor: Look | None  # [M] the least exposed that each was made of; None without given pairs

    @classmethod
    def of(cls, made: Look, edited: Look, edges: Edges, given: Mask) -> "Way":
        """The way in which images look as `made` and `edited` [M] say."""
        floor = least_of_chains(edited, edges, given) if given.any() else None
        return cls(made.beside(edited), floor)


def _judge(
    bank: ImageBank,
    pairs: pa.Table,
    part: tuple[Rows, Rows, Rows],
    text: Sequence[Reason | None],
    way: Way,
    policy: Policy,
) -> tuple[list[Reason | None], NDArray[np.float32]]:
    """The rule on some pairs by themselves, then as the end of their chains; and their rise."""
    reasons, rise = _one_rule(bank, pairs, part, text, way, policy, None)
    if way.floor is None:
        return reasons, rise
    least = _edited(way.floor, part)
    whole, _ = _one_rule(bank, pairs, part, text, way, policy, least)
    chain = [Reason.NCII_CHAIN if one else None for one in whole]
    return [one or other for one, other in zip(reasons, chain, strict=True)], rise


def _one_rule(
    bank: ImageBank,
    pairs: pa.Table,
    part: tuple[Rows, Rows, Rows],
    text: Sequence[Reason | None],
    way: Way,
    policy: Policy,
    least: Look | None,
) -> tuple[list[Reason | None], NDArray[np.float32]]:
    """The rule on some pairs, with a look at the pixels of those that it depends on."""
    target, pair, context = part
    beside = context + len(way.look.exposure) // 2
    changes = changes_of(way.look, target, pair, beside, policy.ncii.face_min, least)
    classes = policy.class_limits
    for row in np.flatnonzero(may_be_replaced(changes, policy.ncii, classes)).tolist():
        made, contexts = pairs["target_id"][row].as_py(), pairs["context_ids"][row].as_py()
        changes.changed[row] = changed_share(bank.onto(contexts[0], made), bank.rgb(made))
    rise_max = policy.rise_max(pairs["relation_class"].to_pylist())
    return pair_reasons(changes, text, policy.ncii, rise_max, classes), changes.rise


def _edited(floor: Look, part: tuple[Rows, Rows, Rows]) -> Look:
    """The floor of each pair's edited image; one that is above all where there is none."""
    target, pair, context = part
    found = nothing(len(target), floor, np.inf)
    pairs, first = np.unique(pair, return_index=True)
    for own, values in zip(found, floor, strict=True):
        own[pairs] = values[context[first]]
    return found


def _steps(edges: Edges, wanted: Mask) -> tuple[Rows, Rows]:
    """The edited image and the target of every pair that is wanted and has one."""
    pairs, first = np.unique(edges.pair, return_index=True)
    mine = wanted[pairs]
    return edges.context[first][mine], edges.target[pairs[mine]]


def least_of_chains(look: Look, edges: Edges, given: Mask) -> Look:
    """The least exposed of each image [M] and all that it was made of by given pairs."""
    context, target = _steps(edges, given)
    floor = Look(*(values.copy() for values in look))
    todo = np.arange(len(context))
    while len(todo):  # ends: floors only fall, to values that some image has
        before = floor.at(target[todo])
        onto = floor.at(target[todo]).least(floor.at(context[todo]))
        lower = ("exposure", "sexual", "bare")
        for name, own, values in zip(Look._fields, floor, onto, strict=True):
            (np.minimum if name in lower else np.maximum).at(own, target[todo], values)
        moved = np.zeros(len(look.exposure), bool)
        for old, new in zip(before, floor.at(target[todo]), strict=True):
            differs = (old != new) & ~(np.isnan(old) & np.isnan(new))
            moved[target[todo][differs.reshape(len(todo), -1).any(1)]] = True
        todo = np.flatnonzero(moved[context])
    return floor


def made_of_stopped(
    pairs: pa.Table, edges: Edges, given: Mask, refused: Mask, stopped: Mask
) -> Mask:
    """Which pairs [P] show a picture that was made of one that is stopped, step by step.

    A picture is stopped by itself (`refused` [M]), or as the target of a given pair that is
    (`stopped` [P]).
    """
    found: Mask = np.zeros(len(edges.target), bool)
    if not given.any():
        return found
    back = np.asarray(pc.match_substring_regex(pairs["params"], _BACK).fill_null(False), bool)
    context, target = _steps(edges, given & ~back)
    _, blamed = _steps(edges, given & stopped)
    made = np.zeros(len(refused), bool)
    made[blamed] = True
    while True:
        new = target[(refused | made)[context] & ~made[target]]
        if not len(new):
            break
        made[new] = True
    found |= made[edges.target]
    np.logical_or.at(found, edges.pair, made[edges.context])
    return found


def _with_combinations(
    pair: list[Reason | None], edges: Edges, risk: ImageRisk, policy: Policy
) -> list[str | None]:
    """The pair rule's reasons; where there is none, the policy's combination that fires."""
    largest = {name: edges.over_images(values) for name, values in risk.scores.items()}
    combined = policy.combined(largest) if policy.combinations else [None] * len(pair)
    return [
        reason or (f"{COMBINATION}{one.name}" if one else None)
        for reason, one in zip(pair, combined, strict=True)
    ]
