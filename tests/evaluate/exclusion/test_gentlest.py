"""The least share of a safety training with which no attack succeeds."""

from typing import Any

import pytest
import torch

from kontext.evaluate.exclusion import gentlest
from kontext.evaluate.exclusion.attack import Tried
from kontext.models.flux.transformer import FluxTransformer
from tests.train.toy import toy_model

SHARES = (0.25, 0.5, 0.75)


class Editors:
    """Editors that are the flow's own weights."""

    def of(self, flow: FluxTransformer) -> FluxTransformer:
        return flow


@pytest.fixture
def flows() -> tuple[FluxTransformer, FluxTransformer]:
    torch.manual_seed(1)
    before, after = toy_model(), toy_model()
    with torch.no_grad():
        for old, new in zip(before.parameters(), after.parameters(), strict=True):
            new.copy_(old + 1 + torch.rand_like(old))
    return before, after


def attacked_until(
    monkeypatch: pytest.MonkeyPatch, before: FluxTransformer, enough: float
) -> list[float]:
    """Attacks succeed until `enough` of the training is there; the shares that were attacked."""
    seen: list[float] = []
    own = next(before.parameters()).detach()
    new = own + 1  # at least

    def attack(subjects: Any, flow: FluxTransformer, texts: Any) -> list[Tried]:
        assert texts == ["look mad"]
        moved = (next(flow.parameters()).detach() - own).mean() / (new - own).mean()
        seen.append(round(float(moved) / 1.5, 1))
        return [Tried("look mad", 0.0 if seen[-1] >= enough else 0.5)]

    monkeypatch.setattr(gentlest, "attack", attack)
    return seen


def least(flow: FluxTransformer, before: FluxTransformer) -> float:
    editors: Any = Editors()
    nobody: Any = None
    return gentlest.keep_least(flow, before, SHARES, editors, nobody, ["look mad"])


def test_the_first_share_is_kept_with_which_no_attack_succeeds(
    flows: tuple[FluxTransformer, FluxTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, flow = flows
    after = {name: value.clone() for name, value in flow.state_dict().items()}
    untouched = {name: value.clone() for name, value in before.state_dict().items()}
    seen = attacked_until(monkeypatch, before, enough=0.5)
    assert least(flow, before) == 0.5
    assert len(seen) == 2  # the gentlest first, and none after it
    for name, value in flow.state_dict().items():
        assert torch.equal(value, untouched[name].lerp(after[name], 0.5)), name
        assert torch.equal(before.state_dict()[name], untouched[name])


def test_all_of_the_training_stays_where_less_is_not_enough(
    flows: tuple[FluxTransformer, FluxTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, flow = flows
    after = {name: value.clone() for name, value in flow.state_dict().items()}
    seen = attacked_until(monkeypatch, before, enough=2.0)
    assert least(flow, before) == 1.0 and len(seen) == len(SHARES)
    assert all(torch.equal(value, after[name]) for name, value in flow.state_dict().items())
