"""Pairs that the sources bring: kept as they are given, in one of the five categories.

They are no proposals, so no quota and no cap of the recipe leaves any out. Pairs that stage ingest
made by known operations (EDITS) are among them: their category and evidence are known.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from kontext.data.licenses import strictest_license
from kontext.data.mine.candidate import EDITS, GIVEN, Candidate, MinedImage
from kontext.data.mine.kinds import category_of
from schemas.tables import CATEGORIES

VERSION = "1"
_AT_A_TIME = 4096  # rows as dicts

Row = Mapping[str, object]
Counts = Counter[tuple[str, str, str]]


def with_edits(given: pa.Table, edits: pa.Table | None = None) -> Iterator[tuple[Row, Row | None]]:
    """The rows of a GIVEN table one after the other, each with its row of EDITS if it was made."""
    if edits is None:
        yield from ((row, None) for row in _rows(given))
        return
    edits = edits[::-1]  # of edits of one name the last one counts
    found = pc.index_in(_names(given), value_set=_names(edits))
    first = 0
    for batch in given.to_batches(max_chunksize=_AT_A_TIME):
        theirs = edits.take(found[first : first + len(batch)])
        first += len(batch)
        for row, made in zip(batch.to_pylist(), theirs.to_pylist(), strict=True):
            yield row, None if made["row"] is None else made


def _rows(table: pa.Table) -> Iterator[Row]:
    for batch in table.to_batches(max_chunksize=_AT_A_TIME):
        yield from batch.to_pylist()


def _names(table: pa.Table) -> pa.Array:
    both = pc.binary_join_element_wise(table["source"], table["row"], "\0")
    return both.combine_chunks()


def given_candidates(
    rows: Iterable[tuple[Row, Row | None]], image: Callable[[str], MinedImage], counts: Counts
) -> Iterator[Candidate]:
    """The pairs of GIVEN rows, in their order; a row that is there twice gives its pairs twice.

    Args:
        rows: each with its row of EDITS, where it was made.
        image: an image by its id.
        counts: by (relation_class, relation, outcome); what is no pair is counted here: no_change
            (context and target are one picture) or a `picture_…` status.
    """
    for row, made in rows:
        if row["status"] != "ok":
            counts["", GIVEN, str(row["status"])] += 1
            continue
        for candidate in _candidates(row, image) if made is None else [_edit(row, image, made)]:
            if candidate.target_id in candidate.context_ids[:1]:
                counts[candidate.relation_class, candidate.relation, "no_change"] += 1
            else:
                yield candidate


def _candidates(row: Row, image: Callable[[str], MinedImage]) -> Iterator[Candidate]:
    """The edit, and its target with the caption that the source has for it."""
    contexts = tuple(map(str, row["context_ids"]))  # type: ignore[call-overload]
    instruction, caption = str(row["instruction"]), str(row["target_caption"])
    if not contexts:
        yield _candidate(row, image, (), "t2i", instruction, {})
        return
    category, why = category_of(str(row["kind"]), instruction)
    assert category in CATEGORIES
    params = {"kind": str(row["kind"]), "category_by": why}
    if caption:
        params["target_caption"] = caption
    yield _candidate(row, image, contexts, category, instruction, params)
    if caption:
        yield _candidate(row, image, (), "t2i", caption, {})


def _edit(row: Row, image: Callable[[str], MinedImage], made: Row) -> Candidate:
    """A pair that was made, with the operation, its parameters and its seed."""
    params = {"inverse": str(made["inverse"]), "category_by": "operation"}
    candidate = _candidate(
        row,
        image,
        tuple(map(str, row["context_ids"])),  # type: ignore[call-overload]
        str(made["category"]),
        str(row["instruction"]),
        params | json.loads(str(made["evidence"])),
    )
    return replace(candidate, miner=EDITS)


def _candidate(
    row: Row,
    image: Callable[[str], MinedImage],
    contexts: tuple[str, ...],
    category: str,
    instruction: str,
    params: Mapping[str, str],
) -> Candidate:
    target = image(str(row["target_id"]))
    shown = [*map(image, contexts), target]
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
        license_spdx=strictest_license(*(one.license_spdx for one in shown)),
    )
