"""From proposals to a balanced set: quotas by category and relation, caps by image, no order luck.

Candidates are ranked by a hash of their id, so the choice does not depend on the order in which
images were ingested, and adding a source does not reshuffle the others.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kontext.data.mine.proposals import Deciding, Group, Proposals
from schemas.sections.data import MineConfig

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """Which candidates are kept, and why the others are not.

    `counts` maps (relation_class, relation, outcome) to a number; outcomes are kept, duplicate,
    quota and image_cap.
    """

    proposals: Proposals
    kept: Bools  # [N]
    counts: Counter[tuple[str, str, str]]
    given: int  # of those kept, brought by sources

    def __len__(self) -> int:
        return int(self.kept.sum())

    def tables(self) -> Iterator[pa.Table]:
        """PAIRS rows of what is kept, in pair-id order, in parts."""
        return self.proposals.rows(self.kept)


def select(proposals: Proposals, config: MineConfig) -> Selection:
    """Choose at most the recipe's numbers per category, spread evenly over its relations.

    All that sources brought is kept, but for duplicates.
    """
    deciding, groups = proposals.deciding(), list(proposals.groups)
    unique = _unique(deciding)
    given = np.array([group.given for group in groups], bool)[deciding.group]
    capped = unique & (given | _capped(deciding, unique, config))
    available = np.bincount(deciding.group[capped], minlength=len(groups)).tolist()
    quotas = _all_quotas(dict(zip(groups, available, strict=True)), config)
    kept = capped & (given | _first(deciding, capped, np.array(quotas, np.int64)))
    counts: Counter[tuple[str, str, str]] = Counter()
    for outcome, which in (
        ("kept", kept),
        ("duplicate", ~unique),
        ("quota", capped & ~kept),
        ("image_cap", unique & ~capped),
    ):
        found = np.bincount(deciding.group[which], minlength=len(groups)).tolist()
        for group, number in zip(groups, found, strict=True):
            counts[group.relation_class, group.relation, outcome] += number
    return Selection(proposals, kept, counts, int((kept & given).sum()))


def _unique(deciding: Deciding) -> Bools:
    """All but earlier proposals of the same pair."""
    newest_first = -np.arange(len(deciding.group))
    newest: Bools = _place_among(newest_first, deciding.group, *deciding.pair.T) == 0
    return newest


def _capped(deciding: Deciding, among: Bools, config: MineConfig) -> Bools:
    """Without candidates whose target was already used often enough, in the order of ranks."""
    found = among.copy()
    keys = deciding.group[among], *deciding.target[among].T
    found[among] = _place_among(deciding.rank[among], *keys) < config.pairs_per_image
    return found


def _first(deciding: Deciding, among: Bools, quotas: NDArray[np.int64]) -> Bools:
    """As many of every group as its quota says, in the order of ranks."""
    found, group = among.copy(), deciding.group[among]
    found[among] = _place_among(deciding.rank[among], group) < quotas[group]
    return found


def _place_among(
    rank: NDArray[np.int64] | NDArray[np.uint64], *keys: NDArray[np.integer]
) -> NDArray[np.int64]:
    """How many rows with the same keys come before each, in the order of ranks [N]."""
    order = np.lexsort((rank, *keys))
    begins = np.zeros(len(order), bool)
    begins[:1] = True
    for key in keys:
        ordered = key[order]
        begins[1:] |= ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(begins)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    return place


def _all_quotas(available: dict[Group, int], config: MineConfig) -> list[int]:
    """The quota of every group, by its category's others; 0 for given ones, which need none."""
    pools: dict[str, dict[str, int]] = {}
    for group, number in available.items():
        if not group.given:
            pools.setdefault(group.relation_class, {})[group.relation] = number
    quotas = {category: _quotas(pool, category, config) for category, pool in pools.items()}
    return [0 if g.given else quotas[g.relation_class][g.relation] for g in available]


def _quotas(available: dict[str, int], category: str, config: MineConfig) -> dict[str, int]:
    """Water-filling: equal shares for all relations, what one cannot use goes to the others."""
    total = config.t2i_singles if category == "t2i" else config.pairs_per_category
    limits = dict(available)
    if category == "local" and "skin_tone" in limits:
        limits["skin_tone"] = min(limits["skin_tone"], round(config.skin_tone_share * total))
    quotas = dict.fromkeys(limits, 0)
    remaining = min(total, sum(limits.values()))
    while remaining > 0:
        open_names = sorted(name for name in limits if quotas[name] < limits[name])
        share = max(1, remaining // len(open_names))
        for name in open_names:
            extra = min(share, limits[name] - quotas[name], remaining)
            quotas[name] += extra
            remaining -= extra
    return quotas
