"""The pictures of compared items: edits from the evaluations, context and target from the data."""

from collections.abc import Callable, Mapping
from functools import cached_property

from kontext.data.pixels import encode_png
from kontext.data.shards.read import PairSet, load_split
from kontext.errors import ArtifactError
from kontext.evaluate.comparing.sides import Row, Run
from kontext.store.artifacts.artifact_store import ArtifactStore

_EDITS = "edits.tar"


class Pictures:
    """PNG bytes by item; None where the picture is no longer in the store."""

    def __init__(self, store: ArtifactStore, run: Run) -> None:
        """Contexts and targets are those that `run` was scored on."""
        self._store, self._run = store, run
        self._opened: dict[str, Callable[[Row], bytes] | None] = {}

    def edit(self, run: Run, row: Row) -> bytes | None:
        """What a run made of an item."""
        if run.ref not in self._opened:
            self._opened[run.ref] = _reader(run)
        read = self._opened[run.ref]
        return None if read is None or row.get("picture") is None else read(row)

    def context(self, pair: str) -> bytes | None:
        """The picture that was edited."""
        row = self._rows.get(pair)
        return None if row is None or self._data is None else _png(self._data, row[0])

    def target(self, pair: str) -> bytes | None:
        """The right result."""
        row = self._rows.get(pair)
        return None if row is None or self._data is None else _png(self._data, row[1])

    @cached_property
    def _data(self) -> PairSet | None:
        digest = self._run.made.manifest.inputs.get("shard", "")
        try:
            return load_split(self._store.open("shard", digest), "test")
        except ArtifactError:
            return None

    @cached_property
    def _rows(self) -> Mapping[str, tuple[int, int]]:
        if self._data is None:
            return {}
        return {
            row.pair_id: (row.contexts[0], row.target) for row in self._data.rows if row.contexts
        }


def _png(data: PairSet, row: int) -> bytes:
    return encode_png(data.pictures([row])[0])


def _reader(run: Run) -> Callable[[Row], bytes] | None:
    """Reads an item's picture at its place in `edits.tar`; None where there is no such file."""
    if _EDITS not in run.made.names():
        return None
    try:
        path = run.made.path(_EDITS)
    except ArtifactError:
        return None

    def read(row: Row) -> bytes:
        with path.open("rb") as file:
            file.seek(row["offset_bytes"])
            data = file.read(row["length_bytes"])
        if len(data) != row["length_bytes"]:
            raise ArtifactError(f"{run.ref}: {_EDITS} has no picture {row['picture']}")
        return data

    return read
