"""Block swap: the same bits as without, and memory for two of the swapped blocks."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel import swap
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.recompute import blocks
from kontext.parallel.swap import swapped_blocks, waiting_weights
from kontext.parallel.world import World
from kontext.train.methods.flow import FlowMethod
from kontext.train.start.model import START, starting_model
from tests.train.toy import SHAPE, toy_config, toy_pairs

DEEP = SHAPE.model_copy(update={"depth": 2, "depth_single_blocks": 4})


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = FluxTransformer(DEEP)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("stored") / "model.safetensors"
    save_file(model.to(torch.bfloat16).state_dict(), path)
    return path


def built(path: Path, count: int, precision: str = "auto", **changes: object) -> FlowMethod:
    own = {k: changes.pop(k) for k in ("recompute", "offload") if k in changes}
    parallel = {"swap": count, "precision": precision, **own}
    values = {"shape": DEEP, "optimizer": "adamw", "lora_rank": 2, "parallel": parallel, "batch": 4}
    config, data = toy_config(**{**values, **changes}), toy_pairs()
    inputs = Inputs({}, "", path.parent, path.parent, {START: path})
    model, start = starting_model(config, inputs, data, World())
    return FlowMethod(config, data, model, World(), start)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "fp32"},
        {"lora_base": "nf4", "accumulate": 2},
        {"recompute": "selective"},
        {"recompute": "full", "offload": True, "lora_base": "int8"},
        {"lora_targets": ("single_blocks.3.*",)},  # no backward pass through the other blocks
    ],
)
def test_steps_are_those_without_bit_for_bit(stored: Path, changes: dict[str, object]) -> None:
    """With a validation between them, which has no backward pass."""
    found = []
    for count in (0, 5):
        method = built(stored, count, **changes)  # type: ignore[arg-type]
        told = [method.step(index) for index in (0, 1)]
        told.append(method.validation_losses(toy_pairs(seed=1)))
        found.append([*told, method.step(2)])
    assert found[0] == found[1] and found[0][0]["grad_norm"] > 0


def test_two_of_the_swapped_blocks_are_there_at_any_time(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forwards and backwards, each block's before it is at work; the others' storages are empty."""
    method = built(stored, 5, accumulate=2)
    swapped = swapped_blocks(method.model, 5)
    frozen = [[p for p in block.parameters() if not p.requires_grad] for block in swapped]

    def there() -> list[int]:
        sizes = [{p.untyped_storage().nbytes() for p in own} for own in frozen]
        assert all(0 not in own or own == {0} for own in sizes)  # a block's weights go together
        return [index for index, own in enumerate(sizes) if 0 not in own]

    seen: list[tuple[int, list[int]]] = []
    real = swap._Turns._need

    def need(self: object, index: int, following: int) -> None:
        real(self, index, following)  # type: ignore[arg-type]
        seen.append((index, there()))

    monkeypatch.setattr(swap._Turns, "_need", need)
    assert there() == []
    method.step(method.config.t2i_steps)
    assert all(len(places) == 2 and index in places for index, places in seen)
    order = [index for index, _ in seen]
    assert order == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0] * (len(order) // 10) and len(order) >= 20
    assert there() == [0, 1]  # what the next forward pass begins with


def test_frozen_weights_wait_and_adapters_do_not(stored: Path) -> None:
    """Blocks are spread evenly; what waits is never read into the device's memory."""
    model = built(stored, 0).model
    every = blocks(model)
    places = [every.index(block) for block in swapped_blocks(model, 3)]
    assert places == [1, 3, 5] and swapped_blocks(model, 6) == every
    waiting = waiting_weights(model, 3)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert waiting and not waiting & trained
    assert {".".join(name.split(".")[:2]) for name in waiting} == {
        *("double_blocks.1", "single_blocks.1", "single_blocks.3")
    }
    assert waiting_weights(model, 0) == frozenset()
