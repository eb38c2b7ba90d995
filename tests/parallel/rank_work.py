"""What the ranks of the parallel tests do."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kontext.errors import RecipeError
from kontext.models.files.weights import Entry
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World, full_tensor, join
from kontext.train.loop.fit import fit
from kontext.train.methods.flow import FlowMethod
from kontext.train.optim.build import MatrixMuon
from kontext.train.start.model import START, starting_model
from schemas.sections.training import ParallelConfig
from tests.train.toy import SHAPE, toy_config, toy_model, toy_pairs

STEPS = 8
REFERENCES = ((3,), (4, 5), (), (6,), (3, 4, 5, 6, 7))  # of the first edits


class Wire(TorchDispatchMode):
    """Records the dtypes of what collectives really carry, and counts all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[str]] = {}
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.calls[name] += 1
        if name.startswith("c10d."):
            tensors = [t for t in torch.utils._pytree.tree_leaves(args) if torch.is_tensor(t)]
            self.seen.setdefault(name, set()).update(str(t.dtype) for t in tensors)
        return func(*args, **(kwargs or {}))


def train(
    world: World,
    optimizer: str = "adamw",
    steps: int = STEPS,
    changes: dict[str, Any] | None = None,
    references: Sequence[Sequence[int]] = (),
    **parallel: Any,
) -> dict[str, Any]:
    """Some steps of the toy flow; its losses, full weights and averages."""
    config = toy_config(
        optimizer=optimizer,
        t2i_steps=4,
        joint_steps=steps - 4,
        t2i_share=0.2,  # 8 samples: 6 edits and 2 singles
        parallel=ParallelConfig(**{"precision": "fp32", **parallel}),
        **(changes or {}),
    )
    # six tokens of text, so that two ranks can share a sequence
    data = toy_pairs(text_length=6, references=references)
    method = FlowMethod(config, data, toy_model(), world)
    history = fit(method)
    return {
        "history": history,
        "weights": {k: full_tensor(v.detach()) for k, v in method.model.state_dict().items()},
        "ema": {k: full_tensor(v) for k, v in method.state.ema["model"].shadow.items()},
    }


def replicated(_: World) -> dict[str, Any]:
    """Four ranks as two copies of a model that two ranks share each (HSDP)."""
    world = join(replicas=2)
    assert world.mesh is not None
    sizes = dict(zip(world.mesh.mesh_dim_names or (), world.mesh.shape, strict=True))
    return {"hybrid": train(world, steps=6), "mesh": sizes}


def in_sequence(world: World, **options: Any) -> dict[str, Any]:
    """`train` on ranks that share every sequence."""
    return train(join(context=world.size), context=world.size, **options)


def refusals(world: World) -> list[str]:
    """What is said to sequences that cannot be shared."""
    shared, said = join(context=2), []
    parallel = ParallelConfig(precision="fp32", context=2)
    wide = SHAPE.model_copy(update={"num_heads": 1, "axes_dim": (8, 12, 12)})
    runs: list[Callable[[], object]] = [
        lambda: FlowMethod(toy_config(parallel=parallel), toy_pairs(), None, shared).step(0),
        lambda: FlowMethod(toy_config(parallel=parallel, shape=wide), toy_pairs(), None, shared),
        lambda: FlowMethod(toy_config(parallel=parallel), toy_pairs(), None, world),
        lambda: join(context=3),
    ]
    for run in runs:
        try:
            run()
        except RecipeError as error:
            said.append(str(error))
    return said


def from_file(world: World, path: str, base: str = "stored") -> dict[str, Any]:
    """Adapters on given weights: the start, some steps, and how many rows this rank has read."""
    config = toy_config(
        shape=SHAPE.model_copy(
            update={"hidden_size": 256, "axes_dim": (32, 48, 48), "depth": 2,
                    "depth_single_blocks": 4}
        ),
        optimizer="adamw", lora_rank=3, lora_base=base, parallel=ParallelConfig(precision="fp32"),
    )  # fmt: skip
    data, place = toy_pairs(), Path(path)
    inputs = Inputs({}, "", place.parent, place.parent, {START: place})
    model, start = starting_model(config, inputs, data, world)
    read: list[int] = []

    def part(entry: Entry, low: int, high: int) -> torch.Tensor:
        read.append(high - low)
        return entry.rows(low, high)

    def whole() -> torch.Tensor:
        raise AssertionError("read as a whole")

    counted = [replace(entry, read=whole, part=partial(part, entry)) for entry in start]
    method = FlowMethod(config, data, model, world, counted)
    before = {k: full_tensor(v.detach()).clone() for k, v in method.model.state_dict().items()}
    return {"start": before, "history": fit(method), "rows": sum(read)}


def muon_steps(world: World) -> tuple[torch.Tensor, torch.Tensor]:
    """(sharded, plain): a 5 x 8 matrix after three Muon steps from the same gradients."""
    draw = torch.Generator().manual_seed(1)
    start, *grads = torch.randn(4, 5, 8, generator=draw)
    plain = torch.nn.Parameter(start.clone())
    rows = torch.nn.Parameter(distribute_tensor(start.clone(), world.mesh, [Shard(0)]))
    for parameter in (plain, rows):
        muon = MatrixMuon([parameter], lr=0.1, weight_decay=0.01)
        for grad in grads:
            sharded = distribute_tensor(grad.clone(), world.mesh, [Shard(0)])
            parameter.grad = grad.clone() if parameter is plain else sharded
            muon.step()
    return full_tensor(rows.detach()), plain.detach()


def everything(world: World) -> dict[str, Any]:
    """All that needs two ranks, in one process group: starting one costs seconds."""
    found: dict[str, Any] = {name: train(world, name) for name in ("adamw", "muon")}
    found["full"] = train(world, recompute="full")
    found["references"] = train(world, references=REFERENCES)
    found["accumulated"] = train(world, steps=8, changes={"accumulate": 3})
    for mode in ("none", "selective", "full"):
        found[f"sequence {mode}"] = in_sequence(world, steps=8, recompute=mode)
    found["refusals"] = refusals(world)
    found["muon steps"] = muon_steps(world)
    found["rows"] = [list(world.rows(n)) for n in (0, 1, 8, 9)]
    for precision in ("bf16", "fp32"):
        config = toy_config(parallel=ParallelConfig(precision=precision))
        method = FlowMethod(config, toy_pairs(), toy_model(), world)
        with Wire() as wire:
            method.step(0)
        found[f"wire {precision}"] = wire.seen
        found[f"master {precision}"] = {str(p.dtype) for p in method.model.parameters()}
    return found
