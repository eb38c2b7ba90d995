"""The toy's matrices are too small for blocks of 256, so these models are wider."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kontext.errors import RecipeError
from kontext.parallel.world import World, full_tensor, local_part
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import fit
from kontext.train.methods.flow import FlowMethod
from kontext.train.optim.build import adamw
from kontext.train.optim.light_adamw import is_quantised, light_adamw
from schemas.sections.training import FinetuneConfig, ParallelConfig
from tests.parallel.rank_processes import run_ranks
from tests.train.toy import SHAPE, toy_config, toy_pairs

WIDE = SHAPE.model_copy(
    update={"hidden_size": 256, "num_heads": 4, "axes_dim": (16, 24, 24), "depth_single_blocks": 1}
)
STEPS = 3


def config(name: str, **changes: Any) -> FinetuneConfig:
    values: dict[str, Any] = {"t2i_steps": 1, "joint_steps": STEPS - 1, "checkpoint_every": 1}
    parallel = ParallelConfig(precision="fp32")
    return toy_config(
        shape=WIDE, optimizer=name, parallel=parallel, lr=1e-3, **{**values, **changes}
    )


def trained(
    name: str, folder: Path | None = None, world: World | None = None, until: int = STEPS
) -> dict[str, Any]:
    """Losses, whole weights and moments' bytes after some steps, resumed where there is a run."""
    method = FlowMethod(config(name), toy_pairs(), None, world)
    method.total_steps = until
    checkpoints = None if folder is None else Checkpoints(folder, 1, world=world)
    history = fit(method, checkpoints=checkpoints)
    (optimizer,) = method.state.optimizers.values()
    moments = [s[m] for s in optimizer.state.values() for m in ("exp_avg", "exp_avg_sq")]
    return {
        "losses": [row["loss"] for row in history],
        "weights": {k: full_tensor(v.detach()) for k, v in method.model.state_dict().items()},
        "bytes": sum(size_of(local_part(moment)) for moment in moments),
    }


def size_of(moment: torch.Tensor) -> int:
    parts = [moment.codes, moment.scale] if hasattr(moment, "codes") else [moment]
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.parametrize(("name", "share"), [("adamw-8bit", 0.3), ("adamw-bf16", 0.5)])
def test_moments_are_small_and_the_steps_are_nearly_adamws(name: str, share: float) -> None:
    plain, light = trained("adamw"), trained(name)
    assert light["bytes"] <= share * plain["bytes"]
    assert light["losses"] == pytest.approx(plain["losses"], rel=1e-2)
    start = FlowMethod(config(name), toy_pairs()).model.state_dict()
    for key, value in plain["weights"].items():
        moved = (value - start[key]).norm()
        assert (light["weights"][key] - value).norm() <= 0.1 * moved + 1e-7, key


def test_the_update_is_adamws_formula_where_nothing_is_quantised() -> None:
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(6, 5, generator=draw) for _ in range(4)]
    found = []
    for make in (adamw, light_adamw("adamw-8bit")):
        parameter = nn.Parameter(values[0].clone())
        optimizer = make([parameter], lr=0.1, weight_decay=0.01)
        for gradient in values[1:]:
            parameter.grad = gradient.clone()
            optimizer.step()
        found.append(parameter.detach())
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw-8bit", "adamw-bf16"])
def test_a_run_that_is_resumed_has_the_bits_of_one_that_was_not(tmp_path: Path, name: str) -> None:
    unbroken = trained(name)
    trained(name, tmp_path, until=1)
    resumed = trained(name, tmp_path)
    assert resumed["losses"] == unbroken["losses"]
    for key, value in unbroken["weights"].items():
        assert torch.equal(resumed["weights"][key], value), key


def on_two_ranks(world: World, folder: Path) -> dict[str, Any]:
    found = {name: trained(name, None, world) for name in ("adamw-8bit", "adamw-bf16")}
    trained("adamw-8bit", folder / "broken", world, until=1)
    found["resumed"] = trained("adamw-8bit", folder / "broken", world)
    trained("adamw-8bit", folder / "fewer", world, until=1)
    found["from one"] = trained("adamw-8bit", folder / "more", world)
    return found


def test_two_ranks_have_the_blocks_of_one_and_can_take_over_from_it(tmp_path: Path) -> None:
    alone = {name: trained(name) for name in ("adamw-8bit", "adamw-bf16")}
    trained("adamw-8bit", tmp_path / "more", until=1)
    two = run_ranks(on_two_ranks, 2, tmp_path)[0]
    for name, one in alone.items():
        assert two[name]["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert two[name]["bytes"] < 0.6 * one["bytes"]  # this rank's half
    assert two["resumed"]["losses"] == two["adamw-8bit"]["losses"]
    for key, value in two["adamw-8bit"]["weights"].items():
        assert torch.equal(two["resumed"]["weights"][key], value), key
    one = alone["adamw-8bit"]["losses"]
    assert two["from one"]["losses"] == pytest.approx(one, rel=1e-4)
    assert trained("adamw-8bit", tmp_path / "fewer")["losses"] == pytest.approx(one, rel=1e-4)


def test_whether_moments_are_quantised_depends_on_rows_alone() -> None:
    assert is_quantised(torch.empty(16, 256))
    assert not is_quantised(torch.empty(16, 255)) and not is_quantised(torch.empty(8, 256))
    assert not is_quantised(torch.empty(65536))  # a vector's row is one value


def test_torchaos_own_moments_depend_on_the_ranks_and_are_no_plain_tensors() -> None:
    torchao = pytest.importorskip("torchao.optim")
    whole_matrix, half = nn.Parameter(torch.ones(64, 96)), nn.Parameter(torch.ones(32, 96))
    optimizer = torchao.AdamW8bit([whole_matrix, half])
    for parameter in (whole_matrix, half):
        parameter.grad = torch.ones_like(parameter)
    with torch.compiler.set_stance("force_eager"):  # its compiled step says the same, much later
        optimizer.step()
    first, second = (optimizer.state[p]["exp_avg"] for p in (whole_matrix, half))
    assert hasattr(first, "codes") and not hasattr(second, "codes")  # a rank of two has the half
    assert first.block_size == 256 and 96 % 256 != 0  # blocks run over the ends of rows
    assert type(optimizer.state_dict()["state"][0]["exp_avg"]) is not torch.Tensor


def test_saved_codes_are_read_into_moments_that_are_no_codes() -> None:
    parameter = nn.Parameter(torch.randn(16, 256))
    optimizer = light_adamw("adamw-8bit")([parameter], lr=0.1, weight_decay=0.0)
    parameter.grad = torch.randn(16, 256)
    optimizer.step()
    saved = optimizer.state_dict()
    assert set(saved["state"][0]) >= {"exp_avg.codes", "exp_avg.scale", "exp_avg_sq.codes"}
    same = nn.Parameter(parameter.detach().clone())
    other = light_adamw("adamw-bf16")([same], lr=0.1, weight_decay=0.0)
    other.load_state_dict(saved)
    (state,) = other.state.values()
    (own,) = optimizer.state.values()
    for moment in ("exp_avg", "exp_avg_sq"):
        expected = own[moment].dequantize().bfloat16()
        assert torch.equal(state[moment], expected)


def test_without_torchao_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(RecipeError, match="'adamw-8bit' needs: pip install"):
        FlowMethod(toy_config(optimizer="adamw-8bit"), toy_pairs())
