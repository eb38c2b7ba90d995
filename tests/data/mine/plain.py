"""Mining as it is described, with every candidate an object in lists: what columns must agree with.

Slow and large, and short enough to be read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from kontext.data.caption.words import is_nothing
from kontext.data.licenses import strictest_license
from kontext.data.mine.attributes import VERSION, _candidate, _contexts, _Silhouettes
from kontext.data.mine.candidate import Candidate, MinedImage
from kontext.data.mine.relations import BY_REFERENCE
from kontext.data.mine.select import _quotas
from kontext.data.sources.stable import stable_hash
from schemas.sections.data import MineConfig
from tests.data.mine.chosen import Counts


def attribute_pairs(images: Sequence[MinedImage], config: MineConfig) -> Iterator[Candidate]:
    """The attribute miner over all groups at once."""
    alike: dict[object, list[MinedImage]] = defaultdict(list)
    for image in images:
        labels = frozenset(image.attributes.items())
        for item in sorted(labels):
            alike[image.group_key, item[0], labels - {item}].append(image)
    silhouettes = _Silhouettes()
    for key, members in alike.items():
        label = key[1]  # type: ignore[index]
        for target in members:
            for context in _contexts(target, members, label, config.pairs_per_image):
                evidence = silhouettes.evidence(context, target, label, config.style_overlap_min)
                if evidence is not None:
                    yield _candidate(context, target, label, evidence)


def reference_pairs(images: Sequence[MinedImage], config: MineConfig) -> Iterator[Candidate]:
    """The reference miner with every image in memory."""
    shown = {image.pixel_id: image for image in images}
    showing: dict[tuple[str, str, str], list[MinedImage]] = defaultdict(list)
    for image in images:
        for name, value in image.attributes.items():
            showing[image.source, name, value].append(image)
    for pair in attribute_pairs(images, config):
        name, wanted = str(pair.params["attribute"]), str(pair.params["to"])
        if name == "text" or is_nothing(wanted):
            continue
        target = shown[pair.target_id]
        able = showing[target.source, name, wanted]
        first = stable_hash("reference", pair.pair_id, config.seed) % len(able)
        for image in [*able[first:], *able[:first]]:
            if image.group_key != target.group_key:
                yield replace(
                    pair,
                    context_ids=(*pair.context_ids, image.pixel_id),
                    relation=pair.relation + BY_REFERENCE,
                    miner="references",
                    miner_version=VERSION,
                    params={**pair.params, "reference": image.concept},
                    license_spdx=strictest_license(pair.license_spdx, image.license_spdx),
                )
                break


def choose(
    candidates: Sequence[Candidate], config: MineConfig, given: Sequence[Candidate] = ()
) -> tuple[list[Candidate], Counts]:
    """Duplicates, the cap of targets, quotas; given ones only without duplicates."""
    counts: Counts = Counter()
    by_relation: dict[tuple[str, str], dict[str, Candidate]] = defaultdict(dict)
    for candidate in candidates:
        unique = by_relation[candidate.relation_class, candidate.relation]
        counts[candidate.relation_class, candidate.relation, "duplicate"] += (
            candidate.pair_id in unique
        )
        unique[candidate.pair_id] = candidate
    kept: list[Candidate] = []
    for category in {key[0] for key in by_relation}:
        pools = {key[1]: list(p.values()) for key, p in by_relation.items() if key[0] == category}
        capped = {name: _cap(pool, config) for name, pool in pools.items()}
        quotas = _quotas({name: len(pool) for name, pool in capped.items()}, category, config)
        for name, pool in capped.items():
            kept += pool[: quotas[name]]
            counts[category, name, "kept"] += quotas[name]
            counts[category, name, "quota"] += len(pool) - quotas[name]
            counts[category, name, "image_cap"] += len(pools[name]) - len(pool)
    brought: dict[str, Candidate] = {}
    for one in given:
        outcome = "duplicate" if one.pair_id in brought else "kept"
        counts[one.relation_class, one.relation, outcome] += 1
        brought.setdefault(one.pair_id, one)
    return sorted([*kept, *brought.values()], key=lambda c: c.pair_id), +counts


def _cap(pool: list[Candidate], config: MineConfig) -> list[Candidate]:
    used: Counter[str] = Counter()
    capped = []
    for candidate in sorted(pool, key=lambda c: stable_hash(c.pair_id, config.seed)):
        if used[candidate.target_id] < config.pairs_per_image:
            used[candidate.target_id] += 1
            capped.append(candidate)
    return capped
