"""Gates on what LADD is fed: the student's input and estimate, the teacher's edits, the sampler."""

from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kontext.data.encoded.pair_tensors import Batch, gather, tokens_of
from kontext.data.encoded.rows import spread
from kontext.errors import WiringError
from kontext.models.flux.sequence import pack, unpack
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.timesteps import schedule
from kontext.train.ladd.judged import JudgedMethod

ROWS = 8  # samples that a gate looks at
_EDITS = 4  # teacher edits that are made again
_SAME = 0.05  # relative distance below which samples are the same but for rounding
_DRAWS = 32  # batches looked through for a level below pure noise
_SPREAD = (0.5, 2.0)  # of the edits against real latents


class Sampler(Protocol):
    """The sampler that made the edits and will draw the student (`kontext.edit.pairs`)."""

    @property
    def guidance(self) -> float:
        """Of the teacher's edits."""

    def times(self, model: FluxTransformer, tokens: int) -> Tensor:
        """The grid of the teacher's edits of so many tokens."""

    def start(self, pairs: Tensor) -> Tensor:
        """The noise that the edits of `pairs` start from."""

    def draw(
        self, model: FluxTransformer, start: Tensor, batch: Batch, times: Tensor, guidance: float
    ) -> Tensor:
        """Latents after integrating the flow from `start` along `times`."""


def first_samples(method: JudgedMethod) -> tuple[Batch, Tensor, Tensor]:
    """The first rows of the first step: batch, noised edits, levels."""
    batch, noisy, t = method.student_input(0)
    rows = torch.arange(min(ROWS, len(t)), device=noisy.device)
    return batch.select(rows), noisy[rows], t[rows]


def _student_grid(method: JudgedMethod, tokens: int) -> Tensor:
    return schedule(method.config.student_steps, tokens, method.student.shape.timestep_shift)


def _alike(method: JudgedMethod) -> Tensor:
    """Rows of the edits of the shape that most of them have."""
    return max(method.data.by_shape(method.edits), key=len)


def student_input(method: JudgedMethod, _: Sampler) -> str:
    """The student is fed (1 - t) of an edit and t of noise, at the sampler's own levels."""
    product, power, strange = 0.0, 0.0, 0
    for index in range(_DRAWS):
        batch, noisy, t = method.student_input(index)
        grid = _student_grid(method, noisy.shape[1])[:-1]
        if not torch.allclose(method.levels(noisy.shape[1]).cpu(), grid):
            raise WiringError("input", "the student's levels are not those of the sampler's grid")
        kept = (1 - t).view(-1, 1, 1) * pack(batch.target)
        product += float(((noisy - kept) * kept).sum())
        power += float(kept.square().sum())
        strange += int(((t.cpu()[:, None] - grid).abs().min(dim=1).values > 1e-6).sum())
        if power and index >= 3:
            break
    if strange:
        raise WiringError("input", f"{strange} samples are at levels the sampler never visits")
    if len(grid) == 1:
        return "a one-step student is fed noise alone"
    if not power:
        raise WiringError("input", f"no level below pure noise in {_DRAWS} batches")
    share = 1 + product / power
    if not 0.6 < share < 1.4:
        raise WiringError(
            "input",
            f"the student's input holds {share:.2f} times the share of the edit that its level "
            "says (0 is pure noise at every level)",
        )
    return f"the input holds {share:.2f} times the share of the edit that its level says"


def first_estimate(method: JudgedMethod, sampler: Sampler) -> str:
    """The student's first clean estimate is the teacher's, by one step of the sampler to t = 0."""
    batch, noisy, t = first_samples(method)

    def one_step(model: FluxTransformer) -> Tensor:
        out = torch.empty_like(noisy)
        for level in t.unique():  # type: ignore[no-untyped-call]
            rows = torch.nonzero(t == level).flatten()
            times = torch.stack((level, torch.zeros_like(level))).cpu()
            start = unpack(noisy[rows], *batch.grid)
            out[rows] = pack(sampler.draw(model, start, batch.select(rows), times, 1.0))
        return out

    with torch.no_grad():
        found = method.denoised(batch, noisy, t)
    if (off := _distance(found, one_step(method.teacher))) < _SAME:
        return f"x_t - t v of the student is the teacher's single step but for {off:.1e}"
    if _distance(found, one_step(method.student)) < _SAME:
        raise WiringError(
            "estimate", f"the student does not start as the teacher: estimates are {off:.0%} apart"
        )
    raise WiringError(
        "estimate",
        f"the student's clean estimate is not x_t - t v: {off:.0%} away from the sampler's step",
    )


