"""Which pairs go into shards, and in which split: as columns, in which pictures are row numbers.

Ten million pairs are a gigabyte here, and their words stay in the files they are in until they are
written. Mined, captioned and screened pairs come in one order, so that joining them costs nothing;
other orders are joined by hashing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kontext.data.shards.read import load_split
from kontext.data.split import NOWHERE, SPLITS_IN_ORDER, Components
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import read_parquet
from schemas.tables import PICTURE_SPLITS, SPLITS

_GROUPS_AT_A_TIME = 16  # groups of rows of which ids are looked up at once


@dataclass(frozen=True)
class Selected:
    """Pairs that go into shards, in pair-id order, and why the others do not.

    Columns: pair_id, relation_class; contexts (list) and target, as rows of the images; row and
    text, the pair's row of PAIRS and of CAPTIONS.
    """

    table: pa.Table
    dropped: Counter[str]  # reason -> pairs

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Row of every pair's target [P]."""
        found: NDArray[np.int64] = self.table["target"].to_numpy().astype(np.int64)
        return found

    def contexts(self, *, first: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(pair, picture) of the first context of every pair that has one, or of all others."""
        lists = self.table["contexts"].combine_chunks()
        rows = np.asarray(pc.list_parent_indices(lists)).astype(np.int64)
        begins = np.r_[True, rows[1:] != rows[:-1]] if len(rows) else np.zeros(0, bool)
        wanted = begins if first else ~begins
        return rows[wanted], np.asarray(lists.flatten()).astype(np.int64)[wanted]


def select_pairs(pairs: Path, captions: Path, accepted: pa.Table, ids: pa.Array) -> Selected:
    """Join pairs with captions and the screen's verdict. A pair without a verdict is dropped.

    Args:
        pairs: a file of PAIRS.
        captions: one of CAPTIONS.
        accepted: the verdicts.
        ids: of the images that ingest kept, in the order of their rows.
    """
    table, said = _coded(pairs, ids), read_parquet(captions, ["pair_id", "status"])
    text = _places(table["pair_id"], said["pair_id"])
    verdict = _places(table["pair_id"], accepted["pair_id"])
    status = said["status"].take(text)
    let_in = accepted["accept"].take(verdict).fill_null(False)
    reasons = pc.case_when(
        pc.make_struct(
            pc.is_null(text),
            pc.not_equal(status, "ok").fill_null(False),
            pc.is_null(verdict),
            pc.invert(let_in),
            _names_unknown(table),
        ),
        "caption_missing",
        pc.binary_join_element_wise("caption", status, "_"),
        "not_screened",
        _first_reason(accepted).take(verdict),
        "image_missing",
    )
    counts = pc.value_counts(reasons.filter(pc.is_valid(reasons))).to_pylist()
    dropped = Counter({one["values"]: one["counts"] for one in counts})
    good = pa.array(np.flatnonzero(np.asarray(pc.is_null(reasons))))
    if not _in_order(table["pair_id"]):
        good = good.take(pc.sort_indices(table["pair_id"].take(good)))
    row = pa.array(np.arange(len(table), dtype=np.int32))
    table = table.append_column("row", row).append_column("text", text)
    return Selected(table.take(good), dropped)


def _coded(path: Path, ids: pa.Array) -> pa.Table:
    """Columns of PAIRS, with the images as rows of `ids`; -1 for one that is not there."""
    parts = []
    with pq.ParquetFile(path) as file:
        names = ["pair_id", "relation_class", "context_ids", "target_id"]
        for first in range(0, file.num_row_groups, _GROUPS_AT_A_TIME):
            groups = range(first, min(first + _GROUPS_AT_A_TIME, file.num_row_groups))
            part = file.read_row_groups(list(groups), names)
            lists = part["context_ids"].combine_chunks()
            ends = np.cumsum(np.r_[0, np.asarray(pc.list_value_length(lists))]).astype(np.int32)
            columns = {
                "pair_id": part["pair_id"],
                "relation_class": part["relation_class"],
                "contexts": pa.ListArray.from_arrays(ends, _rows_of(lists.flatten(), ids)),
                "target": _rows_of(part["target_id"].combine_chunks(), ids),
            }
            parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def _rows_of(images: pa.Array, ids: pa.Array) -> pa.Array:
    return pc.index_in(images, value_set=ids).fill_null(-1)


def _places(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> pa.Array:
    """The row of `among` that has each key; null where none has."""
    if keys.equals(among):
        return pa.array(np.arange(len(keys), dtype=np.int32))
    return pc.index_in(keys.combine_chunks(), value_set=among.combine_chunks())


def _in_order(ids: pa.ChunkedArray) -> bool:
    ordered = pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py() if len(ids) else True
    return bool(ordered)


def _names_unknown(table: pa.Table) -> pa.Array:
    """Whether a pair has a picture that is not among the images, by pair."""
    unknown = table["target"].to_numpy() < 0
    contexts = table["contexts"].combine_chunks()
    theirs = np.asarray(pc.list_parent_indices(contexts))
    unknown[theirs[np.asarray(contexts.flatten()) < 0]] = True
    return pa.array(unknown)


def _first_reason(accepted: pa.Table) -> pa.Array:
    """The first reject reason of each verdict, or "unnamed"."""
    reasons = accepted["reject_reasons"].combine_chunks()
    some = pc.greater(pc.list_value_length(reasons), 0).fill_null(False)
    starts = reasons.offsets[:-1]
    return reasons.values.take(pc.if_else(some, starts, None)).fill_null("unnamed")


def ties(selected: Selected) -> NDArray[np.int64]:
    """The rows of images that pairs tie together [E, 2]: each context with its target.

    References tie nothing: with them all images would be one component.
    """
    pairs, contexts = selected.contexts(first=True)
    return np.stack([contexts, selected.targets[pairs]], axis=1)


def drop_divided_pairs(selected: Selected, components: Components) -> Selected:
    """Without pairs whose images earlier versions have put into different splits."""
    found, rows, contexts = _places_in(selected, components, first=True)
    whole = found >= 0
    np.logical_and.at(whole, rows, contexts == found[rows])
    return _keep(selected, whole, "between_splits_of_earlier_versions")


def drop_cross_split_pairs(
    selected: Selected, components: Components, splits: Mapping[str, str]
) -> Selected:
    """Without pairs whose references lie in another split than their target: they would leak.

    So would an image that is in no split, because none of its own pairs was accepted.
    """
    found, rows, references = _places_in(selected, components, first=False)
    at = [SPLITS_IN_ORDER.index(splits[c]) if c in splits else -1 for c in components.names]
    split_of = np.array([*at, -1])  # what is in no component has the place -1
    whole = np.ones(len(found), bool)
    np.logical_and.at(whole, rows, split_of[references] == split_of[found[rows]])
    return _keep(selected, whole, "reference_in_another_split")


def _places_in(
    selected: Selected, components: Components, *, first: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Components of the targets [P]; rows and components of first contexts, or of the others."""
    rows, pictures = selected.contexts(first=first)
    return components.place[selected.targets], rows, components.place[pictures]


def _keep(selected: Selected, whole: NDArray[np.bool_], reason: str) -> Selected:
    lost = int((~whole).sum())
    if not lost:
        return selected
    dropped = selected.dropped + Counter({reason: lost})
    return Selected(selected.table.filter(pa.array(whole)), dropped)


def class_counts(selected: Selected, components: Components) -> dict[str, Counter[str]]:
    """Component id -> relation class -> pairs."""
    places = components.place[selected.targets]
    named = pa.table({"at": places, "of": selected.table["relation_class"]})
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in named.group_by(["at", "of"]).aggregate([([], "count_all")]).to_pylist():
        counts[components.names[row["at"]]][row["of"]] = row["count_all"]
    return dict(counts)


def splits_table(selected: Selected, components: Components, splits: Mapping[str, str]) -> pa.Table:
    """SPLITS rows in pair-id order."""
    places = pa.array(components.place[selected.targets])
    names = pa.array(components.names, pa.string())
    split_of = pa.array([splits.get(name) for name in components.names], pa.string())
    columns = (selected.table["pair_id"], names.take(places), split_of.take(places))
    return pa.table(dict(zip(SPLITS.names, columns, strict=True)), SPLITS)


def picture_splits(
    components: Components, splits: Mapping[str, str], before: Mapping[str, str]
) -> pa.Table:
    """PICTURE_SPLITS rows by pixel id: what was known `before`, and all that have a split now."""
    known = {**components.kept, **splits}
    split_of = pa.array([known.get(name) for name in components.names], pa.string())
    places = pa.array(components.place, mask=components.place < 0)
    now = pa.table([components.ids, split_of.take(places)], PICTURE_SPLITS)
    now = now.filter(pc.is_valid(now["split"]))
    kept = pa.table([list(before), list(before.values())], PICTURE_SPLITS)
    new = now.filter(pc.invert(pc.is_in(now["pixel_id"], value_set=kept["pixel_id"])))
    return pa.concat_tables([new, kept]).sort_by("pixel_id").combine_chunks()


def splits_before(versions: Iterable[Artifact]) -> dict[str, str]:
    """Pixel id -> split, of earlier shard artifacts; NOWHERE where they disagree."""
    found: dict[str, str] = {}
    for made in versions:
        for image, split in _splits_of(made):
            if found.setdefault(image, split) != split:
                found[image] = NOWHERE
    return found


def _splits_of(made: Artifact) -> Iterator[tuple[str, str]]:
    if made.names("picture_splits.parquet"):
        columns = made.table("picture_splits.parquet").to_pydict()
        yield from zip(columns["pixel_id"], columns["split"], strict=True)
        return
    for split in SPLITS_IN_ORDER:  # of kontext before it kept that table
        yield from ((image, split) for image in load_split(made, split).pixel_ids)
