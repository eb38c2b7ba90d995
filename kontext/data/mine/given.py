"""Pairs that the sources bring: kept as they are given, in one of the five categories.

They are no proposals, so no quota and no cap of the recipe leaves any out. Pairs that stage ingest
made by known operations (EDITS) are among them: their category and evidence are known.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from kontext.data.licenses import strictest_license
from kontext.data.mine.candidate import EDITS, GIVEN, Candidate, MinedImage
from kontext.data.mine.kinds import category_of
from schemas.tables import CATEGORIES

VERSION = "1"

Row = Mapping[str, object]
Counts = Counter[tuple[str, str, str]]


def given_candidates(
    rows: Sequence[dict[str, object]],
    images: Mapping[str, MinedImage],
    edits: Sequence[Row] = (),
) -> tuple[list[Candidate], Counts]:
    """The pairs of GIVEN rows, in pair-id order.

    Args:
        edits: EDITS rows, of those that were made.

    Returns:
        candidates, and counts by (relation_class, relation, outcome): kept, duplicate, no_change
        (context and target are one picture) or a `picture_…` status.
    """
    found: dict[str, Candidate] = {}
    counts: Counts = Counter()
    known = {(row["source"], row["row"]): row for row in edits}
    for row in rows:
        if row["status"] != "ok":
            counts["", GIVEN, str(row["status"])] += 1
            continue
        made = known.get((row["source"], row["row"]))
        for candidate in _candidates(row, images) if made is None else [_edit(row, images, made)]:
            key = candidate.relation_class, candidate.relation
            if candidate.target_id in candidate.context_ids[:1]:
                counts[*key, "no_change"] += 1
            elif candidate.pair_id in found:
                counts[*key, "duplicate"] += 1
            else:
                found[candidate.pair_id] = candidate
                counts[*key, "kept"] += 1
    return [found[pair_id] for pair_id in sorted(found)], counts


def _candidates(row: Row, images: Mapping[str, MinedImage]) -> Iterator[Candidate]:
    """The edit, and its target with the caption that the source has for it."""
    contexts = tuple(map(str, row["context_ids"]))  # type: ignore[call-overload]
    instruction, caption = str(row["instruction"]), str(row["target_caption"])
    if not contexts:
        yield _candidate(row, images, (), "t2i", instruction, {})
        return
    category, why = category_of(str(row["kind"]), instruction)
    assert category in CATEGORIES
    params = {"kind": str(row["kind"]), "category_by": why}
    if caption:
        params["target_caption"] = caption
    yield _candidate(row, images, contexts, category, instruction, params)
    if caption:
        yield _candidate(row, images, (), "t2i", caption, {})


def _edit(row: Row, images: Mapping[str, MinedImage], made: Row) -> Candidate:
    """A pair that was made, with the operation, its parameters and its seed."""
    params = {"inverse": str(made["inverse"]), "category_by": "operation"}
    candidate = _candidate(
        row,
        images,
        tuple(map(str, row["context_ids"])),  # type: ignore[call-overload]
        str(made["category"]),
        str(row["instruction"]),
        params | json.loads(str(made["evidence"])),
    )
    return replace(candidate, miner=EDITS)


def _candidate(
    row: Row,
    images: Mapping[str, MinedImage],
    contexts: tuple[str, ...],
    category: str,
    instruction: str,
    params: Mapping[str, str],
) -> Candidate:
    target = images[str(row["target_id"])]
    shown = [*(images[context] for context in contexts), target]
    return Candidate(
        context_ids=contexts,
        target_id=target.pixel_id,
        relation_class=category,
        relation=GIVEN if contexts else "t2i",
        miner=GIVEN,
        miner_version=VERSION,
        params={"instruction": instruction, "row": f"{row['source']}/{row['row']}", **params},
        group_key=target.group_key,
        source=target.source,
        license_spdx=strictest_license(*(image.license_spdx for image in shown)),
    )
