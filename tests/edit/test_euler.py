import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kontext.edit.euler import Guidance, Prompt, noise, sample
from kontext.models.flux.sequence import pack
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.timesteps import FLUX_MU, schedule, shift_mu
from tests.models.shapes import FLOW as SHAPE


class Analytic(nn.Module):
    """Stands in for the network: v is a closed formula of x, t and the prompt; keeps its calls."""

    def __init__(self, velocity: Any, guidance_embed: bool = False) -> None:
        super().__init__()
        self.shape = SHAPE.model_copy(update={"guidance_embed": guidance_embed})
        self.img_in = nn.Linear(16, 1)
        self.velocity = velocity
        self.calls: list[dict[str, Any]] = []

    def forward(self, tokens: Tensor, ids: Tensor, text: Tensor, *args: Any, **kw: Any) -> Tensor:
        self.calls.append({"tokens": tokens, "ids": ids, "t": args[1], **kw})
        n = kw["target_length"]
        return self.velocity(tokens[:, :n], args[1][:, None, None], text[:, :1, :1], tokens[:, n:])


def prompt(value: float = 0.0, batch: int = 1) -> Prompt:
    return Prompt(torch.full((batch, 3, 10), value), torch.zeros(batch, 6))


def run(model: Any, start: Tensor, *args: Any, **kw: Any) -> Tensor:
    return sample(model, start, *args, **kw)


def test_golden_sigmas() -> None:
    grid = schedule(28, 4096, FLUX_MU)
    assert grid.shape == (29,)
    assert grid[:4].tolist() == pytest.approx([1, 0.9884, 0.9762, 0.9634], abs=5e-5)
    assert grid[-3:].tolist() == pytest.approx([0.1955, 0.1047, 0], abs=5e-5)
    golden = {
        256: (0.5, 1.6487),
        1024: (0.63, 1.8776),
        2304: (0.8467, 2.3319),
        4096: (1.15, 3.1582),
    }
    for tokens, (mu, alpha) in golden.items():
        assert shift_mu(tokens, FLUX_MU) == pytest.approx(mu, abs=5e-5)
        assert math.exp(shift_mu(tokens, FLUX_MU)) == pytest.approx(alpha, abs=1e-4)


def test_a_straight_flow_is_exact_in_one_step() -> None:
    """v = noise - data for one data point: Euler has no error, at any number of steps."""
    start = noise(0, [0], (4, 4, 6))
    data = torch.linspace(-1, 1, 96).view(1, 4, 4, 6)
    for steps in (1, 4, 7):
        model = Analytic(lambda *_: pack(start - data))
        assert torch.allclose(run(model, start, prompt(), steps=steps), data, atol=1e-5)
        assert len(model.calls) == steps


def test_converges_to_an_analytic_solution_at_first_order() -> None:
    """dx/dt = x solved backwards from t=1: x(0) = x(1)/e."""
    start = noise(0, [0], (4, 4, 4))
    errors = []
    for steps in (40, 80):
        out = run(Analytic(lambda x, *_: x), start, prompt(), steps=steps)
        errors.append((out - start / math.e).abs().max().item())
    assert errors[1] < 0.03
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)


def test_uses_the_schedule_of_the_target_not_of_the_context() -> None:
    model = Analytic(lambda x, *_: 0 * x)
    run(model, noise(0, [0], (4, 4, 6)), prompt(), [torch.zeros(1, 4, 8, 8)], steps=4)
    seen = torch.tensor([call["t"].item() for call in model.calls])
    assert torch.allclose(seen, schedule(4, 6, FLUX_MU)[:-1])
    assert model.calls[0]["target_length"] == 6
    assert model.calls[0]["ids"][6:, 0].tolist() == [1.0] * 16


def test_a_grid_of_ones_own() -> None:
    model = Analytic(lambda x, *_: 0 * x)
    run(model, noise(0, [0], (4, 2, 2)), prompt(), times=torch.tensor([0.6, 0.2, 0.0]))
    assert [round(call["t"].item(), 3) for call in model.calls] == [0.6, 0.2]


