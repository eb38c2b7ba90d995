"""Our flow step beside bare loops over published models: equal weights, batches and noise.

    python -m benchmarks.train_step [--compile] [--batch 48] [--peers FOLDER] [--save]

FLUX.1-sized blocks on a GPU of 80 GB: benchmarks/train_stack.py.

Ours is `FlowMethod.step`, all of it: its draws, CFG dropout's bookkeeping, the EMA, the report. A
bare loop only gathers the batch, adds noise, runs forward and backward under bf16 autocast, clips
and steps fused AdamW, around diffusers' FluxTransformer2DModel and, where its package imports,
torchtitan's FluxModel. The steps take turns. All start from the same weights and see the same
samples and noise, so the losses must agree, and that is checked. `--compile` adds every model
compiled block by block, each as its own package does it. torchtitan 0.3.0's models import without
its trainer's dependencies:

    pip install --no-deps --target FOLDER torchtitan==0.3.0 spmd_types==0.2.3 torchdata einops \\
        tyro datasets==4.7.0 dill multiprocess pandas torch_checkpointing tensorboard typeguard \\
        xxhash
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import ratio, save, take_turns
from kontext.data.encoded.pair_tensors import PairTensors, gather
from kontext.models.files.convert import rules_for, to_diffusers, transformer_config
from kontext.models.flux.sequence import pack, sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.precision import autocast
from kontext.parallel.attention import active_kernel
from kontext.parallel.compile import compile_blocks
from kontext.train.flow.timesteps import FLUX_MU, sample_t
from kontext.train.flow.velocity import add_noise
from kontext.train.loop.fit import generator
from kontext.train.methods.flow import FlowMethod
from kontext.train.optim.build import adamw, scale_rates, warmup_cosine
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

GOALS = {"eager": 1.0, "compiled": 1.2}
TOLERANCE = 0.02  # of a loss: products are rounded to bf16 in another order
Forward = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], Tensor]
Steps = Callable[[], float]


def make_data(shape: TransformerShape, args: argparse.Namespace, pairs: int = 512) -> PairTensors:
    """Random latents, texts and edits on the device."""
    draw, images = torch.Generator().manual_seed(0), min(pairs, 256)
    side, channels = 2 * args.side, shape.in_channels // 4

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw).to(args.device)

    return PairTensors(
        latents=noise(images, channels, side, side),
        text_tokens=noise(64, args.text, shape.context_in_dim).half(),
        text_pooled=noise(64, shape.vec_in_dim).half(),
        target=torch.randint(images, (pairs,), generator=draw),
        context=torch.randint(images, (pairs,), generator=draw),
        text=torch.randint(64, (pairs,), generator=draw),
        category=torch.zeros(pairs, dtype=torch.int64),
        categories=("local",),
        empty_text=0,
    )


def config_for(shape: TransformerShape, args: argparse.Namespace) -> FinetuneConfig:
    """Edits only, AdamW, nothing dropped: what a bare loop does."""
    return FinetuneConfig(
        shape=shape,
        t2i_steps=0,
        joint_steps=1000,
        t2i_share=0.0,
        batch=args.batch,
        optimizer="adamw",
        lr=1e-3,
        text_dropout=0.0,
    )


def start(shape: TransformerShape) -> FluxTransformer:
    """The weights that all models start from."""
    torch.manual_seed(0)
    model = FluxTransformer(shape)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1.0 if name.endswith("scale") else 0.0, 0.02)
    return model


def ours(config: FinetuneConfig, data: PairTensors, compiled: bool) -> Steps:
    """`FlowMethod.step`, one after the other."""
    method = FlowMethod(config, data, start(config.shape))
    if compiled:
        compile_blocks(method.model, [data.text_tokens.shape[1] + 2 * data.edit_tokens.target])
    numbers = count()
    return lambda: method.step(next(numbers))["loss"]


def bare(config: FinetuneConfig, data: PairTensors, model: nn.Module, forward: Forward) -> Steps:
    """A plain loop over a model, on the batches and the noise that ours draws."""
    device = data.latents.device
    model.to(device).train()
    optimizer = adamw(model.parameters(), config.lr, config.weight_decay)
    edits = data.edits()
    numbers = count()

    def step() -> float:
        index = next(numbers)
        scale_rates([optimizer], warmup_cosine(index, config.joint_steps, config.warmup))
        draw = generator(config.seed, index, "batch")
        even = torch.ones(len(edits)) / len(edits)
        picks = edits[torch.multinomial(even, config.batch, replacement=True, generator=draw)]
        batch = gather(data, picks)
        assert batch.context is not None
        clean = pack(batch.target)
        eps = torch.randn(clean.shape, generator=generator(config.seed, index, "noise"))
        normal = torch.randn(len(clean), generator=generator(config.seed, index, "time"))
        eps, t = eps.to(device), sample_t(normal.to(device), clean.shape[1], FLUX_MU)
        tokens = torch.cat((add_noise(clean, eps, t), pack(batch.context)), dim=1)
        with autocast(device):
            predicted = forward(model, tokens, batch.tokens, batch.pooled, t)
        loss = (predicted[:, : clean.shape[1]].float() - (eps - clean)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        return float(loss.detach())

    return step


def diffusers_step(config: FinetuneConfig, data: PairTensors, compiled: bool) -> Steps:
    """The bare loop over diffusers' model."""
    from diffusers import FluxTransformer2DModel

    source = start(config.shape)
    settings = {k: v for k, v in transformer_config(config.shape).items() if k[0] != "_"}
    model = FluxTransformer2DModel(**settings)
    model.load_state_dict(to_diffusers(source.state_dict(), rules_for(source)))
    if compiled:
        model.compile_repeated_blocks(fullgraph=True)
    device, grid = data.latents.device, data.grid(data.edits()[:1])
    ids = sequence_ids(grid, [grid], device)
    words = torch.zeros(data.text_tokens.shape[1], 3, device=device)

    def forward(module: nn.Module, x: Tensor, text: Tensor, pooled: Tensor, t: Tensor) -> Tensor:
        out: Tensor = module(
            hidden_states=x,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=t,
            img_ids=ids,
            txt_ids=words,
            return_dict=False,
        )[0]
        return out

    return bare(config, data, model, forward)


