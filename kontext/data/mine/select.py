"""From proposals to a balanced set: quotas by category and relation, caps by image, no order luck.

Candidates are ranked by a hash of their id, so the choice does not depend on the order in which
images were ingested, and adding a source does not reshuffle the others.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from kontext.data.mine.candidate import Candidate
from kontext.data.sources.stable import stable_hash
from schemas.sections.data import MineConfig


@dataclass(frozen=True)
class Selection:
    """Kept candidates in pair-id order, and why the others were not kept.

    `counts` maps (relation_class, relation, outcome) to a number; outcomes are kept, duplicate,
    quota and image_cap.
    """

    kept: list[Candidate]
    counts: Counter[tuple[str, str, str]]


def select(candidates: Iterable[Candidate], config: MineConfig) -> Selection:
    """Choose at most the recipe's numbers per category, spread evenly over its relations."""
    counts: Counter[tuple[str, str, str]] = Counter()
    by_relation: dict[tuple[str, str], dict[str, Candidate]] = defaultdict(dict)
    for candidate in candidates:
        unique = by_relation[candidate.relation_class, candidate.relation]
        if candidate.pair_id in unique:
            counts[candidate.relation_class, candidate.relation, "duplicate"] += 1
        unique[candidate.pair_id] = candidate
    kept: list[Candidate] = []
    for category in sorted({key[0] for key in by_relation}):
        pools = {key[1]: list(p.values()) for key, p in by_relation.items() if key[0] == category}
        capped = {name: _cap_per_image(pool, config) for name, pool in pools.items()}
        quotas = _quotas({name: len(pool) for name, pool in capped.items()}, category, config)
        for name, pool in capped.items():
            kept.extend(pool[: quotas[name]])
            counts[category, name, "kept"] += quotas[name]
            counts[category, name, "quota"] += len(pool) - quotas[name]
            counts[category, name, "image_cap"] += len(pools[name]) - len(pool)
    return Selection(sorted(kept, key=lambda c: c.pair_id), counts)


def _cap_per_image(pool: list[Candidate], config: MineConfig) -> list[Candidate]:
    """`pool` in hash order, without candidates whose target was already used often enough."""
    used: Counter[str] = Counter()
    capped = []
    for candidate in sorted(pool, key=lambda c: stable_hash(c.pair_id, config.seed)):
        if used[candidate.target_id] < config.pairs_per_image:
            used[candidate.target_id] += 1
            capped.append(candidate)
    return capped


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
