from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import gather, sampling_weights
from kontext.data.encoded.rows import MappedRows
from kontext.models.flux.sequence import pack, sequence_ids
from kontext.parallel.world import World
from kontext.train.flow.timesteps import FLUX_MU, sample_t
from kontext.train.flow.validation import level_losses
from kontext.train.flow.velocity import add_noise, velocity
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import fit, generator
from kontext.train.methods.flow import FlowMethod
from tests.train.toy import toy_config, toy_model, toy_pairs


def test_noise_is_a_straight_line_with_velocity_noise_minus_data() -> None:
    clean, eps = torch.randn(3, 4, 16), torch.randn(3, 4, 16)
    t = torch.tensor([0.0, 0.25, 1.0])
    noisy = add_noise(clean, eps, t)
    assert torch.equal(noisy[0], clean[0])
    assert torch.allclose(noisy[2], eps[2])
    later = add_noise(clean, eps, t + 1e-2)
    assert torch.allclose((later - noisy) / 1e-2, eps - clean, atol=1e-3)


def test_context_sits_at_t_1_after_the_target_and_only_the_target_is_predicted() -> None:
    data, model = toy_pairs(), toy_model()
    batch = gather(data, torch.arange(3))
    assert batch.context is not None
    noisy = torch.randn(3, 4, 16)
    t = torch.tensor([0.2, 0.5, 0.9])
    tokens = torch.cat((noisy, pack(batch.context)), dim=1)
    ids = sequence_ids((2, 2), [(2, 2)])
    assert ids[:4, 0].tolist() == [0] * 4 and ids[4:, 0].tolist() == [1] * 4
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        expected = model(tokens, ids, batch.tokens, batch.pooled, t, target_length=4)
    found = velocity(model, noisy, batch, t)
    assert found.shape == (3, 4, 16)
    assert torch.allclose(found, expected, atol=0.05)


def test_an_empty_context_is_omitted_not_padded() -> None:
    data, model = toy_pairs(), toy_model()
    singles = gather(data, data.singles())
    assert singles.context is None
    lengths: list[int] = []
    model.img_in.register_forward_hook(lambda _, args, __: lengths.append(args[0].shape[1]))
    velocity(model, torch.randn(4, 4, 16), singles, torch.rand(4))
    velocity(model, torch.randn(8, 4, 16), gather(data, data.edits()), torch.rand(8))
    assert lengths == [4, 8]


def test_a_mixed_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="must not mix"):
        gather(toy_pairs(), torch.tensor([0, 9]))


def test_phase_one_is_text_to_image_only_and_phase_two_has_both() -> None:
    method = FlowMethod(toy_config(t2i_share=0.25), toy_pairs())
    history = fit(method)
    assert all("edit" not in row for row in history[:2])
    assert all({"edit", "t2i"} <= set(row) for row in history[2:])


def test_the_loss_is_the_papers_formula() -> None:
    """Recomputed independently, from the documented generators."""
    config = toy_config(t2i_steps=0, joint_steps=1, t2i_share=0.0, text_dropout=0.0, lr=1e-9)
    data, model = toy_pairs(), toy_model(std=0.3)
    method = FlowMethod(config, data, model)
    picks = torch.multinomial(
        sampling_weights(data, data.edits(), {}), 8, True, generator=generator(0, 0, "batch")
    )
    x = pack(data.latents[data.target[picks]])
    eps = torch.randn(x.shape, generator=generator(0, 0, "noise"))
    t = sample_t(torch.randn(8, generator=generator(0, 0, "time")), 4, FLUX_MU)
    noisy = (1 - t[:, None, None]) * x + t[:, None, None] * eps
    expected = (velocity(model, noisy, gather(data, picks), t) - (eps - x)).square().mean()
    assert method.step(0)["loss"] == pytest.approx(float(expected), rel=1e-4)


def test_dropped_instructions_become_the_encoded_empty_prompt() -> None:
    data = toy_pairs()
    method = FlowMethod(toy_config(text_dropout=0.999), data)
    (part,) = method.drop_conditions("edit", data.edits(), generator(0, 0, "dropout"))
    batch = gather(data, part.pairs, part.text)
    assert torch.equal(batch.tokens, data.text_tokens[:1].expand(8, -1, -1))
    assert batch.tokens.abs().sum() > 0


