"""AdamW whose two moments take 2 or 4 bytes a parameter in place of 8, by torchao.

    adamw-8bit   blocks of 256 values of a row, a byte each and a float32 scale (Dettmers et al.,
                 arXiv 2110.02861); vectors and small matrices keep float32
    adamw-bf16   both moments in bfloat16

The update itself is torchao's: float32, compiled on accelerators. What is ours is how the moments
are laid out. In torchao's own `AdamW8bit` (a test shows both) blocks run on from row to row and the
size of a shard decides whether it is quantised, so that a run on more or fewer ranks (FSDP shards
rows) has other moments; and its state holds tensor subclasses. Here a block never crosses a row,
and a checkpoint holds codes and scales as plain tensors with the rows of their parameter: a run
goes on with the same bits, or with more or fewer ranks. torchao has no bfloat16 moments.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kontext.errors import RecipeError
from kontext.parallel.world import is_sharded, local_part, shard_like

BETAS = (0.9, 0.95)  # of every AdamW here
BLOCK = 256
_SMALLEST = 4096  # bitsandbytes' and torchao's: below, nothing is worth saving
_MOMENTS = ("exp_avg", "exp_avg_sq")
_CODES, _SCALE = ".codes", ".scale"


def light_adamw(name: str) -> Callable[..., Optimizer]:
    """`adamw-8bit` or `adamw-bf16` as a function of parameters, `lr` and `weight_decay`.

    Raises:
        RecipeError: torchao is missing.
    """
    try:
        from torchao.optim import AdamW8bit
        from torchao.optim.subclass_8bit import OptimState8bit
    except ImportError as error:
        raise RecipeError(f"optimiser '{name}' needs: pip install 'kontext[quantize]'") from error

    class LightAdamW(AdamW8bit):  # type: ignore[misc]
        """torchao's step over moments of this module's layout."""

        def _new_buffer(self, p: Tensor, signed: bool) -> Tensor:
            if name == "adamw-bf16":
                return torch.zeros_like(p, dtype=torch.bfloat16)
            if not is_quantised(p):
                return torch.zeros_like(p)
            rows = local_part(p)
            return shard_like(
                p, OptimState8bit.zeros(rows.shape, signed, BLOCK, rows.device, p.dtype)
            )

        def step(self, closure: Any = None) -> Any:
            """One update; eager on CPUs, where compiling takes longer than it saves."""
            on_cpu = all(p.device.type == "cpu" for g in self.param_groups for p in g["params"])
            with torch.compiler.set_stance("force_eager" if on_cpu else "default"):
                return super().step(closure)

        def state_dict(self) -> dict[str, Any]:
            """torch's, with every 8-bit moment as `<name>.codes` and `<name>.scale`."""
            found = super().state_dict()
            states = {index: _split_moments(state) for index, state in found["state"].items()}
            return {**found, "state": states}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """What `state_dict` returned; torch's own would turn moments into float32."""
            super().load_state_dict({**state_dict, "state": {}})
            ordered = [p for group in self.param_groups for p in group["params"]]
            for index, state in state_dict["state"].items():
                own = {"step": state["step"].clone()}
                for moment in _MOMENTS:
                    own[moment] = self._new_buffer(ordered[index], moment == "exp_avg")
                    _fill(own[moment], moment, state)
                self.state[ordered[index]] = own

    return partial(LightAdamW, betas=BETAS)


def is_quantised(parameter: Tensor) -> bool:
    """Whether a parameter's moments are held in 8 bits: the same on every rank."""
    row = parameter.shape[1:].numel() if parameter.dim() > 1 else 1
    if parameter.numel() < _SMALLEST or row % BLOCK:
        return False
    ranks = parameter.device_mesh.size(-1) if is_sharded(parameter) else 1  # type: ignore[attr-defined]
    most = -(-parameter.shape[0] // ranks)
    return bool((ranks - 1) * most < parameter.shape[0])  # every rank has rows of it


def _split_moments(state: dict[str, Any]) -> dict[str, Any]:
    """A parameter's state with quantised moments as two plain tensors each."""
    found = {"step": state["step"]}
    for moment in _MOMENTS:
        value = state[moment]
        local: Any = local_part(value)
        if hasattr(local, "codes"):
            found[moment + _CODES] = shard_like(value, local.codes)
            found[moment + _SCALE] = shard_like(value, local.scale.view(len(local.codes), -1))
        else:
            found[moment] = value
    return found


def _fill(moment: Tensor, name: str, state: dict[str, Any]) -> None:
    """Put a saved moment into a fresh one, which may be of the other kind on other ranks."""
    local: Any = local_part(moment)
    if name in state:
        local.copy_(local_part(state[name]))
        return
    codes, scale = local_part(state[name + _CODES]), local_part(state[name + _SCALE])
    if hasattr(local, "codes"):
        local.codes.copy_(codes)
        local.scale.copy_(scale.flatten())
        return
    from torchao.optim.subclass_8bit import OptimState8bit

    same = OptimState8bit.zeros(codes.shape, name == "exp_avg", BLOCK, codes.device, moment.dtype)
    same.codes.copy_(codes)
    same.scale.copy_(scale.flatten())
    local.copy_(same.dequantize())
