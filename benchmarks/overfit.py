"""Overfit gates: eight pairs learned by heart, by the flow and by the LADD student of that teacher.

    python -m benchmarks.overfit [--short] [--shapes] [--flow-steps 600] [--ladd-steps 400] [--save]

Eight edits of drawn images (16 x 16 RGB): recolour, move, add, remove. A lossless pixel unshuffle
(12 channels of 8 x 8) stands in for the autoencoder, so every PSNR here is that of images in
[-1, 1] against the true target, with no codec between. The flow trains by `FlowMethod`, is drawn
in 20 steps, and must reach 35 dB; its guided edits teach `LaddMethod`, all gates of
`kontext.train.ladd.gates` on, and the student, drawn in 4 steps, must reach 28 dB. Noise at drawing
was never seen in training.

A flow that knows one target per condition by heart is a bundle of straight lines: it is as good in
4 steps as in 20, and a student that never learned would pass. So after the gates the student's
weights are knocked with noise until it is far below the mark; what it has at the end is LADD's
doing. Exits 1 where a figure is missed. `--short` takes smaller networks, fewer steps,
and marks to match. With `--shapes` the pairs have four shapes, two of each, and the flow must
reproduce each of them at 30 dB, after 1,100 steps.
"""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import save
from kontext.data.encoded.pair_tensors import PairTensors
from kontext.data.encoded.rows import MappedRows, Rows
from kontext.edit.pairs import EditSampler
from kontext.errors import WiringError
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.ladd.gates import check_training, run_gates, stop_at_failure
from kontext.train.loop.fit import fit
from kontext.train.loop.state import Ema
from kontext.train.methods.flow import FlowMethod
from kontext.train.methods.ladd import LaddMethod
from schemas.sections.models import TransformerShape
from schemas.sections.training import DistillConfig, FinetuneConfig, ParallelConfig
from schemas.tables import RELATION_CLASSES

SIDE, PAIRS = 16, 8
SHAPES = ((16, 16), (16, 24), (24, 16), (16, 32))  # rows and columns of images of several shapes
EACH_DB = 30.0  # of every pair, where they have those
SHAPED_STEPS = 1100  # of the flow then: a step sees one shape
KNOCK = 0.3
RECOVERS = 3.0  # dB above the knocked student, at least
ANCHOR = 5.0  # of the distance to the teacher's edit, beside the adversarial loss
NOISE_SEED = 1000  # no training step draws from it
_STEPS = ("flow_steps", "ladd_steps")


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the networks are, and how long they train."""

    hidden: int = 96
    doubles: int = 1
    singles: int = 2
    flow_steps: int = 600
    ladd_steps: int = 400
    batch: int = 32
    ladd_batch: int = 16
    lr_student: float = 3e-4
    ema_decay: float = 0.99
    flow_db: float = 35.0  # the marks
    student_db: float = 28.0


SHORT = Size(
    singles=1,
    flow_steps=200,
    ladd_steps=50,
    batch=24,
    ladd_batch=12,
    lr_student=1e-3,
    ema_decay=0.9,
    flow_db=21.0,
    student_db=18.0,
)


def drawn_pairs(shapes: Sequence[tuple[int, int]] = ((SIDE, SIDE),)) -> PairTensors:
    """Eight edits [context -> target]: squares and bars recoloured, moved, added, removed.

    Args:
        shapes: that they have by turns, two after one another: rows and columns in pixels.
    """
    sizes = [shapes[i % PAIRS // 2 % len(shapes)] for i in range(2 * PAIRS)]
    images = [torch.full((3, *size), 0.8) for size in sizes]
    colours = torch.tensor(
        [[0.9, -0.8, -0.8], [-0.8, 0.7, -0.6], [-0.7, -0.5, 0.9], [0.9, 0.6, -0.9]]
    )
    for i in range(PAIRS):
        target, context = images[i], images[PAIRS + i]
        x, y, first, second = 2 + i % 4, 1 + i // 2, colours[i % 4], colours[(i + 1) % 4]
        context[:, y : y + 6, x : x + 6] = first[:, None, None]
        match i % 4:
            case 0:  # recolour
                target[:, y : y + 6, x : x + 6] = second[:, None, None]
            case 1:  # move
                target[:, y + 4 : y + 10, x + 3 : x + 9] = first[:, None, None]
            case 2:  # add a bar
                target[:] = context
                target[:, 12:15, 2:14] = second[:, None, None]
            case 3:  # remove, and shade what is behind
                target -= torch.linspace(0, 0.8, target.shape[1])[None, :, None]
    draw = torch.Generator().manual_seed(5)
    texts = torch.randn(PAIRS + 1, 4, 32, generator=draw)
    return PairTensors(
        latents=_rows([F.pixel_unshuffle(image, 2) for image in images]),
        text_tokens=texts,
        text_pooled=texts.mean(dim=1) * 2,
        target=torch.arange(PAIRS),
        context=torch.arange(PAIRS, 2 * PAIRS),
        text=torch.arange(1, PAIRS + 1),
        category=torch.tensor([i % 4 for i in range(PAIRS)]),
        categories=RELATION_CLASSES,
        empty_text=0,
    )


def _rows(latents: Sequence[Tensor]) -> Rows:
    """Latents [C, h, w] as rows of one shape, or of several."""
    if len({each.shape for each in latents}) == 1:
        return torch.stack(list(latents))
    return MappedRows([each[None] for each in latents])


def drawn(sampler: EditSampler, model: FluxTransformer) -> list[Tensor]:
    """The model's edit [C, h, w] of every pair."""
    edits, found = sampler.data.edits(), dict[int, Tensor]()
    for rows in sampler.data.by_shape(edits):
        found |= zip(rows.tolist(), sampler.edits(model, edits[rows]), strict=True)
    return [found[row] for row in range(len(edits))]


