"""A run's checkpoints: one folder per step in an object store, the last few kept.

    step-00000012/rank-00000 …   every rank's part, see kontext/parallel/checkpoint.py
    step-00000012/manifest       written last: without it the checkpoint was never finished

One form for every number of ranks, so that a run may go on with more or fewer of them. Writing goes
on in a thread while the next steps run; what is written is a copy that was made before them. A
process killed at any moment leaves the checkpoints that were finished.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kontext.errors import WeightsError
from kontext.parallel.world import World
from kontext.train.loop.state import TrainState, empty_tensors, flattened, set_weights, unflattened
from kontext.train.record.ledger import compare

if TYPE_CHECKING:
    from kontext.store.objects import ObjectStore

_log = logging.getLogger(__name__)
_MANIFEST = "/manifest"
_RECORDED = ("step", "history", "ledger", "incidents", "measured", "clock")  # of the state


class Checkpoints:
    """Where a run is saved and found again.

    Args:
        url: a folder, or `file://` or `s3://`; the run's own, and the same for all ranks.
        every: steps between checkpoints; 0: only the last step's.
        keep: how many finished ones stay.
        world: this process among the ranks.
    """

    def __init__(
        self, url: str | Path, every: int = 0, keep: int = 2, world: World | None = None
    ) -> None:
        self.url, self.every, self.keep = str(url), every, keep
        self.world = world or World()
        self._opened: ObjectStore | None = None
        self._pending: Future[Any] | None = None

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be made after that many steps."""
        return self.every > 0 and step % self.every == 0

    def save(self, state: TrainState) -> None:
        """Begin to write a checkpoint, once the one before is whole. All ranks call this."""
        from kontext.parallel import checkpoint

        self.wait()
        tensors, rest = flattened(state)
        record = {"rest": rest, **{name: copy(getattr(state, name)) for name in _RECORDED}}
        self._pending = checkpoint.write(
            tensors, self._store, _folder(state.step), record, self.world, self._forget_old
        )

    def wait(self) -> None:
        """Until the checkpoint that is being written is whole.

        Raises:
            StoreError: it could not be written; the one before is still there.
        """
        from kontext.parallel import checkpoint

        pending, self._pending = self._pending, None
        if pending is not None:
            checkpoint.finish(pending)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def finished(self) -> list[int]:
        """The steps of the checkpoints that are whole, in order."""
        keys = self._store.list("step-")
        return sorted(int(key[5:13]) for key in keys if key.endswith(_MANIFEST))

    def restore(self, state: TrainState) -> bool:
        """Load the newest whole checkpoint into an equally built state; False if there is none.

        Raises:
            NumericsError: it was made with other numerics; nothing is loaded.
            WeightsError: it is of another model.
        """
        found = self._newest()
        if found is None:
            return False
        record = found["record"]
        compare(record["ledger"], state.ledger, "the checkpoint", "this run")
        self._load(state, found)
        for name in _RECORDED:
            setattr(state, name, record[name])
        return True

    def receive(self, state: TrainState, device: torch.device) -> None:
        """Take over what ranks have made: the record, and weights into modules without memory.

        Averages come in the weights' place. Moments of optimisers stay in the store.

        Raises:
            NumericsError: it was made with other numerics; nothing is loaded.
        """
        from kontext.parallel import checkpoint

        found = self._newest()
        assert found is not None, "ranks that have ended have saved"
        compare(found["record"]["ledger"], state.ledger, "the checkpoint", "this run")
        for name in _RECORDED:
            setattr(state, name, found["record"][name])
        state.optimizers = {}
        targets: dict[str, Tensor] = {}
        for name, module in state.modules.items():
            module.to_empty(device=device)
            start = {entry.name: entry for entry in state.start.get(name, ())}
            kind = "ema" if name in state.ema else "modules"
            for key, tensor in module.state_dict().items():
                if key in state.given.get(name, ()):
                    tensor.copy_(start[key].read())
                else:
                    targets[f"{kind}/{name}/{key}"] = tensor
            if name in state.ema:
                held = module.state_dict()
                state.ema[name].shadow = {key: held[key] for key in state.ema[name].shadow}
        checkpoint.read(targets, self._store, found, self.world)

    def roll_back(self, state: TrainState) -> int:
        """Bring weights and history back to the newest checkpoint; returns the step it is of."""
        self.wait()
        found = self._newest()
        assert found is not None, "a run that may roll back is saved before its first step"
        self._load(state, found)
        state.history = found["record"]["history"]
        return int(found["record"]["step"])

    def _load(self, state: TrainState, manifest: dict[str, Any]) -> None:
        from kontext.parallel import checkpoint

        wanted = {k: (v["dtype"], tuple(v["size"])) for k, v in manifest["tensors"].items()}
        tensors = empty_tensors(state, wanted)
        own, _ = flattened(state)
        for path, tensor in own.items():
            if path.startswith("optimizers/"):  # before the first step there is no such state
                continue
            if path not in wanted or tuple(tensor.shape) != wanted[path][1]:
                found = wanted[path][1] if path in wanted else "absent"
                raise WeightsError(
                    f"checkpoint in {self.url}: '{path}' is {found}, not {tuple(tensor.shape)}"
                )
        checkpoint.read(tensors, self._store, manifest, self.world)
        set_weights(state, unflattened(tensors, manifest["record"]["rest"]))

    def _newest(self) -> dict[str, Any] | None:
        """The newest manifest, the same on all ranks; None where there is none."""
        self.wait()
        finished = self.finished() if self.world.is_leader else []
        step = self.world.broadcast(finished[-1] if finished else -1)
        return None if step < 0 else self._manifest(step)

    def _manifest(self, step: int) -> dict[str, Any]:
        from kontext.parallel import checkpoint

        return checkpoint.read_manifest(self._store, _folder(step))

    def _forget_old(self) -> None:
        """Delete what is older than the kept ones, manifests first."""
        kept = self.finished()[-self.keep :]
        old = [key for key in self._store.list("step-") if int(key[5:13]) < kept[0]]
        for key in sorted(old, key=lambda key: not key.endswith(_MANIFEST)):
            self._store.delete(key)

    @property
    def _store(self) -> ObjectStore:
        if self._opened is None:
            from kontext.store.objects import open_store

            self._opened = open_store(self.url)
        return self._opened


def _folder(step: int) -> str:
    return f"step-{step:08d}"
