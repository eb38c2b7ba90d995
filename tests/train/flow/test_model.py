"""A fresh model's text inputs, whitened."""

from dataclasses import replace

import torch

from kontext.data.encoded.pair_tensors import PairTensors
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.model import whiten_text_inputs, whitening_of
from kontext.train.methods.flow import FlowMethod
from tests.train.toy import SHAPE, toy_config, toy_pairs


def narrow(count: int = 400) -> torch.Tensor:
    """Vectors [count, 12] far from zero and spread a hundred times more one way than others."""
    draw = torch.Generator().manual_seed(0)
    spread = torch.tensor([10.0, 3.0] + [0.1] * 10)
    return 5 + torch.randn(count, 12, generator=draw) * spread


def with_texts(tokens: torch.Tensor, pooled: torch.Tensor | None = None) -> PairTensors:
    """Toy pairs of 40 texts, all of them used."""
    data = toy_pairs()
    pooled = narrow(40) if pooled is None else pooled
    return replace(data, text_tokens=tokens, text_pooled=pooled, text=torch.arange(len(pooled)))


def test_whitened_vectors_have_no_mean_and_equal_spreads() -> None:
    vectors = narrow()
    vectors[:, 2:] *= 30  # all directions above the floor
    mean, whitening = whitening_of(vectors)
    white = (vectors - mean) @ whitening
    assert float(white.mean(0).abs().max()) < 1e-4
    spread = torch.linalg.eigvalsh(torch.cov(white.T))
    assert float(spread.min()) > 0.5 and float(spread.max()) < 1.05


def test_directions_of_noise_are_not_blown_up() -> None:
    mean, whitening = whitening_of(narrow())
    spread = torch.linalg.eigvalsh(torch.cov(((narrow() - mean) @ whitening).T))
    assert float(spread.min()) < 0.1


def test_texts_that_lay_together_arrive_apart() -> None:
    data = with_texts(narrow().view(40, 10, 12))
    torch.manual_seed(0)
    plain, white = FluxTransformer(SHAPE), FluxTransformer(SHAPE)
    whiten_text_inputs(white, data)
    tokens = data.text_tokens.flatten(0, 1)

    def alike(model: FluxTransformer) -> float:
        out = torch.nn.functional.normalize(model.txt_in(tokens), dim=1)
        return float((out @ out.T).mean())

    assert alike(plain) > 0.3 and abs(alike(white)) < 0.02
    told = white.vector_in(data.text_pooled)
    assert float(told.std(0).mean()) > 5 * float(plain.vector_in(data.text_pooled).std(0).mean())


def test_padding_does_not_count_and_one_text_is_left_alone() -> None:
    data = with_texts(narrow().view(40, 10, 12))
    padded = torch.cat((data.text_tokens, torch.zeros(40, 30, 12)), dim=1)
    torch.manual_seed(0)
    one = FluxTransformer(SHAPE)
    other = FluxTransformer(SHAPE)
    other.load_state_dict(one.state_dict())
    whiten_text_inputs(one, data)
    whiten_text_inputs(other, replace(data, text_tokens=padded))
    torch.testing.assert_close(one.txt_in.weight, other.txt_in.weight)
    alone = with_texts(data.text_tokens[:1], data.text_pooled[:1])
    whiten_text_inputs(one, alone)
    assert bool(torch.isfinite(one.vector_in.in_layer.weight).all())


def test_texts_of_no_training_pair_do_not_count() -> None:
    data = with_texts(narrow().view(40, 10, 12))
    held_out = torch.randn(20, 10, 12) * 100
    more = replace(
        data,
        text_tokens=torch.cat((data.text_tokens, held_out)),
        text_pooled=torch.cat((data.text_pooled, held_out[:, 0])),
    )
    models = []
    for each in (data, more):
        torch.manual_seed(0)
        models.append(FluxTransformer(SHAPE))
        whiten_text_inputs(models[-1], each)
    one, other = (model.state_dict() for model in models)
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


def test_the_recipe_asks_for_it_and_given_weights_are_kept() -> None:
    data = toy_pairs()
    plain = FlowMethod(toy_config(), data).model
    white = FlowMethod(toy_config(whiten_text=True), data).model
    assert not torch.equal(plain.txt_in.weight, white.txt_in.weight)
    given = FluxTransformer(SHAPE)
    before = given.txt_in.weight.clone()
    FlowMethod(toy_config(whiten_text=True), data, given)
    assert torch.equal(given.txt_in.weight, before)
