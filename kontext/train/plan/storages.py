"""Live bytes of a step: every storage counted once, from its first tensor to its last.

`Storages` sees each operation's results on their way out of the dispatcher, autograd's and
optimisers' too. A storage's Python object lives as long as the memory does (torch keeps it for
C++), so that a weak reference tells when it goes. What FSDP frees and takes again without an
operation (`resize_`) is watched as torch's own memory tracker does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

from kontext.parallel.device_kind import is_host_memory, rehearsed_for

CHANGES_RESULTS = False  # counts


class Storages:
    """Bytes that are live now, and the most since `restart`."""

    def __init__(self) -> None:
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._references: dict[int, weakref.ref[UntypedStorage]] = {}

    def restart(self) -> None:
        """Forget the peak."""
        self.peak = self.live

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is known, or the host's beside a GPU."""
        if is_traceable_wrapper_subclass(tensor):
            names, _ = tensor.__tensor_flatten__()
            for name in names:
                self.add(getattr(tensor, name))
            return
        storage = tensor.untyped_storage()
        key = id(storage)
        known = self._references.get(key)
        if known is None or known() is not storage:
            self._references[key] = weakref.ref(storage, self._gone(key))
            self._sizes.pop(key, None)
            if not is_host_memory() or rehearsed_for() == "cpu":
                self._sizes[key] = 0
                self._set(key, storage.nbytes())

    def resized(self, storage: UntypedStorage) -> None:
        """A known storage has another size now."""
        if id(storage) in self._sizes:
            self._set(id(storage), storage.nbytes())

    def _set(self, key: int, size: int) -> None:
        self.live += size - self._sizes[key]
        self._sizes[key] = size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int) -> Callable[[object], None]:
        def gone(_: object) -> None:
            self.live -= self._sizes.pop(key, 0)
            self._references.pop(key, None)

        return gone


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what operations make into `storages`; `run` does them."""

    def __init__(self, storages: Storages, run: Callable[..., Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages, self._run = storages, run

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """One operation."""
        made = self._run(func, types, args, kwargs or {})
        if made is not NotImplemented:
            for each in tree_iter(made):
                if isinstance(each, Tensor):
                    self._storages.add(each)
        return made


@contextmanager
def watched_resizes(storages: Storages) -> Iterator[None]:
    """Tell `storages` of storages that change their size without an operation."""
    own: Any = UntypedStorage.resize_

    def resize(storage: UntypedStorage, size: int) -> UntypedStorage:
        own(storage, size)
        storages.resized(storage)
        return storage

    UntypedStorage.resize_ = resize  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        UntypedStorage.resize_ = own  # type: ignore[method-assign]
