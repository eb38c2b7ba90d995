"""Fake steps: what is fake, what is real, and what is as it was afterwards."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext.models.precision import autocast
from kontext.parallel.attention import active_kernel, use_kernel
from kontext.parallel.device_kind import kind_of, on_the_host
from kontext.train.plan.rehearsal import Kind, on_stage, rehearsal

MIB = 2**20


def test_storages_are_counted_once_and_until_they_go() -> None:
    with rehearsal("cpu") as stage:
        held = [torch.zeros(MIB)]
        views = held[0].view(2, -1)[0]
        assert stage.storages.live == 4 * MIB
        found = stage.peak_of(lambda: (held[0] + 1) * 2)
        assert (found.state, found.peak) == (4 * MIB, 12 * MIB)
        held.clear()
        assert stage.storages.live == 4 * MIB
        views.untyped_storage().resize_(0)  # as FSDP frees what it gathered
        assert stage.storages.live == 0
        views.untyped_storage().resize_(8)
        del views
        assert stage.storages.live == 0


def test_the_graph_keeps_what_the_backward_pass_needs() -> None:
    with rehearsal("cpu") as stage:
        with torch.device("meta"):
            layer = nn.Linear(1024, 1024, bias=False)
        on_stage(layer)
        assert stage.storages.live == 4 * MIB

        def step() -> None:
            out = torch.zeros(1024, 1024)
            for _ in range(3):
                out = F.silu(layer(out))
            out.sum().backward()

        found = stage.peak_of(step)
        assert found.state == 4 * MIB
        assert found.peak >= 4 * MIB * (1 + 1 + 2 * 3)  # input, and two of each layer
        assert stage.storages.live == 2 * 4 * MIB  # the weight and its gradient


def test_what_decides_is_real_and_a_fake_number_is_one() -> None:
    with rehearsal("cpu"):
        chosen = torch.rand(4, generator=torch.Generator().manual_seed(0)) < 0.5
        assert (
            chosen.tolist()
            == (torch.rand(4, generator=torch.Generator().manual_seed(0)) < 0.5).tolist()
        )
        assert torch.arange(3).tolist() == [0, 1, 2]
        fake = torch.zeros(4, 4)
        assert float(fake.sum()) == 1.0 and bool((fake > 0).any())
        assert fake[chosen.nonzero().flatten()].shape == (int(chosen.sum()), 4)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_gpus_paths_are_taken_for_a_gpu(kind: Kind) -> None:
    def norm(x: Tensor) -> Tensor:
        with autocast(x.device):
            return F.layer_norm(x, x.shape[-1:])

    with rehearsal(kind) as stage:
        x = torch.zeros(4, 8, dtype=torch.bfloat16)
        assert kind_of(x.device) == kind and x.device.type == "cpu"
        if kind == "cuda":  # autocast's float32 list is longer there
            assert norm(x).dtype == torch.float32
        live = stage.storages.live
        with on_the_host():
            away = torch.empty(8)
        away.zero_()
        assert (stage.storages.live == live) == (kind == "cuda") and len(away) == 8


def test_nothing_of_it_stays() -> None:
    torch.manual_seed(1)
    state, norm = torch.get_rng_state(), F.layer_norm
    apply, resize = nn.Module._apply, torch.UntypedStorage.resize_
    use_kernel("math")
    try:
        with pytest.raises(ZeroDivisionError), rehearsal("cuda"):
            torch.manual_seed(2)
            use_kernel("sdpa")
            raise ZeroDivisionError
        assert active_kernel() == "math"
    finally:
        use_kernel("auto")
    assert torch.equal(torch.get_rng_state(), state)
    assert (nn.Module._apply, torch.UntypedStorage.resize_) == (apply, resize)
    assert F.layer_norm is norm
    assert kind_of("cpu") == "cpu" and torch.zeros(2).tolist() == [0, 0]
