"""Exponential moving average of weights, kept in float32 beside the model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """EMA of every floating-point tensor of a module.

    The decay is warmed up as (1 + n) / (10 + n), so that early averages do not remember the
    initial weights (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = {
            name: tensor.detach().float().clone() for name, tensor in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Fold the module's current weights in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in module.state_dict().items():
            self.shadow[name].lerp_(tensor.detach().float(), 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's weights with the average."""
        module.load_state_dict(self.shadow)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[nn.Module]:
        """The module with averaged weights inside the block, its own again afterwards."""
        kept = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        self.copy_to(module)
        try:
            yield module
        finally:
            module.load_state_dict(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages plus the update count, for a checkpoint."""
        return {**self.shadow, "__updates__": torch.tensor(self.updates)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.updates = int(state["__updates__"])
        self.shadow = {k: v.clone() for k, v in state.items() if k != "__updates__"}
