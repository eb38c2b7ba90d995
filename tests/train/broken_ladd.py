"""LADD with one of the ten known wiring faults switched on, as it was or would be made here."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import Batch, gather
from kontext.edit.pairs import EditSampler
from kontext.models.flux.sequence import pack
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.velocity import velocity
from kontext.train.methods.ladd import Estimated, LaddMethod
from kontext.train.optim.build import adamw
from schemas.sections.training import DistillConfig
from tests.train.toy import toy_model, toy_pairs

CONFIG = {
    "steps": 3,
    "warmup_steps": 1,
    "batch": 8,
    "lr_student": 1e-4,
    "lr_heads": 1e-3,
    "taps": (0, 2),
    "teacher_steps": 4,
    "guidance": 3.0,
}


def teacher() -> FluxTransformer:
    """A toy model that listens to its text, so that guidance shows."""
    model = toy_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(3.0 if name.startswith(("vector_in", "txt_in")) else 2.0)
    return model


def wired(
    kind: type[LaddMethod] = LaddMethod,
    sampler: type[EditSampler] = EditSampler,
    real: Callable[[EditSampler, FluxTransformer, Tensor], Tensor] | None = None,
    **changes: object,
) -> tuple[LaddMethod, EditSampler]:
    """A method over toy pairs whose edits come from its own teacher, and the sampler."""
    config = DistillConfig.model_validate({**CONFIG, **changes})
    data, model = toy_pairs(), teacher()
    draws = sampler(data, config.teacher_steps, config.guidance, config.seed)
    make = real or (lambda drawn, of, pairs: drawn.edits(of, pairs))
    edits = make(draws, model, data.edits())
    return kind(config, data, data.edits(), edits, model), draws


class PureNoise(LaddMethod):
    def student_input(self, index: int, rows: range | None = None) -> tuple[Batch, Tensor, Tensor]:
        batch, noisy, t = super().student_input(index, rows)
        return batch, torch.randn(noisy.shape, generator=torch.Generator().manual_seed(index)), t


class VelocityAsEstimate(LaddMethod):
    def denoised(self, batch: Batch, noisy: Tensor, t: Tensor) -> Tensor:
        return velocity(self.student, noisy, batch, t)


class StopsShort(EditSampler):
    """Its grid is cut one step early, for every model: the last noise stays in."""

    def draw(
        self,
        model: FluxTransformer,
        start: Tensor,
        batch: Batch,
        times: Tensor,
        guidance: float = 1.0,
    ) -> Tensor:
        times = times[:-1] if len(times) > 2 else times
        return super().draw(model, start, batch, times, guidance)


class CutGraph(LaddMethod):
    """The discriminator is frozen for the student's update, and its graph goes with it."""

    def adversarial(self, *arguments: Any) -> Tensor:
        with torch.no_grad():
            return super().adversarial(*arguments)


