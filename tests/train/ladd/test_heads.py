import pytest
import torch
from torch import Tensor

from kontext.train.ladd.heads import LaddHeads

GRID = (2, 3)


def heads() -> LaddHeads:
    torch.manual_seed(0)
    model = LaddHeads(24, (0, 2), 10, width=16)
    with torch.no_grad():
        for head in model.heads:
            head.film.weight.normal_(0, 0.2)
    return model


def batch(context: int = 4) -> tuple[list[Tensor], Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    features = [torch.randn(3, 6 + context, 24, generator=g) for _ in range(2)]
    return features, torch.rand(3, generator=g), torch.randn(3, 10, generator=g)


def test_one_logit_per_tap_and_target_token() -> None:
    features, t_hat, pooled = batch()
    assert heads()(features, GRID, t_hat, pooled).shape == (3, 2 * 6)
    features, t_hat, pooled = batch(context=0)
    assert heads()(features, GRID, t_hat, pooled).shape == (3, 2 * 6)
    with pytest.raises(ValueError, match="1 feature maps for 2 heads"):
        heads()(features[:1], GRID, t_hat, pooled)


@pytest.mark.parametrize("what", ["level", "text", "context", "target"])
def test_logits_depend_on_every_condition(what: str) -> None:
    model = heads()
    features, t_hat, pooled = batch()
    before = model(features, GRID, t_hat, pooled)
    if what == "level":
        t_hat = 1 - t_hat
    elif what == "text":
        pooled = pooled.flip(0)
    elif what == "context":
        features = [torch.cat((f[:, :6], f[:, 6:].flip(0)), 1) for f in features]
    else:
        features = [torch.cat((f[:, :6].flip(1), f[:, 6:]), 1) for f in features]
    assert (model(features, GRID, t_hat, pooled) - before).abs().max() > 1e-3


def test_a_head_sees_its_tokens_as_a_grid() -> None:
    """Changing a row's last token reaches its 3x3 neighbours, not the next row's first one."""
    model = heads()
    for head in model.heads:
        head.norm = torch.nn.Identity()  # GroupNorm would spread the change everywhere
    features, t_hat, pooled = batch()
    before = model(features, GRID, t_hat, pooled)
    changed = [f.clone() for f in features]
    changed[0][:, 2] = changed[0][:, 2].flip(-1)  # row 0, column 2
    moved = (model(changed, GRID, t_hat, pooled) - before).abs().amax(0)[:6].view(2, 3)
    assert (moved[:, 0] < 1e-6).all()
    assert (moved[:, 1:] > 1e-4).all()


def test_gradients_reach_heads_and_features() -> None:
    model = heads()
    features, t_hat, pooled = batch()
    for f in features:
        f.requires_grad_(True)
    model(features, GRID, t_hat, pooled).square().mean().backward()
    assert all(f.grad is not None and f.grad[:, :6].abs().sum() > 0 for f in features)
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_heads_learn_to_tell_two_kinds_apart() -> None:
    model = heads()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    features, t_hat, pooled = batch()
    fake = [f + torch.linspace(-1, 1, 24) for f in features]
    for _ in range(40):
        real_logits = model(features, GRID, t_hat, pooled)
        fake_logits = model(fake, GRID, t_hat, pooled)
        loss = (1 - real_logits).relu().mean() + (1 + fake_logits).relu().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5
