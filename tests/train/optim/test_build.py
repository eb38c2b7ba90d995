import pytest
import torch

from kontext.errors import RecipeError
from kontext.train.methods.flow import FlowMethod
from kontext.train.optim.build import build_optimizers, by_name, scale_rates
from schemas.sections.training import ParameterGroup
from tests.train.toy import toy_config, toy_model, toy_pairs

NAMES = ("adamw", "adamw-8bit", "adamw-bf16", "muon")


@pytest.mark.parametrize("name", NAMES)
def test_groups_give_rates_and_decays_by_name(name: str) -> None:
    groups = (
        ParameterGroup(match="img_in.*", lr=0.5, weight_decay=0.0),
        ParameterGroup(match="*.img_mod.*", lr=2.0),
    )
    model = toy_model()
    optimizers = build_optimizers(model, name, 0.1, 0.01, groups)
    scale_rates(optimizers, 0.5)
    named = {id(p): key for key, p in model.named_parameters()}
    found = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in getattr(optimizer, "_sources", group["params"]):
                found.setdefault(named.get(id(p)), (float(group["lr"]), group["weight_decay"]))
    assert found["img_in.weight"] == (pytest.approx(0.025), 0.0)
    assert found["final_layer.linear.bias"] == (pytest.approx(0.05), 0.01)
    if name != "muon":  # whose sources are not told apart by group
        assert found["double_blocks.0.img_mod.lin.weight"] == (pytest.approx(0.1), 0.01)


def test_the_first_group_that_matches_takes_a_parameter() -> None:
    groups = (ParameterGroup(match="img_in.weight", lr=3.0), ParameterGroup(match="img_in.*", lr=5))
    rates = {key: g["lr"] for g in by_name(toy_model(), 1.0, 0.0, groups) for key, _ in g["named"]}
    assert (rates["img_in.weight"], rates["img_in.bias"], rates["txt_in.bias"]) == (3, 5, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_of_zero_freezes_bit_for_bit(name: str) -> None:
    groups = (ParameterGroup(match="single_blocks.*", lr=0.0),)
    method = FlowMethod(
        toy_config(optimizer=name, groups=groups, weight_decay=0.1), toy_pairs(), toy_model()
    )
    method.step(3)
    before = toy_model().state_dict()
    for key, value in method.model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("single_blocks."), key


@pytest.mark.parametrize("frozen", ["*_blocks.*", "[!ds]*"])
def test_muon_works_without_one_of_its_two_halves(frozen: str) -> None:
    groups = (ParameterGroup(match=frozen, lr=0.0), ParameterGroup(match="*.lin.*", lr=0.0))
    groups += (ParameterGroup(match="*.bias", lr=0.0), ParameterGroup(match="*.scale", lr=0.0))
    method = FlowMethod(toy_config(optimizer="muon", groups=groups), toy_pairs(), toy_model())
    assert len(method.state.optimizers) == 1
    method.step(3)


def test_groups_that_match_nothing_or_freeze_everything_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"'image_in\.\*' matches no parameter"):
        by_name(toy_model(), 1.0, 0.0, (ParameterGroup(match="image_in.*"),))
    with pytest.raises(RecipeError, match="nothing is left to train"):
        by_name(toy_model(), 1.0, 0.0, (ParameterGroup(match="*", lr=0.0),))


def test_without_groups_there_is_one_of_everything() -> None:
    (optimizer,) = build_optimizers(toy_model(), "adamw", 0.1, 0.01)
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(toy_model().parameters()))
