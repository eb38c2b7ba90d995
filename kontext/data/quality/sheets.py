"""Sheets of what was let in: pictures by source, and pairs by category.

No stage before this one draws any, because nothing is shown that was not screened.
"""

from collections import defaultdict
from collections.abc import Container, Iterator

import pyarrow as pa

from kontext.data.contact_sheet import contact_sheet
from kontext.data.images import ImageBank
from schemas.tables import CATEGORIES

CHANGES_RESULTS = False  # shows what there is

_SOURCES, _OF_A_SOURCE, _OF_A_CATEGORY = 24, 10, 8
Sheet = tuple[str, bytes, str]  # key, PNG, caption


def sheets(
    bank: ImageBank, images: pa.Table, pairs: pa.Table, let_in: Container[str]
) -> Iterator[Sheet]:
    """The sheets that there is anything for; `let_in` are the images of accepted pairs."""
    by_source: dict[str, list[str]] = defaultdict(list)
    names = images.select(["pixel_id", "source"]).to_pydict()
    for pixel_id, source in zip(names["pixel_id"], names["source"], strict=True):
        if pixel_id in let_in:
            by_source[source].append(pixel_id)
    shown = sorted(by_source)[:_SOURCES]
    rows = [[bank.rgb(i) for i in _spread(by_source[name], _OF_A_SOURCE)] for name in shown]
    if rows:
        sheet = contact_sheet(rows, row_labels=shown, cell=64)
        yield "screen-samples", sheet, "accepted images by source"
    by_category: dict[str, list[list[str]]] = defaultdict(list)
    for batch in pairs.select(["relation_class", "context_ids", "target_id"]).to_batches(4096):
        for row in batch.to_pylist():
            ids, found = [*row["context_ids"], row["target_id"]], by_category[row["relation_class"]]
            if len(found) < _OF_A_CATEGORY and all(pixel_id in let_in for pixel_id in ids):
                found.append(ids)
    shown = [name for name in CATEGORIES if by_category[name]]
    rows = [[bank.rgb(i) for ids in by_category[name] for i in ids] for name in shown]
    if rows:
        sheet = contact_sheet(rows, row_labels=shown, cell=72)
        yield "screen-pairs", sheet, "context | target, by category"


def _spread(ids: list[str], most: int) -> list[str]:
    return ids[:: max(1, len(ids) // most)][:most]
