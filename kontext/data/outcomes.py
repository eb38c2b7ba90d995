"""What became of every planned image: made now, or taken from an earlier artifact of the same item.

An item is its bytes, its labels and the settings that it is read with; their HMAC is its key. Where
an earlier artifact of the same code has the key, its rows are what a worker would give again, byte
for byte, and nothing is decoded. Canaries, what the hash gate stopped, and what may go better next
time have no key: they are done in every run.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kontext.data.decode.result import Reason
from kontext.data.gating import KEPT
from kontext.data.ingest import CANARY, DUPLICATE, Plan, cut
from kontext.data.ingest_chunk import IngestChunk
from kontext.data.layouts.base import LARGEST, Part
from kontext.data.layouts.web_picture import WebPicture
from kontext.data.sources.base import SourceItem
from kontext.data.sources.external import FileDigests, file_digests
from kontext.data.video.part import VideoFrame
from kontext.safety.classifiers import load_classifier
from kontext.safety.keys import run_key
from kontext.safety.list_files import lists_digest
from kontext.safety.opt_outs import opt_outs
from kontext.safety.policy import load_policy
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import read_parquet
from schemas.sections.data import IngestConfig
from schemas.tables import DECISIONS, IMAGES, OUTCOMES, PIXELS, REJECTS

Rows = NDArray[np.int64]
Tables = Mapping[str, pa.Table]

FILE = "outcomes.parquet"
_FEW = 64  # items
# settings that decide which items there are and who works on them, not what becomes of one
_NOT_OF_AN_ITEM = {"sources", "npm_fallback", "canaries", "chunk_size", "processes", "web", "edits"}
_NOT_OF_AN_ITEM |= {"policy"}  # what it says of pictures counts, not its name
_WHERE = {"payload", "path", "part", "stamp", "edits"}  # the bytes stand for these
# rejects that the bytes alone decide; others may go better next time
_PASSING = {Reason.TIMEOUT, Reason.RESOURCE, Reason.HEIC_NEEDS_LIBRARY}
_LASTING = {str(reason) for reason in Reason if reason not in _PASSING} | {KEPT, DUPLICATE}


def item_keys(items: Sequence[SourceItem], config: IngestConfig, home: Path) -> list[str]:
    """The key of every item; empty for canaries, frames, and pictures that edits are made of.

    Frames have moments, and edits are pictures of their own: neither is held by item yet.
    """
    secret = run_key(home)
    settings = config.model_dump_json(exclude=_NOT_OF_AN_ITEM)
    lists = lists_digest(config.hash_lists, home)
    opted_out = sorted(opt_outs(home).digests)  # of pictures that an earlier ingest may have kept
    policy = load_policy(config.policy)
    versions = [load_classifier(name).version for name in policy.classifiers]
    said = [settings, lists, policy.of_images, versions, *([opted_out] if opted_out else [])]
    start = hmac.new(secret, json.dumps(said).encode(), hashlib.sha256)
    names = [field.name for field in fields(SourceItem) if field.name not in _WHERE]
    keys = []
    with file_digests(home) as digests:
        known: dict[Path, str] = {}
        for item in items:
            if item.source == CANARY or item.edits or isinstance(item.part, VideoFrame):
                keys.append("")
                continue
            one = start.copy()
            one.update(json.dumps([getattr(item, name) for name in names]).encode())
            if item.payload is not None:
                one.update(hashlib.sha256(item.payload).digest())
            if item.file is not None:
                if item.file not in known:
                    known[item.file] = _content(digests, item)
                one.update(known[item.file].encode())
            one.update(_inside(item.part).encode())
            keys.append(one.hexdigest())
    return keys


def _inside(part: Part | None) -> str:
    """Where in its file a part lies; what is around it is not said by the folder it is in."""
    if part is None:
        return ""
    said = {name: value for name, value in vars(part).items() if name != "path"}
    return str(
        {n: _inside(v) if callable(getattr(v, "read", None)) else v for n, v in said.items()}
    )


def _content(digests: FileDigests, item: SourceItem) -> str:
    """Digest of the file that an item is, or is in. A file that is refused unread is not read."""
    assert item.file is not None
    try:
        return digests.of(item.file, LARGEST if item.part is None else None)
    except OSError:
        return ""


class Done:
    """Finished items: their outcomes, and the rows that they left in tables of one or more parts.

    Args:
        parts: table -> what reads each of its parts, and how many rows that has.
        places: table -> the row in it of each outcome that has one.
    """

    def __init__(
        self,
        outcomes: pa.Table,
        parts: Mapping[str, Sequence[tuple[Callable[[], pa.Table], int]]],
        places: Mapping[str, Rows],
    ) -> None:
        self.outcomes = outcomes
        self._parts = {name: [lru_cache(1)(read) for read, _ in own] for name, own in parts.items()}
        self._starts = {name: np.cumsum([0, *(n for _, n in own)]) for name, own in parts.items()}
        self._places = places

    def rows(self, name: str, wanted: Rows) -> pa.Table:
        """Rows of images, pixels, decisions or rejects: of these outcomes, in ascending order."""
        starts, places = self._starts[name], self._places[name][wanted]
        part = np.searchsorted(starts, places, side="right") - 1
        found = []
        for number, read in enumerate(self._parts[name]):
            mine = part == number
            if mine.any():
                found.append(read().take(pa.array(places[mine] - starts[number])))
            else:
                read.cache_clear()  # pixels are large
        return pa.concat_tables(found)


def worked(results: Sequence[Tables]) -> Done:
    """What workers have done: their chunks, one after the other."""
    outcomes = pa.concat_tables([OUTCOMES.empty_table(), *(r["outcomes"] for r in results)])
    # a result's pixels are large, and as many as its images
    counted = {"images": "images", "pixels": "images", "decisions": "decisions"}
    parts = {
        name: [(partial(result.__getitem__, name), len(result[like])) for result in results]
        for name, like in {**counted, "rejects": "rejects"}.items()
    }
    return Done(outcomes, parts, _places(outcomes))


def earlier(artifact: Artifact) -> Done:
    """What an earlier artifact holds."""
    outcomes, rejects = artifact.table(FILE), artifact.table("rejects.parquet")
    files = {name: artifact.names(f"{name}/") for name in ("images", "pixels")}
    files["decisions"] = ["decisions.parquet"]
    parts: dict[str, list[tuple[Callable[[], pa.Table], int]]] = {
        name: [
            (partial(read_parquet, path), pq.read_metadata(path).num_rows)
            for path in map(artifact.path, listed)
        ]
        for name, listed in files.items()
    }
    parts["rejects"] = [(lambda: rejects, len(rejects))]
    places = _places(outcomes)
    row_of = {key: row for row, key in enumerate(_named(rejects, "reason"))}
    own = [row_of.get(key, -1) for key in _named(outcomes, "outcome")]
    return Done(outcomes, parts, {**places, "rejects": np.array(own, np.int64)})


def _places(outcomes: pa.Table) -> dict[str, Rows]:
    """The tables have rows in the order of the outcomes, so a row is found by counting."""
    kept = pc.equal(outcomes["outcome"], KEPT).to_numpy(zero_copy_only=False)
    checked = outcomes["checked"].to_numpy(zero_copy_only=False)
    images = np.cumsum(kept) - 1
    counted = {"decisions": np.cumsum(checked) - 1, "rejects": np.cumsum(~kept) - 1}
    return {"images": images, "pixels": images, **counted}


def _named(table: pa.Table, column: str) -> Iterator[tuple[str, ...]]:
    return zip(*table.select(["source", "source_ref", column]).to_pydict().values(), strict=True)


@dataclass(frozen=True)
class Sorted:
    """Where each of N planned images, and what was made of it, is done: in the plan's order.

    `which` of `done` has it, at which `row` of its outcomes, and which planned `item` it is of.
    """

    done: Sequence[Done]
    which: Rows  # [N or more]
    row: Rows
    item: Rows

    def outcomes(self, keys: Sequence[str]) -> pa.Table:
        """OUTCOMES in the plan's order; of items with the same pixels the first one is kept."""
        every = pa.concat_tables([done.outcomes for done in self.done])
        starts = np.cumsum([0, *(len(done.outcomes) for done in self.done)])
        found = every.take(pa.array(starts[self.which] + self.row))
        outcome, seen = found["outcome"].to_pylist(), set[str]()
        for place, pixels in enumerate(found["pixel_id"].to_pylist()):
            if pixels:
                outcome[place] = DUPLICATE if pixels in seen else KEPT
                seen.add(pixels)
        refs = found["source_ref"].to_pylist()
        # without a name it was stopped: nothing may point back at it
        lasting = [
            keys[item] if ref and why in _LASTING else ""
            for item, ref, why in zip(self.item.tolist(), refs, outcome, strict=True)
        ]
        columns = {"outcome": outcome, "item": lasting}
        return pa.table({**{n: found[n] for n in found.column_names}, **columns}, schema=OUTCOMES)

    def rows(self, name: str, places: Rows) -> pa.Table:
        """Rows of a table, one for each of these outcomes, which ascend."""
        which, order, found = self.which[places], [], []
        for number in np.unique(which).tolist():
            mine = np.flatnonzero(which == number)
            rows = self.row[places[mine]]
            by_row = np.argsort(rows, kind="stable")
            found.append(self.done[number].rows(name, rows[by_row]))
            order.append(mine[by_row])
        if not found:
            return _EMPTY[name]
        return pa.concat_tables(found).take(pa.array(np.argsort(np.concatenate(order))))


