from typing import Any

import pytest
import torch

from kontext.errors import RecipeError
from kontext.parallel import recompute
from kontext.parallel.attention import KernelError, active_kernel, use_kernel
from kontext.parallel.world import World
from kontext.train.methods.flow import FlowMethod
from schemas.sections.training import ParallelConfig
from tests.parallel.rank_processes import run_ranks
from tests.parallel.rank_work import REFERENCES, STEPS, Wire, everything, replicated, train
from tests.train.toy import toy_config, toy_model, toy_pairs

# Muon's Newton-Schulz works in bf16, where one flipped rounding is 0.4 % of an update's element
TOLERANCE = {"adamw": 1e-5, "muon": 1e-4}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(everything, 2)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_ranks_take_the_steps_of_one(ranks: list[dict[str, Any]], optimizer: str) -> None:
    alone = train(World(), optimizer)
    for found in ranks:
        assert len(found[optimizer]["history"]) == STEPS
        for one, two in zip(alone["history"], found[optimizer]["history"], strict=True):
            for name in one.keys() - {"grad_norm"}:
                assert two[name] == pytest.approx(one[name], rel=TOLERANCE[optimizer])
            assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    for kind in ("weights", "ema"):
        for name, tensor in alone[kind].items():
            found = ranks[0][optimizer][kind][name]
            torch.testing.assert_close(found, tensor, rtol=0, atol=100 * TOLERANCE[optimizer])


def test_two_ranks_take_the_steps_of_one_with_up_to_five_references(
    ranks: list[dict[str, Any]],
) -> None:
    """Some parts have fewer edits than ranks: those without one still join the collectives."""
    close(ranks, "references", train(World(), references=REFERENCES))
    parts = {name for row in ranks[0]["references"]["history"] for name in row}
    assert {"t2i", "edit", "edit_2_contexts", "edit_3_contexts", "edit_6_contexts"} <= parts


def test_a_sharded_muon_step_is_torchs_own(ranks: list[dict[str, Any]]) -> None:
    sharded, plain = ranks[0]["muon steps"]
    torch.testing.assert_close(sharded, plain, rtol=1e-6, atol=1e-6)


def test_both_ranks_end_with_the_same_bits(ranks: list[dict[str, Any]]) -> None:
    for optimizer in ("adamw", "muon"):
        assert ranks[0][optimizer]["history"] == ranks[1][optimizer]["history"]
        for name, tensor in ranks[0][optimizer]["weights"].items():
            assert torch.equal(tensor, ranks[1][optimizer]["weights"][name])


