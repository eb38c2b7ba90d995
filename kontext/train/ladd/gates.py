"""Gates before LADD: what a broken wiring shows, looked for in seconds before hours are spent.

A public reproduction of LADD lost twenty-one experiments and a production run to ten faults, most
of which train without complaint (github.com/vionwinnie/Z-Image-LADD-distillation, docs/PROGRESS):

 1. the student is fed pure noise at every level        gate `input`
 2. the velocity is taken for the clean estimate        gate `estimate`
 3. the "real" samples are noise                        gate `edits`
 4. the sampler's schedule stops short of zero noise    gates `sampler`, `edits`
 5. the teacher's edits are made without guidance       gate `edits`
 6. the gradient through the teacher is cut             gate `gradient`
 7. gradient norms are read after they are cleared      gate `turns`
 8. the two optimisers block or touch each other        gate `turns`
 9. a batch of one saturates the hinge                  gate `batch`, and `LaddMethod`'s watch
10. settings were tuned on a loop with such faults      gate `rates`

Every gate looks at what the method does, not at how it is written: it feeds data with a known
answer, or compares with the sampler that will draw the student. They look at a few samples, and
leave weights, optimisers and random numbers as they found them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from kontext.errors import DivergedError, WiringError
from kontext.train.ladd import gate_samples, gate_updates
from kontext.train.ladd.gate_samples import Sampler
from kontext.train.ladd.judged import PINNED, JudgedMethod
from schemas.sections.training import DistillConfig

PATIENCE = 900.0  # seconds after which a trial step has come to a standstill
_CHANCE = 0.55  # share of right answers below which heads are guessing


@dataclass(frozen=True)
class Finding:
    """What one gate saw: `faults` are the numbers above; `passed` is None where it did not run."""

    gate: str
    faults: tuple[int, ...]
    passed: bool | None
    seen: str

    def row(self) -> dict[str, Any]:
        """For tables and JSON."""
        return {**asdict(self), "faults": ", ".join(str(n) for n in self.faults)}


def run_gates(method: JudgedMethod, sampler: Sampler, patience: float = PATIENCE) -> list[Finding]:
    """Run all gates on a method that has not begun, up to the first that fails.

    Args:
        sampler: draws as the student will be drawn, and as the teacher's edits were.
        patience: seconds that the trial step may take.
    """
    gates: dict[str, tuple[tuple[int, ...], Callable[[], str]]] = {
        "sampler": ((4,), partial(gate_samples.sampler_arrives, method, sampler)),
        "edits": ((3, 4, 5), partial(gate_samples.teacher_edits, method, sampler)),
        "input": ((1,), partial(gate_samples.student_input, method, sampler)),
        "estimate": ((2,), partial(gate_samples.first_estimate, method, sampler)),
        "gradient": ((6,), partial(gate_updates.gradient, method)),
        "batch": ((9,), partial(gate_updates.batch_size, method)),
        "turns": ((7, 8), partial(gate_updates.turns, method, patience)),
        "rates": ((10,), partial(gate_updates.rates, method)),
    }
    findings: list[Finding] = []
    for name, (faults, look) in gates.items():
        passed: bool | None = None
        seen = "not run: an earlier gate failed"
        if not findings or findings[-1].passed:
            try:
                passed, seen = True, look()
            except WiringError as error:
                passed, seen = False, str(error)
            except RuntimeError as error:  # torch's word for a graph or a shape that does not hold
                passed, seen = False, f"{name}: {error}"
        findings.append(Finding(name, faults, passed, seen))
    return findings


def stop_at_failure(findings: Sequence[Finding]) -> None:
    """Raise WiringError with what the failing gate saw, if one did."""
    for finding in findings:
        if finding.passed is False:
            line = finding.seen.removeprefix(f"{finding.gate}: ").splitlines()[0]
            raise WiringError(finding.gate, line)


def settings_digest(config: DistillConfig) -> str:
    """What the gates were passed with: a line of the ledger, so that a run cannot change it."""
    settings = config.model_dump_json(exclude={"launch", "validate_every"})  # change no number
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def check_training(history: Sequence[Mapping[str, float]], window: int = 20) -> list[str]:
    """Gate after training, and what people should know about it, one line each.

    Heads that end undecided may have met a student as good as its teacher; heads that were never
    better than chance over any `window` steps gave it no signal, which is said here.

    Raises:
        DivergedError: the heads' hinge is pinned at zero.
    """
    recent = [row["heads_loss"] for row in history[-window:]]
    if recent and max(recent) < PINNED:
        raise DivergedError(
            "distill: the heads' loss is pinned at zero, the student learns nothing"
        )
    accuracies = [row["accuracy"] for row in history]
    means = [sum(accuracies[i : i + window]) / window for i in range(len(accuracies) - window + 1)]
    if means and max(means) < _CHANCE:
        return [
            f"the discriminator heads never told real from fake (best {max(means):.0%} over "
            f"{window} steps, chance is 50%): the student learned from its distance to the "
            "teacher's edits alone"
        ]
    return []