def teacher_edits(method: JudgedMethod, sampler: Sampler) -> str:
    """Some stored edits, made again: they must be this teacher's, guided, and run to the end."""
    alike = _alike(method)
    rows = alike[torch.linspace(0, len(alike) - 1, min(_EDITS, len(alike))).round().long()]
    pairs, stored = method.edits[rows], method.real[rows]
    start, batch = sampler.start(pairs), gather(method.data, pairs)

    def made(times: Tensor, guidance: float) -> Tensor:
        return sampler.draw(method.teacher, start, batch, times, guidance)

    times = sampler.times(method.teacher, tokens_of(batch.grid))
    guided = made(times, sampler.guidance)
    plain = made(times, 1.0)
    off = _distance(stored, guided)
    if off >= _SAME:
        if _distance(stored, plain) < _SAME:
            raise WiringError("edits", "the teacher's edits were made without guidance")
        if _distance(stored, made(times[:-1], sampler.guidance)) < _SAME:
            raise WiringError("edits", "the teacher's edits stop a step short, with noise left")
        both = torch.stack((stored.float().flatten(), guided.float().flatten()))
        correlation = float(torch.corrcoef(both)[0, 1])
        what = "noise, or of another model" if correlation < 0.5 else "not as the recipe says"
        raise WiringError(
            "edits",
            f"the real samples are {what}: {off:.0%} away from the teacher's own edits of the "
            f"same pairs, correlation {correlation:.2f}",
        )
    ratio = float(spread(method.real) / spread(method.data.latents))
    if not _SPREAD[0] < ratio < _SPREAD[1]:
        raise WiringError("edits", f"the edits have {ratio:.2f} times the spread of real latents")
    return (
        f"{len(rows)} edits made again are {off:.1e} off; guidance moves them by "
        f"{_distance(guided, plain):.0%}; spread {ratio:.2f} of real latents"
    )


class StraightLines(nn.Module):
    """Stands in for a transformer whose flow is known: straight to `clean`, or to `empty`.

    Which of the two depends on whether a row's text is the encoded empty prompt, so a sampler that
    guides by w must arrive at empty + w (clean - empty), from any noise and in any number of steps.
    """

    def __init__(self, like: FluxTransformer, clean: Tensor, empty: Tensor, null: Tensor) -> None:
        super().__init__()
        self.shape = like.shape.model_copy(update={"cached_context": False})
        self.img_in = SimpleNamespace(weight=clean)  # where a sampler reads dtype and device
        self.clean, self.empty, self.null = clean, empty, null

    def forward(
        self, tokens: Tensor, ids: Tensor, text: Tensor, pooled: Tensor, t: Tensor, **rest: Any
    ) -> Tensor:
        """(x_t - x_0) / t for the target's tokens."""
        x = tokens[:, : rest["target_length"]]
        goal = self.clean.repeat(len(x) // len(self.clean), 1, 1)
        unconditional = (pooled == self.null.to(pooled)).all(dim=1).view(-1, 1, 1)
        goal = torch.where(unconditional, self.empty.repeat(len(x) // len(self.empty), 1, 1), goal)
        return (x - goal) / t.view(-1, 1, 1)


def sampler_arrives(method: JudgedMethod, sampler: Sampler) -> str:
    """On a flow of straight lines the sampler arrives where guidance says, and no noise is left."""
    data, rows = method.data, method.edits[_alike(method)[:2]]
    batch = gather(data, rows)
    clean = pack(batch.target)
    _, null = data.empty_prompt()
    straight: Any = StraightLines(method.teacher, clean, 0.5 * clean, null)
    embedded = method.teacher.shape.guidance_embed
    start, tokens = sampler.start(rows), tokens_of(batch.grid)
    grids = {
        "teacher's": (sampler.times(method.teacher, tokens), 1.0 if embedded else sampler.guidance),
        "student's": (_student_grid(method, tokens), 1.0),
    }
    for whose, (times, guidance) in grids.items():
        goal = (0.5 + 0.5 * guidance) * clean
        strength = sampler.guidance if embedded else guidance
        left = pack(sampler.draw(straight, start, batch, times, strength)) - goal
        noise = float((left * pack(start)).sum() / pack(start).square().sum())
        if float(left.square().mean().sqrt()) > 1e-2:
            raise WiringError(
                "sampler",
                f"on the {whose} grid of {len(times) - 1} steps the sampler does not arrive: "
                f"{noise:.0%} of the noise is left"
                if abs(noise) > 1e-2
                else f"on the {whose} grid the sampler arrives somewhere else",
            )
    return "on straight lines both grids arrive at the guided sample, without noise"


def _distance(one: Tensor, other: Tensor) -> float:
    """Root mean square distance, relative to `other`'s size."""
    off = (one.float() - other.float()).square().mean().sqrt()
    return float(off / other.float().square().mean().sqrt().clamp(min=1e-12))