def test_full_recomputation_changes_no_bit_on_two_ranks(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["full"]["history"] == ranks[0]["adamw"]["history"]


def test_an_accumulated_batch_is_the_batch(ranks: list[dict[str, Any]]) -> None:
    close(ranks, "accumulated", train(World(), steps=8))


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_ranks_that_share_sequences_take_the_steps_of_one(
    ranks: list[dict[str, Any]], mode: str
) -> None:
    close(ranks, f"sequence {mode}", train(World(), steps=8))
    assert ranks[0][f"sequence {mode}"]["history"] == ranks[0]["sequence none"]["history"]


def test_sequences_that_cannot_be_shared_are_refused(ranks: list[dict[str, Any]]) -> None:
    tokens, heads, alone, ranks_by_three = ranks[0]["refusals"]
    assert "2 ranks cannot share 5 text tokens" in tokens
    assert "2 ranks cannot share a sequence of 1 heads" in heads
    assert "parallel.context=2 needs that many ranks" in alone
    assert "2 ranks cannot be divided by 3" in ranks_by_three


def close(ranks: list[dict[str, Any]], name: str, alone: dict[str, Any]) -> None:
    """Losses and weights of the ranks are those of one process but for the order of sums."""
    for found in ranks:
        for one, two in zip(alone["history"], found[name]["history"], strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
        for key, tensor in alone["weights"].items():
            torch.testing.assert_close(found[name]["weights"][key], tensor, rtol=0, atol=1e-3)


def test_replicas_of_shards_take_the_steps_of_one() -> None:
    found = run_ranks(replicated, 4)
    close(found, "hybrid", train(World(), steps=6))
    assert found[0]["mesh"] == {"replicate": 2, "shard": 2}


def test_weights_travel_in_bf16_and_gradients_in_fp32(ranks: list[dict[str, Any]]) -> None:
    """From the tensors handed to the collectives, not from the configuration."""
    for precision, gathered in (("bf16", "torch.bfloat16"), ("fp32", "torch.float32")):
        seen = ranks[0][f"wire {precision}"]
        gathers = {d for name, kinds in seen.items() if "allgather" in name for d in kinds}
        reduces = {d for name, kinds in seen.items() if "reduce_scatter" in name for d in kinds}
        assert gathers == {gathered}, seen
        assert reduces == {"torch.float32"}, seen
        assert ranks[0][f"master {precision}"] == {"torch.float32"}


def test_every_row_of_a_batch_belongs_to_one_rank(ranks: list[dict[str, Any]]) -> None:
    for count, first, second in zip((0, 1, 8, 9), ranks[0]["rows"], ranks[1]["rows"], strict=True):
        assert first + second == list(range(count))


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_what_waits_in_the_hosts_memory_comes_back_with_its_bits(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "_LEAST", 0)
    runs = []
    for offloaded in (False, True):
        options = ParallelConfig(precision="fp32", recompute=mode)
        method = FlowMethod(toy_config(parallel=options), toy_pairs(), toy_model())
        if offloaded:
            recompute.offload_blocks(method.model)
        with Wire() as wire:
            losses = dict(method.step(2))
        copies = wire.calls["aten.copy_.default"]
        runs.append((losses, [p.detach().clone() for p in method.model.parameters()], copies))
    assert runs[1][0] == runs[0][0]
    assert all(map(torch.equal, runs[1][1], runs[0][1]))
    assert runs[1][2] > runs[0][2]  # they were really moved


def test_weights_and_small_tensors_stay_where_they_are() -> None:
    weight, small = torch.nn.Parameter(torch.randn(256, 256)), torch.randn(8, 8)
    kept = [recompute._to_host(tensor) for tensor in (weight, weight.t(), small)]
    assert all(isinstance(tensor, torch.Tensor) for tensor in kept)
    wide = torch.randn(128, 128)
    device, host = recompute._to_host(wide)
    assert device == wide.device and torch.equal(host, wide) and host.data_ptr() != wide.data_ptr()


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_compiled_blocks_train_as_eager_ones(mode: str) -> None:
    torch._dynamo.reset()
    found = train(World(), steps=6, compile="aot_eager", recompute=mode, offload=True)
    close([{"compiled": found}], "compiled", train(World(), steps=6))


def test_compiling_refuses_batches_of_all_sizes() -> None:
    options = ParallelConfig(compile="eager")
    with pytest.raises(RecipeError, match=r"parallel\.compile needs batches of fixed sizes"):
        FlowMethod(toy_config(parallel=options, image_dropout=0.1), toy_pairs())


def test_the_recipes_kernel_is_taken_into_use() -> None:
    try:
        FlowMethod(toy_config(parallel=ParallelConfig(kernel="math")), toy_pairs())
        assert active_kernel() == "math"
        FlowMethod(toy_config(), toy_pairs())
        assert active_kernel() != "math"  # `auto` chooses anew
        with pytest.raises(KernelError, match="needs a CUDA device"):
            FlowMethod(toy_config(parallel=ParallelConfig(kernel="fa3")), toy_pairs())
    finally:
        use_kernel("auto")


def test_recomputation_runs_products_again_and_changes_no_bit() -> None:
    runs, products = {}, {}
    for mode in ("none", "selective", "full"):
        config = toy_config(parallel=ParallelConfig(precision="fp32", recompute=mode))
        method = FlowMethod(config, toy_pairs(), toy_model())
        with Wire() as wire:
            losses = dict(method.step(2))
        runs[mode] = (losses, [p.detach().clone() for p in method.model.parameters()])
        products[mode] = wire.calls["aten.addmm.default"]
    assert products["none"] < products["selective"] < products["full"]
    for mode in ("selective", "full"):
        assert runs[mode][0] == runs["none"][0]
        assert all(map(torch.equal, runs[mode][1], runs["none"][1]))