def titan_step(config: FinetuneConfig, data: PairTensors, compiled: bool) -> Steps:
    """The bare loop over torchtitan's model, whose names and layout are FLUX's, as ours are."""
    model = _titan(config.shape)
    weights = start(config.shape).state_dict()
    model.load_state_dict({_titan_name(name): value for name, value in weights.items()})
    if compiled:
        for block in (*model.double_blocks, *model.single_blocks):
            block.compile(fullgraph=True)
    grid = data.grid(data.edits()[:1])
    ids = sequence_ids(grid, [grid], data.latents.device)
    words = torch.zeros(data.text_tokens.shape[1], 3, device=data.latents.device)

    def forward(module: nn.Module, x: Tensor, text: Tensor, pooled: Tensor, t: Tensor) -> Tensor:
        out: Tensor = module(
            img=x,
            img_ids=ids.expand(len(x), -1, -1),
            txt=text,
            txt_ids=words.expand(len(x), -1, -1),
            timesteps=t,
            y=pooled,
        )
        return out

    return bare(config, data, model, forward)


def _titan(shape: TransformerShape) -> Any:
    """torchtitan's FluxModel at `shape`, made from its own FLUX.1-dev configuration."""
    from torchtitan.models import flux

    hidden = shape.hidden_size
    config = flux._flux_dev()
    double = flux._make_double_block_config(hidden, shape.num_heads, shape.mlp_ratio, True)
    single = flux._make_single_block_config(hidden, shape.num_heads, shape.mlp_ratio)
    for name in ("hidden_size", "num_heads", "mlp_ratio", "in_channels", "vec_in_dim", "theta"):
        setattr(config, name, getattr(shape, name))
    config.context_in_dim, config.axes_dim = shape.context_in_dim, shape.axes_dim
    config.out_channels = shape.in_channels
    config.depth, config.depth_single_blocks = shape.depth, shape.depth_single_blocks
    config.double_blocks = [double] * shape.depth
    config.single_blocks = [single] * shape.depth_single_blocks
    config.pe_config.dim = hidden // shape.num_heads
    config.pe_config.axes_dim = shape.axes_dim
    for part, width in (
        (config.img_in, shape.in_channels),
        (config.txt_in, shape.context_in_dim),
        (config.time_in_config.in_layer, 256),
        (config.time_in_config.out_layer, hidden),
        (config.vector_in_config.in_layer, shape.vec_in_dim),
        (config.vector_in_config.out_layer, hidden),
    ):
        part.in_features, part.out_features = width, hidden
    config.time_in_config.hidden_dim = config.vector_in_config.hidden_dim = hidden
    config.vector_in_config.in_dim = shape.vec_in_dim
    last = config.final_layer_config
    last.hidden_size = last.linear.in_features = last.adaln_linear.in_features = hidden
    last.out_channels = last.linear.out_features = shape.in_channels
    last.adaln_linear.out_features = 2 * hidden
    return config.build()


