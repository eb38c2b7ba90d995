"""A rehearsal: a training's own step on fake tensors, which have shapes and no numbers.

Tensors of numbers are fake. What a step decides by (indices, draws of one number a sample) is real,
so that its Python code takes the same way; a fake number that it asks for is 1. Operations cost
microseconds whatever their size, and no memory.

On GPUs' account fake tensors say that they are the CPU's (PyTorch runs no backward pass for a GPU
that is not there): paths of the code, autocast's rules and what is the host's are the GPU's then.
Kernels' own workspaces are not seen, nor an allocator's fragments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass, transform_subclass
from torch.utils._pytree import tree_iter

from kontext.parallel.device_kind import acting_for
from kontext.train.plan.storages import Storages, Watch, watched_resizes

CHANGES_RESULTS = False  # counts

Kind = Literal["cpu", "cuda"]
_FEW = 2**16  # indices; of more, such as codes of quantised weights, none decides
_aten = torch.ops.aten
_ASKED = (_aten._local_scalar_dense.default, _aten.item.default)
_DEVICE = torch.ops.prim.device.default
_WHOLE = (_aten.arange, _aten.linspace, _aten.scalar_tensor, _aten.randint, _aten.randperm)


@dataclass(frozen=True)
class Rehearsed:
    """Bytes of one device: before a step, the most during it, and the most between marks of it."""

    state: int
    peak: int
    windows: tuple[int, ...] = ()


class Stage:
    """What a rehearsal is played on: `storages` are those of the fake device."""

    def __init__(self) -> None:
        self.storages = Storages()
        self._windows: list[int] = []

    def peak_of(self, step: Callable[[], object]) -> Rehearsed:
        """Bytes of a step that is done now."""
        self._windows.clear()
        self.storages.restart()
        before = self.storages.live
        step()
        self.mark()
        return Rehearsed(before, max(self._windows), tuple(self._windows))

    def mark(self, *_: object) -> None:
        """A part of the step ends here, and another one begins."""
        self._windows.append(self.storages.peak)
        self.storages.restart()


@contextmanager
def rehearsal(kind: Kind) -> Iterator[Stage]:
    """Inside the block models, methods and steps are rehearsed for one device of `kind`.

    Build models with `on_stage`. Random numbers go on afterwards as if nothing had been.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    stage = Stage()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(acting_for(kind))
        stack.enter_context(watched_resizes(stage.storages))
        stack.enter_context(_parameters_replaced())
        if kind == "cuda":
            stack.enter_context(_autocast_of_gpus())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(Watch(stage.storages, _run))
        yield stage


def on_stage(model: nn.Module) -> nn.Module:
    """A model on the meta device as a fake one, in place, inside a rehearsal. Returns the model."""
    return model._apply(as_fake)  # type: ignore[no-untyped-call,no-any-return]


def as_fake(tensor: Tensor) -> Tensor:
    """A fake tensor like one on the meta device, part by part where it is made of others."""
    if not tensor.is_meta:
        return tensor
    if is_traceable_wrapper_subclass(tensor):
        return transform_subclass(tensor, lambda _, part: torch.empty_like(part, device="cpu"))
    return torch.empty_like(tensor, device="cpu")


@contextmanager
def _parameters_replaced() -> Iterator[None]:
    """`Module.to` and its like put new parameters in the place of old ones.

    PyTorch's own exchange the two, which it refuses for fake tensors that somebody looks at.
    """
    own = nn.Module._apply

    def apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        for each in module.children() if recurse else ():
            each._apply(change)  # type: ignore[no-untyped-call]
        for name, old in module._parameters.items():
            if old is None:
                continue
            with torch.no_grad():
                new = change(old)
            if new is not old:
                module._parameters[name] = nn.Parameter(new, old.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = change(buffer)
        return module

    nn.Module._apply = apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = own  # type: ignore[method-assign]


def _run(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation on fake tensors, on real ones where all are, or one that makes some."""
    from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

    if func is _DEVICE and isinstance(args[0], FakeTensor):
        return args[0].fake_device  # asked all the time
    if any(not issubclass(t, FakeTensor) and hasattr(t, "__tensor_flatten__") for t in types):
        return NotImplemented  # a subclass's own operations come here by and by
    given = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
    faked = any(isinstance(each, FakeTensor) or each.is_meta for each in given)
    if faked and func in _ASKED:
        return True if given[0].dtype == torch.bool else 1
    if not faked and (given or _is_decision(func, args, kwargs)):
        with unset_fake_temporarily():
            return func(*args, **kwargs)
    return func(*args, **kwargs)


def _is_decision(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether what is made of nothing is what a step decides by."""
    if func.overloadpacket in _WHOLE:
        return True
    dtype, size = kwargs.get("dtype"), args[0] if args else ()
    if not isinstance(size, list):
        return False
    if dtype is not None and not dtype.is_floating_point and not dtype.is_complex:
        return prod(size) <= _FEW
    return kwargs.get("generator") is not None and len(size) == 1


@contextmanager
def _autocast_of_gpus() -> Iterator[None]:
    """Autocast's float32 list on GPUs, as far as it differs from the CPU's: norms."""
    own = {name: getattr(F, name) for name in ("layer_norm", "group_norm")}

    def in_float32(norm: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return norm(x.float() if torch.is_autocast_enabled("cpu") else x, *args, **kwargs)

    for name, norm in own.items():
        setattr(F, name, partial(in_float32, norm))
    try:
        yield
    finally:
        for name, norm in own.items():
            setattr(F, name, norm)
