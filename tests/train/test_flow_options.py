"""The flow's options: CFG dropout of image and both, change mask, magnitudes, told guidance."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from kontext.data.encoded.pair_tensors import PairTensors, edit_magnitudes, gather, sampling_weights
from kontext.models.flux.sequence import pack
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.timesteps import FLUX_MU, sample_t
from kontext.train.flow.validation import level_losses
from kontext.train.flow.velocity import add_noise, change_weights, velocity
from kontext.train.loop.fit import fit, generator
from kontext.train.methods.flow import FlowMethod
from schemas.sections.training import FinetuneConfig, ParallelConfig
from tests.train.toy import SHAPE, toy_config, toy_model, toy_pairs

EMBEDDED = SHAPE.model_copy(update={"guidance_embed": True})


def test_options_are_off_by_default_and_zero_is_off() -> None:
    c = FinetuneConfig()
    assert (c.image_dropout, c.both_dropout, c.mask_weight, c.magnitude_balance) == (0, 0, 0, 0)
    assert c.guidance_distill.steps == 0 and c.guidance_told == (1.0, 1.0)
    assert c.pictures.steps == 0


def test_dropout_takes_text_image_or_both_as_often_as_the_recipe_says() -> None:
    data = toy_pairs(edits=4000)
    config = toy_config(text_dropout=0.2, image_dropout=0.1, both_dropout=0.05)
    parts = FlowMethod(config, data).drop_conditions(
        "edit", data.edits(), generator(0, 0, "dropout")
    )
    kinds: Counter[tuple[bool, bool]] = Counter()
    for part in parts:
        batch = gather(data, part.pairs, part.text, part.with_context)
        assert (batch.context is not None) == part.with_context
        for lost in (part.text == data.empty_text).tolist():
            kinds[(lost, not part.with_context)] += 1
    share = {kind: count / 4000 for kind, count in kinds.items()}
    assert share[(True, False)] == pytest.approx(0.2, abs=0.02)
    assert share[(False, True)] == pytest.approx(0.1, abs=0.02)
    assert share[(True, True)] == pytest.approx(0.05, abs=0.015)


def test_an_edit_without_its_context_is_as_long_as_a_single_and_counts_as_one() -> None:
    config = toy_config(t2i_steps=0, joint_steps=2, t2i_share=0.25, image_dropout=0.5, batch=16)
    data = toy_pairs()
    method = FlowMethod(config, data)
    lengths: list[tuple[int, int]] = []
    method.model.img_in.register_forward_hook(
        lambda _, args, __: lengths.append((args[0].shape[0], args[0].shape[1]))
    )
    history = fit(method)
    assert {"edit", "edit_without_context", "t2i"} <= set(history[0])
    assert sum(rows for rows, _ in lengths) == 2 * 16
    text = data.text_tokens.shape[1]
    for step in range(2):
        tokens = sum(rows * (n + text) for rows, n in lengths[3 * step : 3 * step + 3])
        assert method.work(step).tokens == tokens


def test_text_to_image_pairs_have_no_context_to_lose() -> None:
    data = toy_pairs()
    method = FlowMethod(toy_config(image_dropout=0.9, text_dropout=0.0), data)
    (part,) = method.drop_conditions("t2i", data.singles(), generator(0, 0, "dropout"))
    assert part.with_context and torch.equal(part.text, data.text[data.singles()])


def test_shares_of_dropout_beyond_one_are_refused() -> None:
    with pytest.raises(ValidationError, match="more than 1"):
        toy_config(text_dropout=0.5, image_dropout=0.5, both_dropout=0.1)


def test_the_mask_weighs_changed_tokens_and_keeps_each_samples_mean() -> None:
    context = torch.randn(2, 4, 4, 4)
    target = context.clone()
    target[0, :, :2, :2] += 1.0  # the first token
    target[1] += 0.01  # nothing but a codec's rounding
    weights = change_weights(target, context, 3.0)[..., 0]
    assert torch.allclose(weights[0], torch.tensor([4.0, 1.0, 1.0, 1.0]) / 1.75)
    assert torch.equal(weights[1], torch.ones(4))
    assert torch.equal(change_weights(target, context, 0.0), torch.ones(2, 4, 1))


def test_the_masked_loss_is_the_formula_and_off_is_the_plain_one() -> None:
    losses = {}
    for weight in (0.0, 3.0):
        config = toy_config(
            t2i_steps=0, joint_steps=1, t2i_share=0.0, text_dropout=0.0, mask_weight=weight
        )
        data = toy_pairs()
        data.latents[data.context[:8], :, 2:] = data.latents[data.target[:8], :, 2:]
        losses[weight] = FlowMethod(config, data, toy_model()).step(0)["loss"]
    picks = torch.multinomial(
        sampling_weights(data, data.edits(), {}), 8, True, generator=generator(0, 0, "batch")
    )
    batch, model = gather(data, picks), toy_model()
    assert batch.context is not None
    x = pack(batch.target)
    eps = torch.randn(x.shape, generator=generator(0, 0, "noise"))
    t = sample_t(torch.randn(8, generator=generator(0, 0, "time")), 4, FLUX_MU)
    error = (velocity(model, add_noise(x, eps, t), batch, t) - (eps - x)).square()
    assert losses[0.0] == pytest.approx(float(error.mean()), rel=1e-4)
    changed = torch.tensor([1.0, 1.0, 0.0, 0.0])  # the upper two of four tokens
    expected = (error * ((1 + 3 * changed) / 2.5).view(1, 4, 1)).mean()
    assert losses[3.0] == pytest.approx(float(expected), rel=1e-4)
    assert losses[3.0] != losses[0.0]


def lopsided() -> PairTensors:
    """Ninety tiny edits and ten large ones of one category, and ten of another."""
    data = toy_pairs(edits=110)
    size = torch.full((110, 1, 1, 1), 0.05)
    size[90:100] = 3.0
    latents = data.latents.clone()
    latents[data.context[:110]] = latents[data.target[:110]] + size
    category = data.category.clone()
    category[:100], category[100:110] = 0, 1
    return replace(data, latents=latents, category=category)


def test_small_and_large_edits_are_drawn_alike() -> None:
    data = lopsided()
    edits = data.edits()
    assert torch.allclose(edit_magnitudes(data, edits)[:90], torch.tensor(0.05), atol=1e-4)
    plain = sampling_weights(data, edits, {})
    assert float(plain[90:100].sum() / plain[:100].sum()) == pytest.approx(0.1, abs=1e-5)
    even = sampling_weights(data, edits, {}, 1.0)
    assert float(even[90:100].sum() / even[:100].sum()) == pytest.approx(0.5, abs=1e-4)
    half = sampling_weights(data, edits, {}, 0.5)
    assert 0.1 < float(half[90:100].sum() / half[:100].sum()) < 0.5
    for weights in (plain, even, half):  # the categories' shares stay
        assert float(weights[100:].sum()) == pytest.approx(0.5, abs=1e-4)
    assert torch.equal(sampling_weights(data, edits, {}, 0.0), plain)


def test_balanced_magnitudes_are_in_force_in_the_steps() -> None:
    config = toy_config(magnitude_balance=1.0)
    method = FlowMethod(config, lopsided())
    assert torch.equal(method._edit_weights, sampling_weights(lopsided(), method._edits, {}, 1.0))


def test_a_model_with_an_embedding_is_told_guidance_from_the_range() -> None:
    torch.manual_seed(0)
    config = toy_config(shape=EMBEDDED, guidance_told=(2.0, 4.0))
    method = FlowMethod(config, toy_pairs(), FluxTransformer(EMBEDDED))
    seen: list[torch.Tensor] = []
    method.model.register_forward_pre_hook(
        lambda _, __, named: seen.append(named["guidance"]), with_kwargs=True
    )
    fit(method)
    told = torch.cat(seen)
    assert float(told.min()) >= 2.0 and float(told.max()) <= 4.0 and float(told.std()) > 0.2
    assert method.model.guidance_in is not None
    moved = method.model.guidance_in.in_layer.weight - FluxTransformer(EMBEDDED).img_in.weight[0, 0]
    assert moved.isfinite().all()


def test_validation_tells_a_model_the_guidance_that_it_trains_at() -> None:
    config = toy_config(shape=EMBEDDED, guidance_told=(2.0, 3.0), validate_pairs=2)
    method, seen = FlowMethod(config, toy_pairs()), set[float]()
    method.model.register_forward_pre_hook(
        lambda _, __, named: seen.update(named["guidance"].tolist()), with_kwargs=True
    )
    method.validation_losses(toy_pairs(seed=1))
    assert seen == {2.5}


@pytest.mark.parametrize("kinds", [{"edits": 0}, {"singles": 0}])
@pytest.mark.parametrize("mixed", [False, True])
def test_data_of_one_kind_trains_in_both_phases(kinds: dict[str, int], mixed: bool) -> None:
    """Steps of a phase that the data has nothing for are made of what there is, at full weight."""
    data = toy_pairs(**kinds, mixed=mixed)
    method = FlowMethod(toy_config(optimizer="adamw"), data, toy_model())
    kind = "t2i" if "edits" in kinds else "edit"
    for row in fit(method):
        assert row["loss"] == pytest.approx(row[kind]) and row["loss"] > 0.1
    assert level_losses(method.model, data, levels=2) and method.mixture() is not None
    assert data.edit_tokens.target > 0


def test_a_model_without_an_embedding_is_told_nothing_and_by_default_the_other_is_told_one() -> (
    None
):
    data = toy_pairs()
    batch = gather(data, data.edits())
    noisy, t = torch.randn(8, 4, 16), torch.rand(8)
    torch.manual_seed(0)
    model = FluxTransformer(EMBEDDED)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    assert torch.equal(
        velocity(model, noisy, batch, t), velocity(model, noisy, batch, t, torch.ones(8))
    )
    other = velocity(model, noisy, batch, t, torch.full((8,), 4.0))
    assert not torch.allclose(velocity(model, noisy, batch, t), other)
    assert velocity(toy_model(), noisy, batch, t).shape == noisy.shape


@pytest.mark.parametrize("parts", [2, 3, 20])
def test_an_accumulated_batch_is_the_batch(parts: int) -> None:
    runs = []
    for accumulate in (1, parts):
        config = toy_config(
            accumulate=accumulate, optimizer="adamw", parallel=ParallelConfig(precision="fp32")
        )
        method = FlowMethod(config, toy_pairs(), toy_model())
        runs.append([dict(method.step(index)) for index in range(4)])
    for whole, apart in zip(*runs, strict=True):
        assert whole.keys() == apart.keys()
        for name, value in whole.items():
            assert apart[name] == pytest.approx(value, rel=1e-4)
