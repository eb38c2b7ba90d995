"""torch.distributed.checkpoint over the project's object stores: one object per rank.

DCP plans which rank writes which part of which tensor, and which bytes a rank needs when it reads;
so a checkpoint of any number of ranks can be read by any other. What lies in the store:

    <folder>/rank-00000   that rank's parts as they are in memory, each from a multiple of 64 bytes
    <folder>/manifest     where every part is, and the run's record; written last, by rank 0

A folder without its manifest is a checkpoint that was never finished. The manifest holds plain
values, which are read with `weights_only`: nothing in a checkpoint can run code.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult

from kontext.errors import StoreError
from kontext.parallel.world import World

if TYPE_CHECKING:
    from kontext.store.objects import ObjectStore

MANIFEST = "manifest"
_ALIGNED = 64  # bytes
_AT_ONCE = 64 << 20  # bytes: neighbouring parts are read together up to this size

# said whenever a single process saves, which is no mistake here
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


@dataclass(frozen=True)
class _Place:
    """Where the bytes of a part of a tensor lie."""

    key: str
    start: int
    sizes: tuple[int, ...]
    dtype: torch.dtype

    @property
    def length(self) -> int:
        """Bytes."""
        return torch.Size(self.sizes).numel() * self.dtype.itemsize


def write(
    tensors: Mapping[str, Tensor],
    store: ObjectStore,
    folder: str,
    record: Any,
    world: World,
    done: Callable[[], None] = lambda: None,
) -> Future[Any]:
    """Start writing a checkpoint. Every rank must call this with the same names.

    Returns when the tensors are copied to the CPU: the caller may change them at once.

    Args:
        tensors: plain ones, of which one copy is written, and FSDP's, of which every rank has rows.
        record: plain values for the manifest; only rank 0's is written.
        done: called in a thread of rank 0 when the checkpoint is complete.
    """
    writer = _Writer(store, folder, record, world.rank, done)
    pending: Any = async_save(
        dict(tensors), storage_writer=writer, process_group=world.channel("checkpoints")
    )
    assert isinstance(pending, Future)
    return pending


def read_manifest(store: ObjectStore, folder: str) -> dict[str, Any]:
    """The manifest: `record`, and `tensors` as {name: {"dtype", "size", "parts"}}."""
    data = store.get(f"{folder}/{MANIFEST}")
    manifest: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
    return manifest


def read(
    targets: Mapping[str, Tensor], store: ObjectStore, manifest: Mapping[str, Any], world: World
) -> None:
    """Fill tensors of the checkpoint in place; each rank reads the bytes of its own rows."""
    with _in_one_line("read"):
        load(
            dict(targets),
            storage_reader=_Reader(store, manifest["tensors"]),
            process_group=world.channel("checkpoints"),
        )


def finish(pending: Future[Any]) -> None:
    """Wait until a checkpoint that `write` began is complete.

    Raises:
        StoreError: on some rank it could not be written.
    """
    with _in_one_line("written"):
        pending.result()


@contextmanager
def _in_one_line(done: str) -> Iterator[None]:
    """DCP's collected errors, which are no `Exception`, as the first rank's."""
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise StoreError(f"the checkpoint was not {done}: rank {rank}: {cause}") from error


_PREFIX = "kontext-checkpoint-"
_STALE_SECONDS = 3600  # of a file whose process is unknown here: it may run in another container


def forget_dead_writers() -> None:
    """Delete the unfinished checkpoint files that killed processes left in this TMPDIR."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(FileNotFoundError):  # another rank was faster
            found = path.stat()
            stale = time.time() - found.st_mtime > _STALE_SECONDS
            if stale and found.st_uid == os.getuid() and pid.isdigit() and not _lives(int(pid)):
                path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's
    return True