_EMPTY = {
    "images": IMAGES.empty_table(),
    "pixels": PIXELS.empty_table(),
    "decisions": DECISIONS.empty_table(),
    "rejects": REJECTS.empty_table(),
}


def look_up(
    items: Sequence[SourceItem], keys: Sequence[str], artifacts: Sequence[Artifact]
) -> Sorted:
    """Items that earlier artifacts hold; `which` is -1 for those that must be done.

    A duplicate's own picture was not kept. It is done again where the first of its kind is gone.
    An address is asked again where it gave no picture.
    """
    which, row = np.full(len(keys), -1, np.int64), np.zeros(len(keys), np.int64)
    done = [earlier(artifact) for artifact in artifacts if artifact.names(FILE)]
    for number, one in enumerate(done):
        row_of = {key: at for at, key in enumerate(one.outcomes["item"].to_pylist()) if key}
        for place, key in enumerate(keys):
            if which[place] < 0 and (found := row_of.get(key)) is not None:
                which[place], row[place] = number, found
    held = Sorted(done, which, row, np.arange(len(keys)))
    seen = set[str]()
    known = np.flatnonzero(which >= 0).tolist()
    columns = [one.outcomes.select(["outcome", "pixel_id"]).to_pydict() for one in done]
    for place in known:
        of = columns[which[place]]
        outcome, pixels = of["outcome"][row[place]], of["pixel_id"][row[place]]
        if outcome == KEPT:
            seen.add(pixels)
            continue
        fetched = isinstance(items[place].part, WebPicture)
        if pixels not in seen if outcome == DUPLICATE else fetched:
            which[place] = -1
    return held


