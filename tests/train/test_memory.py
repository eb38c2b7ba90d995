"""What a training holds and saves, counted in bytes of tensors."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, UntypedStorage
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter

from kontext.data.encoded.pair_tensors import PairTensors
from kontext.models.files.convert import rules_for, to_diffusers
from kontext.models.files.weights import bfl_entries, in_stored_dtypes
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraLinear, adapters, quantized_layers
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import fit
from kontext.train.loop.state import let_go
from kontext.train.methods.flow import FlowMethod
from kontext.train.methods.guidance import GuidanceMethod
from kontext.train.start.model import START, starting_model
from schemas.sections.training import FinetuneConfig
from tests.parallel.rank_processes import run_ranks
from tests.parallel.rank_work import from_file
from tests.train.toy import SHAPE, toy_config, toy_pairs

WIDE = SHAPE.model_copy(
    update={"hidden_size": 256, "axes_dim": (32, 48, 48), "depth": 2, "depth_single_blocks": 4}
)
Made = TypeVar("Made")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide model in bf16, in diffusers' layout."""
    torch.manual_seed(3)
    model = FluxTransformer(WIDE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.03)
    path = tmp_path_factory.mktemp("stored") / "model.safetensors"
    save_file(to_diffusers(model.to(torch.bfloat16).state_dict(), rules_for(model)), path)
    return path


def wide_config(lora_rank: int = 4, **changes: object) -> FinetuneConfig:
    values = {"shape": WIDE, "optimizer": "adamw", "lora_rank": lora_rank}
    return toy_config(**{**values, **changes})


def given(path: Path) -> Inputs:
    return Inputs({}, "", path.parent, path.parent, {START: path})


def built(config: FinetuneConfig, path: Path, data: PairTensors, world: World) -> FlowMethod:
    model, start = starting_model(config, given(path), data, world)
    return FlowMethod(config, data, model, world, start)


class Memory:
    """Bytes of the tensors that came into this process's memory since this was made.

    What other tests hold does not count, nor what they free meanwhile: weak references to it keep
    its identity from being used again.
    """

    def __init__(self) -> None:
        self._others = {each._cdata: StorageWeakRef(each) for each in storages()}

    def bytes(self) -> int:
        """Of each storage once, however many tensors share it."""
        own = {each._cdata: each.nbytes() for each in storages()}
        return sum(size for identity, size in own.items() if identity not in self._others)


def storages() -> list[UntypedStorage]:
    """Of all tensors in the CPU's memory.

    Types are exact: what a DTensor wraps is a plain tensor, and fake tensors hold nothing.
    """
    gc.collect()
    found = [o for o in gc.get_objects() if type(o) in (Tensor, Parameter)]
    held = [o for o in found if o.device.type == "cpu" and not torch._is_functional_tensor(o)]
    return [tensor.untyped_storage() for tensor in held]


def grown(make: Callable[[], Made]) -> tuple[Made, int]:
    """What was made, and how many bytes of tensors came with it and stayed."""
    memory = Memory()
    return make(), memory.bytes()


def count(method: FlowMethod) -> int:
    return sum(p.numel() for p in method.model.parameters())


