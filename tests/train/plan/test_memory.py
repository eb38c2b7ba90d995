"""What a rehearsal says a step takes is what the allocator hands out for it."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.plan import Case, built, measured
from kontext.parallel.flops import Tokens
from kontext.parallel.world import World
from kontext.train.plan import memory
from kontext.train.plan.memory import flow_memory, student_memory
from schemas.sections.models import TransformerShape
from schemas.sections.training import DistillConfig, FinetuneConfig
from tests.parallel.rank_processes import run_ranks

SHAPE = TransformerShape(
    in_channels=16,
    vec_in_dim=32,
    context_in_dim=64,
    hidden_size=128,
    num_heads=2,
    depth=1,
    depth_single_blocks=2,
    axes_dim=(16, 24, 24),
)
TOKENS = Tokens(16, 64, 96)


def section(**changes: Any) -> FinetuneConfig:
    values = {"shape": SHAPE, "batch": 4, "optimizer": "adamw", "t2i_share": 0, "t2i_steps": 0}
    return FinetuneConfig.model_validate({**values, "text_dropout": 0.5, **changes})


CASES = {
    "all weights": section(),
    "parts, recomputed": section(accumulate=2, parallel={"recompute": "full"}),
    "with text-to-image": section(optimizer="muon", t2i_share=0.5),
    "adapters": section(lora_rank=4, parallel={"recompute": "selective"}),
    "offloaded": section(parallel={"offload": True}),
    "a student": DistillConfig(steps=2, batch=2, warmup_steps=0),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Of several each has scratch memory of its own for a product: a percent of so small a step."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.mark.parametrize("name", CASES)
def test_a_step_takes_what_its_rehearsal_says(name: str) -> None:
    config = CASES[name]
    memory._flow.cache_clear()
    if isinstance(config, DistillConfig):
        told = student_memory(config, SHAPE, TOKENS, kind="cpu")
    else:
        told = flow_memory(config, TOKENS, kind="cpu")
    found = measured(partial(built, Case(config, TOKENS), World(), SHAPE))
    assert told.peak == pytest.approx(found, rel=0.01)
    assert 0 < told.state < told.peak


def of_a_rank(world: World) -> int:
    return measured(partial(built, Case(CASES["all weights"], TOKENS), world, SHAPE))


def test_a_rank_takes_what_its_rehearsal_says() -> None:
    told = flow_memory(CASES["all weights"], TOKENS, 2, "cpu")
    wanted = pytest.approx(told.peak, rel=0.1)
    # gloo's threads let go of what they gathered when they come to it, on a busy machine later: the
    # least of some runs is what a step needs
    found = max(run_ranks(of_a_rank, 2))
    for _ in range(9):
        if found == wanted:
            break
        found = min(found, max(run_ranks(of_a_rank, 2)))
    assert found == wanted
    one, two = (flow_memory(CASES["all weights"], TOKENS, gpus) for gpus in (1, 2))
    assert two.state == pytest.approx(one.state / 2, rel=0.05)


def test_replicas_hold_a_model_each() -> None:
    four = flow_memory(section(), TOKENS, 4).state
    launch = {"launcher": "torchrun", "replicas": 2}
    assert flow_memory(section(launch=launch), TOKENS, 4).state == pytest.approx(2 * four, rel=0.1)


def test_what_is_offloaded_is_the_hosts_beside_a_gpu() -> None:
    shape = SHAPE.model_copy(update={"depth_single_blocks": 4})
    here, away = (
        flow_memory(section(shape=shape, parallel={"offload": offload}), TOKENS)
        for offload in (False, True)
    )
    assert away.peak - away.state < 0.75 * (here.peak - here.state)
    assert away.state == here.state


def test_swapped_blocks_are_the_hosts() -> None:
    shape = SHAPE.model_copy(update={"depth_single_blocks": 5})
    here, away = (
        flow_memory(section(shape=shape, lora_rank=4, parallel={"swap": swap}), TOKENS)
        for swap in (0, 6)
    )
    assert away.state < here.state and away.peak < here.peak


@pytest.mark.parametrize(
    ("gpus", "changes"),
    [
        (1, {}),
        (1, {"lora_rank": 4, "parallel": {"recompute": "full"}}),
        (4, {"parallel": {"prefetch": 0}}),
    ],
)
def test_many_blocks_take_what_a_few_say(gpus: int, changes: dict[str, Any]) -> None:
    many = SHAPE.model_copy(update={"depth": 5, "depth_single_blocks": 10})
    config = section(shape=many, **changes)
    told = flow_memory(config, TOKENS, gpus)
    whole = memory.rehearsed_flow(config, TOKENS, gpus, "cuda")
    assert told.state == pytest.approx(whole.state, rel=0.01)
    assert told.peak == pytest.approx(whole.peak, rel=0.01)