def to_do(plan: Plan, held: Sorted, config: IngestConfig, home: Path) -> list[IngestChunk]:
    """Chunks of the items that nobody has done; small ones where few are left, for all workers."""
    missing = np.flatnonzero(held.which < 0).tolist()
    items = [item for chunk in plan.chunks for item in chunk.items]
    # one small chunk is done here: starting processes takes longer than it
    size = min(config.chunk_size, max(_FEW, -(-len(missing) // config.processes)))
    chunks = cut([items[place] for place in missing], size)
    return [IngestChunk.of(chunk, config, home) for chunk in chunks]


def with_work(held: Sorted, results: Sequence[Tables]) -> Sorted:
    """All outcomes, with those that workers made of the items that were missing."""
    new = worked(results)
    made = new.outcomes["made"].to_numpy(zero_copy_only=False)
    missing = np.flatnonzero(held.which < 0)
    assert len(missing) == int((~made).sum()), "an item has no outcome, or two"
    of_item = missing[np.cumsum(~made) - 1] if len(made) else missing
    known = np.flatnonzero(held.which >= 0)
    item = np.concatenate([known, of_item])
    which = np.concatenate([held.which[known], np.full(len(made), len(held.done))])
    row = np.concatenate([held.row[known], np.arange(len(made))])
    order = np.argsort(item, kind="stable")
    return Sorted([*held.done, new], which[order], row[order], item[order])


def chunk_tables(plan: Plan, found: Sorted, outcomes: pa.Table) -> Iterator[Tables]:
    """Images, pixels, rejects and decisions of each chunk of the plan, one at a time."""
    outcome = np.array(outcomes["outcome"].to_pylist(), object)
    pixels = outcomes["pixel_id"].to_pylist()
    checked = outcomes["checked"].to_numpy(zero_copy_only=False)
    first_of = _first_names(outcomes)
    ends = np.cumsum([len(chunk.items) for chunk in plan.chunks])
    borders = np.searchsorted(found.item, [0, *ends])
    for start, end in pairwise(borders.tolist()):
        items = np.arange(start, end)
        kept = items[outcome[items] == KEPT]
        again = items[outcome[items] == DUPLICATE]
        rejected = items[(outcome[items] != KEPT) & (outcome[items] != DUPLICATE)]
        twice = outcomes.take(pa.array(again)).select(["source", "subject_hmac", "source_ref"])
        details = [f"same pixels as {first_of[pixels[place]]}" for place in again.tolist()]
        columns = {"reason": [DUPLICATE] * len(again), "detail": details}
        duplicates = pa.table({**twice.to_pydict(), **columns}, schema=REJECTS)
        yield {
            "images": found.rows("images", kept),
            "pixels": found.rows("pixels", kept),
            "rejects": pa.concat_tables([found.rows("rejects", rejected), duplicates]),
            "decisions": found.rows("decisions", items[checked[items]]),
        }


def _first_names(outcomes: pa.Table) -> dict[str, str]:
    """Pixel id -> name of the item that it is kept of."""
    kept = outcomes.filter(pc.equal(outcomes["outcome"], KEPT))
    columns = kept.select(["pixel_id", "source", "source_ref"]).to_pydict()
    return {p: f"{source}/{ref}" for p, source, ref in zip(*columns.values(), strict=True)}
