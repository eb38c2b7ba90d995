"""Fine-tuning adapters alone with the flow method, on a frozen model."""

import torch

from kontext.models.lora import LoraConfig, adapters, apply_lora, merge
from kontext.train.methods.flow import FlowMethod
from tests.train.toy import toy_config, toy_model, toy_pairs


def test_flow_training_moves_the_adapters_and_nothing_else() -> None:
    model = toy_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    apply_lora(model, LoraConfig(rank=2))
    method = FlowMethod(toy_config(optimizer="adamw"), toy_pairs(), model)
    reports = [method.step(index) for index in range(method.total_steps)]
    assert all(report["loss"] > 0 for report in reports)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(layer.lora_up.abs().max() > 0 for layer in adapters(model).values())
    merged = merge(model).state_dict()
    changed = {key for key, value in before.items() if not torch.equal(merged[key], value)}
    assert changed == {
        k for k in before if k.endswith("weight") and any(
            part in k for part in ("qkv", "attn.proj", "mlp.", "linear1", "linear2")
        )
    }  # fmt: skip