class DetachedFeatures(LaddMethod):
    """The same fault as it hides: the loss has a graph, but only the heads' own."""

    def logits(self, batch: Batch, clean: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        return super().logits(batch, clean.detach(), level, noise)


class ThawedTeacher(LaddMethod):
    def adversarial(self, *arguments: Any) -> Tensor:
        self.teacher.requires_grad_(True)
        return super().adversarial(*arguments)


class NormsOfNothing(LaddMethod):
    def _take(self, name: str) -> float:
        super()._take(name)
        module = self.state.modules[name]
        module.zero_grad(set_to_none=True)
        return float(sum(p.grad.norm() for p in module.parameters() if p.grad is not None))


class TouchingTurns(LaddMethod):
    """One optimiser holds both sides' weights: the student's update moves the heads too."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        both = [*self.student.parameters(), *self.heads.parameters()]
        self.state.optimizers["student"] = adamw(both, self.config.lr_student)


class OneSided(LaddMethod):
    """The second engine's update is never made."""

    def update_student(self, index: int, parts: Iterable[Estimated]) -> dict[str, float]:
        return {"student_loss": 0.0, "student_grad_norm": 0.0}


class Deadlock(LaddMethod):
    """The heads' update keeps what the student's update waits for."""

    released = threading.Event()

    def update_student(self, index: int, parts: Iterable[Estimated]) -> dict[str, float]:
        self.released.wait()
        raise RuntimeError("released after the test")


def deadlocked() -> tuple[LaddMethod, EditSampler]:
    Deadlock.released.clear()
    return wired(Deadlock)


def noise_for_real(sampler: EditSampler, model: FluxTransformer, pairs: Tensor) -> Tensor:
    """Noise of the edits' own spread, so that no statistic of one sample tells."""
    edits = sampler.edits(model, pairs)
    draw = torch.Generator().manual_seed(9)
    return torch.randn(edits.shape, generator=draw) * edits.std()


def unguided(sampler: EditSampler, model: FluxTransformer, pairs: Tensor) -> Tensor:
    return sampler.draw(
        model, sampler.start(pairs), gather(sampler.data, pairs), sampler.times(model, 4)
    )


def one_short(sampler: EditSampler, model: FluxTransformer, pairs: Tensor) -> Tensor:
    batch = gather(sampler.data, pairs)
    times = sampler.times(model, 4)[:-1]
    return sampler.draw(model, sampler.start(pairs), batch, times, sampler.guidance)


def single_sample() -> tuple[LaddMethod, EditSampler]:
    """A batch of one, past the recipe's own check."""
    method, sampler = wired()
    method.config = method.config.model_copy(update={"batch": 1})
    return method, sampler


def saturated() -> tuple[LaddMethod, EditSampler]:
    """Heads so sure of themselves that no sample is inside the hinge's margin."""
    method, sampler = wired(Saturated)
    return method, sampler


class Saturated(LaddMethod):
    def logits(self, batch: Batch, clean: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        logits = super().logits(batch, clean, level, noise)
        same = clean.shape == pack(batch.target).shape and torch.equal(clean, pack(batch.target))
        right = same and bool((batch.tokens == self._tokens(batch)).all())
        return logits + (50.0 if right else -50.0)

    def _tokens(self, batch: Batch) -> Tensor:
        rows = [
            int((self.real - target).abs().flatten(1).sum(1).argmin()) for target in batch.target
        ]
        return self.data.text_tokens[self.data.text[self.edits[torch.tensor(rows)]]]


@dataclass(frozen=True)
class Fault:
    number: int
    make: Callable[[], tuple[LaddMethod, EditSampler]]
    gate: str
    symptom: str  # a regular expression
    patience: float = 60.0


FAULTS: Mapping[str, Fault] = {
    "pure noise at every level": Fault(
        1, lambda: wired(PureNoise), "input", "0 is pure noise|holds -?0.0"
    ),
    "velocity as estimate": Fault(
        2, lambda: wired(VelocityAsEstimate), "estimate", "not x_t - t v"
    ),
    "noise for real samples": Fault(
        3, lambda: wired(real=noise_for_real), "edits", "noise, or of another model"
    ),
    "sampler stops short": Fault(
        4, lambda: wired(sampler=StopsShort), "sampler", "of the noise is left"
    ),
    "edits made by a schedule that stops short": Fault(
        4, lambda: wired(real=one_short), "edits", "stop a step short"
    ),
    "edits without guidance": Fault(5, lambda: wired(real=unguided), "edits", "without guidance"),
    "cut graph": Fault(6, lambda: wired(CutGraph), "gradient", "no gradient reaches the student"),
    "detached features": Fault(
        6, lambda: wired(DetachedFeatures), "gradient", "no gradient reaches the student"
    ),
    "thawed teacher": Fault(6, lambda: wired(ThawedTeacher), "gradient", "frozen teacher"),
    "norms read after clearing": Fault(
        7, lambda: wired(NormsOfNothing), "turns", "reported as 0 and is"
    ),
    "turns that touch": Fault(
        8, lambda: wired(TouchingTurns), "turns", "update of the student moves heads and student"
    ),
    "only one side updates": Fault(
        8, lambda: wired(OneSided), "turns", "without an update of the student"
    ),
    "deadlock": Fault(8, deadlocked, "turns", "waits forever", patience=1.0),
    "batch of one": Fault(9, single_sample, "batch", "single sample saturates"),
    "hinge pinned at the start": Fault(9, saturated, "batch", "pinned at zero"),
    "student rate of a broken loop": Fault(
        10, lambda: wired(lr_student=0.5), "rates", "the student runs away"
    ),
    "heads' rate of a broken loop": Fault(
        10, lambda: wired(lr_heads=1e-12), "rates", "the heads learn nothing"
    ),
}
