"""What of its loss a model owes to the pictures that an edit comes with."""

from dataclasses import replace

import pytest
import torch

from kontext.train.flow.validation import context_gain, validation
from kontext.train.loop.fit import fit
from kontext.train.methods.flow import FlowMethod
from tests.train.toy import toy_config, toy_model, toy_pairs


def test_a_model_that_edits_owes_its_loss_to_the_context_and_a_fresh_one_nothing() -> None:
    """Targets are dark or bright as their contexts are, and nothing else says which."""
    data = toy_pairs(edits=16, singles=0)
    data = replace(data, text=torch.ones(16).long())
    for half, shade in ((data.target[:8], 1.0), (data.target[8:], -1.0)):
        data.latents[half] = data.latents[data.context[half]] = shade
    config = toy_config(t2i_steps=0, joint_steps=30, batch=16, lr=1e-2, text_dropout=0.0)
    method = FlowMethod(config, data)  # its last layer is zero: it looks at nothing
    assert context_gain(method.model, data) == pytest.approx(0, abs=1e-6)
    fit(method)
    gain = context_gain(method.model, data)
    assert gain is not None and gain > 0.05
    assert method.validation_losses(data)["context_gain"] == pytest.approx(
        context_gain_of_average(method, data), rel=1e-4
    )


def context_gain_of_average(method: FlowMethod, data: object) -> float | None:
    with method.state.ema["model"].applied(method.model):
        return context_gain(method.model, data)  # type: ignore[arg-type]


def test_references_count_too_and_pairs_without_another_of_their_shape_do_not() -> None:
    model = toy_model()
    alone = toy_pairs(edits=3, singles=4, mixed=True)  # three shapes of one edit each
    assert context_gain(model, alone) is None
    assert context_gain(model, toy_pairs(edits=0)) is None
    two = toy_pairs(edits=2, singles=0, references=[(0,), (1,)])
    assert context_gain(model, two) is not None
    back = replace(two, references=None, context=two.target.flip(0))  # there and back
    assert context_gain(model, back) is None


def test_a_validation_of_few_pairs_is_one_of_the_context_too() -> None:
    """All edits of a category there would cost more than the validation itself."""
    model, counts = toy_model(), list[int]()
    model.register_forward_pre_hook(lambda _, given: counts.append(len(given[0])))
    data = toy_pairs(edits=24, singles=0)
    for limit in (1, 2):
        counts.clear()
        validation(model, data, limit, 0)
        assert max(counts) == limit and sum(counts) == 16 * limit * len(data.category.unique())