def test_contexts_stay_clean_at_every_step() -> None:
    model = Analytic(lambda x, *_: x)
    context = noise(1, [0], (4, 2, 4))
    run(model, noise(0, [0], (4, 2, 2)), prompt(), [context], steps=3)
    for call in model.calls:
        assert torch.equal(call["tokens"][:, 1:], pack(context))


def test_text_guidance_extrapolates_from_the_empty_prompt_in_one_pass() -> None:
    model = Analytic(lambda x, _t, text, _c: text + 0 * x)
    start = torch.zeros(1, 4, 2, 2)
    out = run(model, start, prompt(2.0), steps=2, guidance=Guidance(text=3.0), empty=prompt(0.5))
    assert torch.allclose(out, torch.full_like(out, -(0.5 + 3 * 1.5)), atol=1e-5)
    assert len(model.calls) == 2
    assert model.calls[0]["tokens"].shape[0] == 2


def test_image_guidance_drops_the_context_tokens() -> None:
    def velocity(x: Tensor, _t: Tensor, text: Tensor, context: Tensor) -> Tensor:
        return text + context.shape[1] * 0.25 + 0 * x

    out = run(
        Analytic(velocity),
        torch.zeros(1, 4, 2, 2),
        prompt(2.0),
        [torch.zeros(1, 4, 4, 4)],
        steps=1,
        guidance=Guidance(text=2.0, image=1.5),
        empty=prompt(0.0),
    )
    # v(0,0) + 1.5 (v(0,y) - v(0,0)) + 2 (v(c,y) - v(0,y)) = 0 + 1.5 + 4
    assert torch.allclose(out, torch.full_like(out, -5.5), atol=1e-5)


def test_embedded_guidance_is_told_to_the_model() -> None:
    model = Analytic(lambda x, *_: 0 * x, guidance_embed=True)
    run(model, torch.zeros(2, 4, 2, 2), prompt(), guidance=Guidance(embedded=2.5), steps=1)
    assert model.calls[0]["guidance"].tolist() == [2.5, 2.5]


def test_unsupported_guidance_is_refused() -> None:
    start, plain = torch.zeros(1, 4, 2, 2), Analytic(lambda x, *_: x)
    with pytest.raises(ValueError, match="embedded"):
        run(plain, start, prompt(), guidance=Guidance(embedded=2.0))
    with pytest.raises(ValueError, match="embedded"):
        run(Analytic(lambda x, *_: x, guidance_embed=True), start, prompt())
    with pytest.raises(ValueError, match="empty prompt"):
        run(plain, start, prompt(), guidance=Guidance(text=2.0))
    with pytest.raises(ValueError, match="context"):
        run(plain, start, prompt(), guidance=Guidance(image=2.0), empty=prompt())


def test_noise_depends_on_seed_and_index_alone() -> None:
    together = noise(7, [3, 4, 5], (4, 6, 6))
    assert torch.equal(noise(7, [4], (4, 6, 6))[0], together[1])
    assert not torch.equal(noise(8, [4], (4, 6, 6))[0], together[1])
    assert not torch.equal(together[0], together[1])
    assert noise(0, range(64), (4, 6, 6)).std().item() == pytest.approx(1, abs=0.03)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    model = FluxTransformer(SHAPE).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    start, context = noise(0, range(3), (4, 4, 4)), noise(1, range(3), (4, 4, 2))
    text, pooled = noise(2, range(3), (5, 10)), noise(3, range(3), (6,))
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False

    def edit(rows: slice) -> Tensor:
        return sample(
            model,
            start[rows],
            Prompt(text[rows], pooled[rows], mask[rows]),
            [context[rows]],
            steps=4,
            guidance=Guidance(text=2.0),
            empty=Prompt(torch.zeros(1, 5, 10), torch.zeros(1, 6), mask[:1]),
        )

    together = edit(slice(0, 3))
    assert torch.equal(edit(slice(0, 3)), together)
    alone = torch.cat([edit(slice(i, i + 1)) for i in range(3)])
    assert torch.allclose(alone, together, atol=1e-5)
    assert together.std() > 0.1


def test_progress_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    run(
        Analytic(lambda x, *_: x),
        torch.zeros(1, 4, 2, 2),
        prompt(),
        steps=3,
        on_step=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
