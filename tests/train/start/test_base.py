"""What is counted of a base is what is held of it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.swap import swapped_blocks
from kontext.parallel.world import World
from kontext.train.methods.flow import FlowMethod
from kontext.train.start.base import base_bytes
from kontext.train.start.model import START, starting_model
from tests.train.toy import SHAPE, toy_config, toy_pairs


@pytest.mark.parametrize(("base", "swap"), [("stored", 0), ("int8", 0), ("nf4", 0), ("nf4", 3)])
def test_bytes_of_a_base_are_those_of_its_tensors(base: str, swap: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(FluxTransformer(SHAPE).to(torch.bfloat16).state_dict(), path)
    config = toy_config(
        optimizer="adamw", lora_rank=2, lora_base=base, parallel={"swap": swap}, batch=2
    )
    data, inputs = toy_pairs(), Inputs({}, "", tmp_path, tmp_path, {START: path})
    model, start = starting_model(config, inputs, data, World())
    FlowMethod(config, data, model, World(), start)
    bytes_, full = base_bytes(config, 2)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    held = sum(p.untyped_storage().nbytes() for p in frozen)  # of those that wait: none
    of_blocks = sorted(
        sum(p.nbytes for p in block.parameters() if not p.requires_grad)
        for block in swapped_blocks(model, swap)
    )
    assert bytes_ == held + sum(of_blocks[-2:])
    assert full == (0 if base == "stored" else 2 * 32 * 7 * 32)