def _titan_name(name: str) -> str:
    """FLUX's norm weights are called `scale`, torchtitan's `weight`."""
    return name.removesuffix("scale") + "weight" if name.endswith("_norm.scale") else name


def titan_imports() -> str:
    """Why torchtitan's FLUX cannot be measured here; empty where it can."""
    try:
        import torchtitan.models.flux  # noqa: F401
    except ImportError as error:
        return f"torchtitan's FLUX does not import here ({error})"
    return ""


def contenders(config: FinetuneConfig, data: PairTensors, args: argparse.Namespace) -> Any:
    """Name -> step; eager ones, then compiled ones where asked for."""
    makers: dict[str, Any] = {"kontext": ours, "diffusers": diffusers_step}
    why = titan_imports()
    if why:
        print(f"{why}: compared with diffusers alone")
    else:
        makers["torchtitan"] = titan_step
    modes = ("eager", "compiled") if args.compile else ("eager",)
    return {
        f"{name} {mode}": make(config, data, mode == "compiled")
        for mode in modes
        for name, make in makers.items()
    }


def check_losses(steps: dict[str, Steps], rounds: int = 3) -> dict[str, list[float]]:
    """The first losses of every contender.

    Raises:
        AssertionError: they do not agree, so these are not the same steps.
    """
    losses = {name: [step() for _ in range(rounds)] for name, step in steps.items()}
    for name, found in losses.items():
        for mine, wanted in zip(found, losses["diffusers eager"], strict=True):
            assert abs(mine - wanted) <= TOLERANCE * wanted, f"{name}: {mine}, not {wanted}"
    return losses


def verdicts(times: dict[str, list[float]]) -> dict[str, float]:
    """Ratios of ours to each peer's loop, told against the goals."""
    found: dict[str, float] = {}
    for mode, goal in GOALS.items():
        mine = f"kontext {mode}"
        for peer in times:
            if mine not in times or peer.startswith("kontext"):
                continue
            if mode == "eager" and peer.endswith("compiled"):
                continue
            found[f"{mine} / {peer}"] = value = ratio(times, mine, peer)
            # the goal of the compiled step is against the loop as it stands, uncompiled
            aim = goal if peer.endswith("eager") else 1.0
            word = "reached" if value >= aim else "NOT reached"
            print(f"{mine} is {value:.2f} x {peer} (goal {aim} x, {word})")
    return found


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--side", type=int, default=4, help="tokens along one image side")
    parser.add_argument("--text", type=int, default=20, help="text tokens")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peers", default="", help="folder of pip install --target")
    parser.add_argument("--save", action="store_true", help="write results/*.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, shape: TransformerShape | None = None) -> None:
    """Measure, print a table and verdicts, and write JSON where asked."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peers:
        sys.path.append(args.peers)
    shape, device = shape or FinetuneConfig().shape, torch.device(args.device)
    data = make_data(shape, args)
    steps = contenders(config_for(shape, args), data, args)
    losses = check_losses(steps)
    times = take_turns(steps, device, args.repeats)
    tokens = args.batch * (args.text + 2 * args.side**2)
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name:20s} {median * 1e3:9.1f} ms  {tokens / median:10,.0f} tokens/s")
    ratios = verdicts(times)
    print(f"the first losses agree within {TOLERANCE:.0%}; attention: {active_kernel(device)}")
    if args.save:
        record = {
            "shape": shape.model_dump(mode="json"),
            "arguments": vars(args),
            "attention": active_kernel(device),
            "seconds": times,
            "tokens_per_step": tokens,
            "ratios": ratios,
            "first_losses": losses,
        }
        save("train_step", device, record)


if __name__ == "__main__":
    main()