class _AsPlanned:
    """What DCP asks of readers and writers alike: they are complete when made, and plans stay."""

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to prepare."""

    def _same(self, plan: Any) -> Any:
        return plan

    reset = set_up_storage_writer = set_up_storage_reader = _nothing
    prepare_local_plan = prepare_global_plan = _same

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


class _Writer(_AsPlanned, StorageWriter):
    def __init__(
        self, store: ObjectStore, folder: str, record: Any, rank: int, done: Callable[[], None]
    ) -> None:
        self._store, self._folder, self._record, self._done = store, folder, record, done
        self._key = f"{folder}/rank-{rank:05d}"

    def write_data(
        self, plan: SavePlan, planner: SavePlanner
    ) -> torch.futures.Future[list[WriteResult]]:
        results = []
        forget_dead_writers()
        with tempfile.NamedTemporaryFile(prefix=f"{_PREFIX}{os.getpid()}-") as file:
            for item in plan.items:
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, Tensor), item.index.fqn
                file.write(b"\0" * (-file.tell() % _ALIGNED))
                place = _Place(self._key, file.tell(), tuple(tensor.shape), tensor.dtype)
                file.write(_bytes_of(tensor))
                results.append(WriteResult(item.index, place.length, place))
            file.flush()
            if results:
                self._store.put_file(self._key, Path(file.name))
        done: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {r.index: r.storage_data for of_rank in results for r in of_rank}

        def part(name: str, chunk: ChunkStorageMetadata) -> dict[str, Any]:
            place = places[MetadataIndex(name, chunk.offsets)]
            where = {"key": place.key, "start": place.start}
            return {"offsets": tuple(chunk.offsets), "sizes": tuple(chunk.sizes), **where}

        tensors = {
            name: {
                "dtype": found.properties.dtype,
                "size": tuple(found.size),
                "parts": [part(name, chunk) for chunk in found.chunks],
            }
            for name, found in metadata.state_dict_metadata.items()
            if isinstance(found, TensorStorageMetadata)
        }
        buffer = io.BytesIO()
        torch.save({"tensors": tensors, "record": self._record}, buffer)
        self._store.put(f"{self._folder}/{MANIFEST}", buffer.getvalue())
        self._done()


class _Reader(_AsPlanned, StorageReader):
    def __init__(self, store: ObjectStore, tensors: Mapping[str, Any]) -> None:
        self._store, self._tensors = store, tensors
        self._places = {
            MetadataIndex(name, part["offsets"]): _Place(
                part["key"], part["start"], part["sizes"], found["dtype"]
            )
            for name, found in tensors.items()
            for part in found["parts"]
        }

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        known: Any = {
            name: TensorStorageMetadata(
                properties=TensorProperties(dtype=found["dtype"]),
                size=torch.Size(found["size"]),
                chunks=[
                    ChunkStorageMetadata(torch.Size(part["offsets"]), torch.Size(part["sizes"]))
                    for part in found["parts"]
                ],
            )
            for name, found in self._tensors.items()
        }
        return Metadata(known, storage_data=self._places)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> torch.futures.Future[None]:
        wanted = [(self._places[item.storage_index], item) for item in plan.items]
        for key, start, end, items in _runs(wanted):
            data = bytearray(self._store.get(key, start, end - start))
            for place, item in items:
                part = torch.frombuffer(
                    data,
                    dtype=place.dtype,
                    offset=place.start - start,
                    count=torch.Size(place.sizes).numel(),
                ).view(place.sizes)
                for axis, (offset, length) in enumerate(
                    zip(item.storage_offsets, item.lengths, strict=True)
                ):
                    part = part.narrow(axis, offset, length)
                target = planner.resolve_tensor(item).detach()
                target.copy_(part)
                planner.commit_tensor(item, target)
        done: torch.futures.Future[None] = torch.futures.Future()
        done.set_result(None)
        return done


def _runs(
    wanted: list[tuple[_Place, ReadItem]],
) -> Iterator[tuple[str, int, int, list[tuple[_Place, ReadItem]]]]:
    """(key, start, end, parts): what is read with one request each; empty parts are left out."""
    filled = [pair for pair in wanted if pair[0].length]
    run: list[tuple[_Place, ReadItem]] = []
    end = 0
    for place, item in sorted(filled, key=lambda pair: (pair[0].key, pair[0].start)):
        first = run[0][0] if run else place
        far = place.start - end >= _ALIGNED or place.start + place.length - first.start > _AT_ONCE
        if run and (place.key != first.key or far):
            yield first.key, first.start, end, run
            run, end = [], 0
        run.append((place, item))
        end = max(end, place.start + place.length)
    if run:
        yield run[0][0].key, run[0][0].start, end, run


def _bytes_of(tensor: Tensor) -> Any:
    """A tensor's memory, as something a file can write."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