def mapped(path: Path) -> object:
    with safe_open(path, framework="pt") as file:
        return [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118


@pytest.mark.parametrize(
    "hold",
    [
        lambda _: [torch.zeros(10**6)],
        lambda _: torch.nn.Linear(1000, 1000),
        lambda _: torch.zeros(10**6)[:1],
        lambda _: torch.zeros(10**6).numpy(),
        mapped,
    ],
)
def test_the_count_sees_weights_however_they_are_held(
    hold: Callable[[Path], object], stored: Path
) -> None:
    others = [torch.zeros(2 * 10**6)]

    def make() -> object:
        others.clear()  # what another test lets go of is not set off against it
        return hold(stored)

    made, size = grown(make)
    assert size >= 4 * 10**6
    memory = Memory()
    del made
    assert memory.bytes() == 0


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_process_that_launches_ranks_holds_no_weights(stored: Path, lora_rank: int) -> None:
    config, data = wide_config(lora_rank), toy_pairs()
    method, size = grown(lambda: built(config, stored, data, World(launches=True)))
    assert size < count(method) > 5e6
    wanted = {torch.float32} if not lora_rank else {torch.float32, torch.bfloat16}
    assert {p.dtype for p in method.model.parameters()} == wanted
    assert bool(adapters(method.model)) == bool(lora_rank)
    fresh, size = grown(lambda: _fresh(wide_config(0), data))
    assert size < count(fresh)


def test_a_process_lets_go_of_the_weights_that_it_began_with(stored: Path, tmp_path: Path) -> None:
    """As stages do whose methods start in their own process, once their ranks can begin."""
    memory = Memory()
    method = built(wide_config(0, optimizer="muon"), stored, toy_pairs(), World())
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(method.state)
    checkpoints.wait()
    shapes = {name: tensor.shape for name, tensor in method.model.state_dict().items()}
    start = {name: tensor.clone() for name, tensor in method.model.state_dict().items()}
    assert memory.bytes() >= 12 * count(method)  # weights, averages, and the copy in `start`
    let_go(method.state)
    assert memory.bytes() < 5 * count(method)
    assert {name: tensor.shape for name, tensor in method.model.state_dict().items()} == shapes
    checkpoints.receive(method.state, torch.device("cpu"))
    method.state.ema["model"].copy_to(method.model)
    for name, tensor in method.model.state_dict().items():
        assert torch.equal(tensor, start[name]), name


def test_nothing_is_held_for_guidance_either(stored: Path) -> None:
    config, data = wide_config(0, guidance_distill={"steps": 1}), toy_pairs()
    with torch.device("meta"):
        teacher = FluxTransformer(WIDE)
    entries = bfl_entries(stored, teacher)
    world = World(launches=True)
    method, size = grown(lambda: GuidanceMethod(config, data, teacher, world, entries))
    assert size < sum(p.numel() for p in method.student.parameters())
    with torch.device("meta"):
        teacher = in_stored_dtypes(FluxTransformer(WIDE), entries)
    method = GuidanceMethod(config, data, teacher, World(), entries)
    assert {p.dtype for p in method.teacher.parameters()} == {torch.bfloat16}
    held_by = method.teacher.state_dict()
    for name, tensor in method.student.state_dict().items():
        assert tensor.dtype == torch.float32
        assert name not in held_by or torch.equal(tensor, held_by[name].float()), name
    assert method.student.guidance_in is not None
    assert not method.student.guidance_in.out_layer.weight.any()
    assert method.student.guidance_in.in_layer.weight.any()


def _fresh(config: FinetuneConfig, data: PairTensors) -> FlowMethod:
    world = World(launches=True)
    inputs = replace(given(Path("none")), files={})
    return FlowMethod(config, data, *starting_model(config, inputs, data, world)[:1], world)


def test_adapters_cost_three_bytes_a_parameter_and_their_checkpoints_theirs(
    stored: Path, tmp_path: Path
) -> None:
    config, data = wide_config(batch=2), toy_pairs()

    def trained() -> FlowMethod:
        method = built(config, stored, data, World())
        fit(method, checkpoints=Checkpoints(tmp_path))
        return method

    method, size = grown(trained)
    trainable = sum(p.numel() for p in method.model.parameters() if p.requires_grad)
    assert size < 3 * count(method)
    files = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 16 * trainable <= files <= 32 * trainable


@pytest.mark.parametrize("base", ["stored", "nf4"])
def test_adapters_go_on_from_a_checkpoint_bit_for_bit(
    stored: Path, tmp_path: Path, base: str
) -> None:
    config, data = wide_config(batch=2, checkpoint_every=2, lora_base=base), toy_pairs()
    whole = built(config, stored, data, World())
    fit(whole)

    class Died(Exception):
        pass

    def progress(done: int, *_: object) -> None:
        if done == 3:
            raise Died

    checkpoints = Checkpoints(tmp_path, every=2)
    with pytest.raises(Died):
        fit(built(config, stored, data, World()), checkpoints=checkpoints, progress=progress)
    again = built(config, stored, data, World())
    assert fit(again, checkpoints=checkpoints) == whole.state.history
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    # and what launched ranks takes over averages and record alone
    launched = built(config, stored, data, World(launches=True))
    _, size = grown(lambda: checkpoints.receive(launched.state, torch.device("cpu")))
    assert launched.state.history == whole.state.history
    whole.state.ema["model"].copy_to(whole.model)
    launched.state.ema["model"].copy_to(launched.model)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(launched.model.state_dict()[name], tensor), name
    assert size < 3 * count(launched)


@pytest.mark.parametrize(("base", "most"), [("int8", 1.01), ("fp8", 1.01), ("nf4", 0.53)])
def test_a_quantised_base_takes_its_bytes_and_none_for_the_backward_pass(
    stored: Path, tmp_path: Path, base: str, most: float
) -> None:
    """`most` bytes for every weight of the linear layers; the others are bf16, as they were.

    Of an adapter there are its start, the weights and the average.
    """
    data = toy_pairs(edits=1, singles=0)
    method, size = grown(lambda: built(wide_config(lora_base=base), stored, data, World()))
    trained = sum(p.numel() for p in method.model.parameters() if p.requires_grad)
    quantised = quantized_layers(method.model)
    weights = sum(m.in_features * m.out_features for m in quantised)
    with torch.device("meta"):
        others = sum(p.numel() for p in FluxTransformer(WIDE).parameters()) - weights
    assert len(quantised) == 8 * WIDE.depth + 2 * WIDE.depth_single_blocks
    assert size < most * weights + 2 * others + 13 * trained
    kept: set[torch.Size] = set()

    def pack(tensor: Tensor) -> Tensor:
        kept.add(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        method.step(0)
    shapes = {torch.Size((m.out_features, m.in_features)) for m in quantised}
    assert not shapes & kept and not {shape[::-1] for shape in shapes} & kept


def test_two_ranks_with_a_quantised_base_take_the_steps_of_one(stored: Path) -> None:
    """Each holds it whole; of the adapters' gradients they have the sum."""
    alone = from_file(World(), str(stored), "nf4")
    for found in run_ranks(from_file, 2, str(stored), "nf4"):
        for name, tensor in alone["start"].items():
            assert torch.equal(found["start"][name], tensor), name
        for row, other in zip(alone["history"], found["history"], strict=True):
            assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)


def test_given_weights_are_held_as_they_are_stored(stored: Path, tmp_path: Path) -> None:
    """Adapters on bf16 are on bf16; where the recipe wants float32 products, on float32."""
    data = toy_pairs()
    method = built(wide_config(), stored, data, World())
    assert {p.dtype for p in method.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert method.products == torch.bfloat16
    exact = built(wide_config(parallel={"precision": "fp32"}), stored, data, World())
    assert {p.dtype for p in exact.model.parameters()} == {torch.float32}
    small = tmp_path / "float8.safetensors"
    state = {k: v.to(torch.float8_e4m3fn) for k, v in exact.model.state_dict().items()
             if "lora" not in k}  # fmt: skip
    save_file(state, small)
    method = built(wide_config(), small, data, World())
    assert {p.dtype for p in method.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    layer = method.model.get_submodule("double_blocks.0.img_attn.qkv")
    assert isinstance(layer, LoraLinear) and layer.weight.abs().max() > 0


def test_ranks_read_their_own_rows_of_given_weights(stored: Path) -> None:
    alone = from_file(World(), str(stored))
    ranks = run_ranks(from_file, 2, str(stored))
    for found in ranks:
        for name, tensor in alone["start"].items():
            assert torch.equal(found["start"][name], tensor), name
        for row, other in zip(alone["history"], found["history"], strict=True):
            assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)
    assert alone["rows"] == sum(found["rows"] for found in ranks)
    assert max(found["rows"] for found in ranks) < 0.51 * alone["rows"]