def test_category_weights_are_in_force() -> None:
    data = toy_pairs(edits=40)
    weights = sampling_weights(data, data.edits(), {"local": 3.0, "style": 0.0})
    share = torch.zeros(6).index_add_(0, data.category[data.edits()], weights)
    assert share[:5].tolist() == pytest.approx([0.5, 1 / 6, 1 / 6, 0.0, 1 / 6], abs=1e-6)


def test_the_mixture_is_counted_on_what_the_steps_take() -> None:
    config = toy_config(joint_steps=200, category_weights={"local": 3.0}, batch=16)
    method = FlowMethod(config, toy_pairs(), toy_model())
    seen = [pairs for index in (2, 150) for name, pairs in method.pairs_at(index) if name == "edit"]
    rows = {str(row["category"]): row for row in method.mixture()}
    assert sum(float(row["drawn"]) for row in rows.values()) == pytest.approx(1)
    assert rows["local"]["asked"] == pytest.approx(3 / 7)
    for row in rows.values():
        assert row["drawn"] == pytest.approx(row["asked"], abs=0.03)
    taken: list[torch.Tensor] = []
    real = method.drop_conditions
    method.drop_conditions = lambda name, pairs, draw: (
        taken.append(pairs) or real(name, pairs, draw)
    )  # type: ignore[assignment,func-returns-value]
    for index in (2, 150):
        method.step(index)
    assert all(map(torch.equal, [p for p in taken if len(p) == len(seen[0])], seen))


def test_resume_takes_exactly_the_steps_of_an_unbroken_run(tmp_path: Path) -> None:
    whole = FlowMethod(toy_config(), toy_pairs())
    fit(whole)
    first = FlowMethod(toy_config(), toy_pairs())

    def stop(done: int, total: int, losses: object) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(first, checkpoints=Checkpoints(tmp_path / "c", every=2), progress=stop)
    second = FlowMethod(toy_config(), toy_pairs())
    assert fit(second, checkpoints=Checkpoints(tmp_path / "c", every=2)) == whole.state.history
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_learns_a_few_pairs() -> None:
    config = toy_config(t2i_steps=0, joint_steps=120, t2i_share=0.0, text_dropout=0.0, lr=1e-2)
    history = fit(FlowMethod(config, toy_pairs()))
    first = sum(row["loss"] for row in history[:10]) / 10
    last = sum(row["loss"] for row in history[-10:]) / 10
    assert last < 0.6 * first


def test_level_losses_have_a_row_per_level_and_category_and_repeat() -> None:
    data, model = toy_pairs(), toy_model()
    rows = level_losses(model, data, levels=3)
    assert len(rows) == 3 * 6
    assert rows == level_losses(model, data, levels=3)


class CountedRows(MappedRows):
    """Rows that count how many of them were read."""

    read = 0

    def __getitem__(self, rows: Tensor) -> Tensor:
        self.read += len(rows)
        return super().__getitem__(rows)


class OneOfEight(World):
    """A rank whose sums are its own part: the others are not there."""

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        return dict(values)

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Alone."""

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Alone."""


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_rank_reads_the_rows_that_it_computes_and_no_others(accumulate: int) -> None:
    data = toy_pairs(edits=40, singles=24)
    banks = [CountedRows([rows]) for rows in (data.latents, data.text_tokens, data.text_pooled)]
    latents, tokens, pooled = banks
    data = replace(data, latents=latents, text_tokens=tokens, text_pooled=pooled)
    config = toy_config(batch=64, t2i_share=0.25, accumulate=accumulate, text_dropout=0.0)
    method = FlowMethod(config, data, toy_model(), OneOfEight(rank=3, size=8))
    assert not any(bank.read for bank in banks)
    method.step(3)
    # 48 edits and 16 singles: 6 and 2 of them are this rank's
    assert [bank.read for bank in banks] == [2 * 6 + 2, 8, 8]
