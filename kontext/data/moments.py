"""When pictures were taken: what workers saw, and what is known of those that were held."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from kontext.data.outcomes import FILE as OUTCOMES_FILE
from kontext.data.outcomes import Sorted
from kontext.data.sources.base import SourceItem
from kontext.store.artifacts.artifact_store import Artifact
from schemas.tables import MOMENTS

FILE = "moments.parquet"


def sure(held: Sorted, earlier: Sequence[Artifact]) -> Sorted:
    """`held` without pictures whose moments the `earlier` artifacts cannot tell: they are done.

    Moments are known by pixels. Where several items have the same pixels, one of them a moment,
    nothing tells whose it is: the other one may have another, or none.
    """
    doubtful = set[str]()
    columns = [one.outcomes["pixel_id"].to_pylist() for one in held.done]
    for pixels, artifact in zip(columns, _asked(earlier), strict=True):
        several = {one for one, count in Counter(pixels).items() if one and count > 1}
        if several:
            doubtful |= several & set(artifact.table(FILE)["pixel_id"].to_pylist())
    which = held.which.copy()
    for place in np.flatnonzero(which >= 0).tolist() if doubtful else ():
        if columns[which[place]][held.row[place]] in doubtful:
            which[place] = -1
    return replace(held, which=which)


def moments(
    results: Sequence[Mapping[str, pa.Table]],
    items: Sequence[SourceItem],
    held: Sorted,
    earlier: Sequence[Artifact],
) -> pa.Table:
    """MOMENTS of all items, each once, in an order that does not tell what was done when.

    Args:
        held: as `look_up` gives it and `sure` leaves it, of `items` and the `earlier` artifacts.
    """
    rows = {tuple(row.values()): row for result in results for row in result["moments"].to_pylist()}
    wanted: dict[int, set[tuple[str, str]]] = defaultdict(set)
    columns = [one.outcomes["pixel_id"].to_pylist() for one in held.done]
    for place in np.flatnonzero(held.which >= 0).tolist():
        number, series = int(held.which[place]), items[place].series
        if series:
            wanted[number].add((columns[number][held.row[place]], series))
    for number, artifact in enumerate(_asked(earlier)):
        # only of the artifact that has the item: in an older one its bytes may have been others
        for row in artifact.table(FILE).to_pylist() if wanted[number] else ():
            if (row["pixel_id"], row["series"]) in wanted[number]:
                rows.setdefault(tuple(row.values()), row)
    ordered = sorted(rows.values(), key=lambda row: (row["series"], row["at_s"], row["pixel_id"]))
    return pa.Table.from_pylist(list(_with_shots(ordered)), MOMENTS)


def _asked(earlier: Sequence[Artifact]) -> list[Artifact]:
    """The artifacts that `look_up` has asked, in its order."""
    return [artifact for artifact in earlier if artifact.names(OUTCOMES_FILE)]


def _with_shots(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows in order; a frame before which no beginning was seen is in the shot of the one before.

    So shots do not depend on which frames were read together.
    """
    shots: dict[str, int] = {}
    for row in rows:
        if row["shot"] >= 0:
            shots[row["series"]] = row["shot"]
        yield {**row, "shot": shots.get(row["series"], 0)}