def psnr(latents: Sequence[Tensor], data: PairTensors) -> Tensor:
    """dB per pair [PAIRS] of drawn images against the true targets; the range is 2."""
    errors = []
    for row, each in enumerate(latents):
        made = F.pixel_shuffle(each, 2).clamp(-1, 1)
        wanted = F.pixel_shuffle(data.latents[data.target[row : row + 1]][0], 2)
        errors.append((made - wanted).square().mean().clamp(min=1e-12))
    return 10 * torch.log10(4.0 / torch.stack(errors))


def mean_db(latents: Sequence[Tensor], data: PairTensors) -> float:
    """PSNR of the mean squared error over all pairs: no better than the worst deserve."""
    return mean_of(psnr(latents, data))


def mean_of(decibels: Tensor) -> float:
    """PSNR of the mean squared error over pairs that have so many dB each."""
    errors = 4.0 / 10 ** (decibels / 10)
    return 10 * math.log10(4.0 / float(errors.mean()))


def flow_config(size: Size, seed: int) -> FinetuneConfig:
    """Edits only, and some without their text, so that the teacher can be guided."""
    return FinetuneConfig(
        shape=TransformerShape(
            in_channels=48,
            vec_in_dim=32,
            context_in_dim=32,
            hidden_size=size.hidden,
            num_heads=4,
            depth=size.doubles,
            depth_single_blocks=size.singles,
            axes_dim=(size.hidden // 8, size.hidden // 16, size.hidden // 16),
            guidance_embed=False,
        ),
        t2i_steps=0,
        joint_steps=size.flow_steps,
        t2i_share=0.0,
        batch=size.batch,
        lr=5e-3,
        warmup=20,
        weight_decay=0.0,
        text_dropout=0.05,
        ema_decay=0.98,
        parallel=ParallelConfig(precision="fp32"),
        seed=seed,
    )


def train_flow(size: Size, data: PairTensors, seed: int = 0) -> tuple[FluxTransformer, Tensor]:
    """The flow by heart, and its edits' dB [PAIRS] in 20 steps."""
    method = FlowMethod(flow_config(size, seed), data)
    fit(method)
    method.state.ema["model"].copy_to(method.model)
    model = method.model.requires_grad_(False).eval()
    return model, psnr(drawn(EditSampler(data, 20, 1.0, NOISE_SEED), model), data)


def knock(method: LaddMethod, seed: int) -> None:
    """Noise of KNOCK times a matrix's own spread onto every matrix of the student."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.student.parameters():
            if parameter.ndim == 2:
                size = KNOCK * parameter.std()
                parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    method.state.ema["student"] = Ema(method.student, method.config.ema_decay)


def train_student(
    size: Size, data: PairTensors, teacher: FluxTransformer, seed: int = 0, **changes: object
) -> tuple[dict[str, float], list[str]]:
    """The student's figures by LADD, gates on: dB in 1, 2 and 4 steps; what the heads did."""
    values = {
        "teacher_edits": 8,
        "teacher_steps": 20,
        "guidance": 1.5,
        "steps": size.ladd_steps,
        "warmup_steps": size.ladd_steps // 10,
        "batch": size.ladd_batch,
        "lr_student": size.lr_student,
        "lr_heads": 1e-3,
        "ema_decay": size.ema_decay,
        "anchor_weight": ANCHOR,
        "seed": seed,
    }
    config = DistillConfig.model_validate({**values, **changes})
    sampler = EditSampler(data, config.teacher_steps, config.guidance, config.seed)
    edits = data.edits()
    real = drawn(sampler, teacher)
    method = LaddMethod(config, data, edits, _rows(real), teacher)
    findings = run_gates(method, sampler)
    stop_at_failure(findings)
    draws = EditSampler(data, config.student_steps, 1.0, NOISE_SEED)
    start = mean_db(drawn(draws, method.student), data)
    knock(method, seed)
    before = mean_db(drawn(draws, method.student), data)
    history = fit(method)
    check_training(history)
    method.state.ema["student"].copy_to(method.student)
    student = method.student.requires_grad_(False).eval()
    recent = history[-20:]
    figures = {
        "teacher_edits_db": mean_db(real, data),
        "teacher_4_steps_db": start,
        "knocked_student_db": before,
        "student_4_steps_db": mean_db(drawn(draws, student), data),
        "heads_accuracy": sum(row["accuracy"] for row in recent) / len(recent),
    }
    return figures, [f"{finding.gate}: {finding.seen}" for finding in findings]


def main(argv: list[str] | None = None) -> int:
    """Train both, print the figures, and say whether they are reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help="a smaller run, with marks to match")
    parser.add_argument("--shapes", action="store_true", help="pairs of four shapes")
    parser.add_argument("--flow-steps", type=int, help=f"{Size.flow_steps}")
    parser.add_argument("--ladd-steps", type=int, help=f"{Size.ladd_steps}")
    parser.add_argument("--anchor", type=float, default=ANCHOR, help="distill.anchor_weight")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write results/overfit-cpu.json")
    args = parser.parse_args(argv)
    size = SHORT if args.short else Size()
    data = drawn_pairs(SHAPES) if args.shapes else drawn_pairs()
    if args.shapes and not args.short:
        size = dataclasses.replace(size, flow_steps=SHAPED_STEPS)
    steps = {name: getattr(args, name) or getattr(size, name) for name in _STEPS}
    size = dataclasses.replace(size, **steps)
    began = time.monotonic()
    teacher, each_db = train_flow(size, data, args.seed)
    flow_db, worst_db = mean_of(each_db), float(each_db.min())
    print(f"flow, by pair     {', '.join(f'{value:.1f}' for value in each_db.tolist())} dB")
    print(f"flow, 20 steps    {flow_db:6.2f} dB  {_gate(size.flow_db, began)}")
    began = time.monotonic()
    try:
        figures, gates = train_student(size, data, teacher, args.seed, anchor_weight=args.anchor)
    except WiringError as error:  # a flow that learned nothing is no teacher
        print(f"{error}\noverfit gates MISSED")
        return 1
    print("\n".join(f"  gate {line}" for line in gates))
    for name, value in figures.items():
        print(f"{name:20s} {value:6.2f}")
    student_db, knocked_db = figures["student_4_steps_db"], figures["knocked_student_db"]
    print(f"student, 4 steps  {student_db:6.2f} dB  {_gate(size.student_db, began)}")
    each = args.short or not args.shapes or worst_db >= EACH_DB
    passed = (
        each
        and flow_db >= size.flow_db
        and student_db >= max(size.student_db, knocked_db + RECOVERS)
    )
    print("overfit gates passed" if passed else "overfit gates MISSED")
    if args.save:
        shown = {"flow_20_steps_db": flow_db, "worst_pair_db": worst_db, **figures}
        record = {**shown, "gates": gates, "arguments": vars(args)}
        save("overfit-shapes" if args.shapes else "overfit", torch.device("cpu"), record)
    return 0 if passed else 1


def _gate(mark: float, began: float) -> str:
    return f"(gate {mark:g})  {time.monotonic() - began:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
