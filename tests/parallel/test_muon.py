"""Muon's step in float32 beside torch's own, which multiplies in bfloat16."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Muon

from kontext.models.precision import bf16_supported
from kontext.parallel.muon import muon_step
from kontext.train.optim.build import MatrixMuon

SHAPES = ((8, 24), (24, 8), (16, 16))


def _stepped(products: torch.dtype | None, shape: tuple[int, int]) -> Tensor:
    """A matrix after three steps with momentum and decay; None: torch's own optimiser."""
    draw = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(shape, generator=draw))
    muon = Muon([parameter], lr=0.1, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        parameter.grad = torch.randn(shape, generator=draw)
        if products is None:
            muon.step()  # type: ignore[no-untyped-call]
        else:
            muon_step(muon, products)
    return parameter.detach()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_step_is_torchs_but_for_the_dtype_of_the_products(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = _stepped(None, shape)
    assert torch.allclose(_stepped(torch.bfloat16, shape), coarse, atol=1e-6)
    ours = _stepped(torch.float32, shape)
    assert not torch.allclose(ours, coarse, atol=1e-4)
    monkeypatch.setattr(Tensor, "bfloat16", lambda self: self.clone())  # torch's, in float32
    assert torch.allclose(ours, _stepped(None, shape), atol=1e-5)


def test_products_are_in_bf16_only_where_that_is_fast() -> None:
    parameter = nn.Parameter(torch.zeros(8, 8))
    muon = MatrixMuon([parameter], lr=1.0, weight_decay=0.0)
    assert (muon.products == torch.bfloat16) == bf16_supported("cpu")
    parameter.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    muon.step()
    turned = parameter.detach() / (0.2 * 8**0.5)
    # Jordan et al.'s coefficients leave singular values of about 0.7 to 1.2
    values = torch.linalg.svdvals(turned)
    assert values.min() > 0.4 and values.max() < 1.3
