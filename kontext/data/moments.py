"""When pictures were taken: what workers saw, and what is known of those that were held."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kontext.data.outcomes import FILE as OUTCOMES_FILE
from kontext.data.outcomes import Sorted
from kontext.data.sources.base import SourceItem
from kontext.store.artifacts.artifact_store import Artifact
from schemas.tables import MOMENTS

FILE = "moments.parquet"


def moments(
    results: Sequence[Mapping[str, pa.Table]],
    items: Sequence[SourceItem],
    held: Sorted,
    earlier: Sequence[Artifact],
) -> pa.Table:
    """MOMENTS of all items, each once, in an order that does not tell what was done when.

    Args:
        held: as `look_up` gives it, of `items` and the `earlier` artifacts.
    """
    rows = {tuple(row.values()): row for result in results for row in result["moments"].to_pylist()}
    columns = [one.outcomes["pixel_id"].to_pylist() for one in held.done]
    wanted = {
        (columns[held.which[place]][held.row[place]], items[place].series)
        for place in np.flatnonzero(held.which >= 0).tolist()
        if items[place].series
    }
    for artifact in earlier if wanted else ():
        if artifact.names(OUTCOMES_FILE):
            for row in artifact.table(FILE).to_pylist():
                if (row["pixel_id"], row["series"]) in wanted:
                    rows.setdefault(tuple(row.values()), row)
    ordered = sorted(rows.values(), key=lambda row: (row["series"], row["at_s"], row["pixel_id"]))
    return pa.Table.from_pylist(list(_with_shots(ordered)), MOMENTS)


def _with_shots(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows in order; a frame before which no beginning was seen is in the shot of the one before.

    So shots do not depend on which frames were read together.
    """
    shots: dict[str, int] = {}
    for row in rows:
        if row["shot"] >= 0:
            shots[row["series"]] = row["shot"]
        yield {**row, "shot": shots.get(row["series"], 0)}
