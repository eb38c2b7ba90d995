"""Which stage loses what: the student's error, split along the way from the target to its edit.

The target through the autoencoder is the best that any latents can give: its error is the codec's.
What the teacher is further off is the flow's, what guidance adds is guidance's, and what the
student is further off is distillation's. The parts add up to the student's error; one below zero
has made it smaller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.diagnosis.finding import ALL, gaps
from kontext.evaluate.paired import Difference, difference
from kontext.evaluate.pixels import Images, Values
from kontext.evaluate.statistics import Interval, cluster_ratio

PARTS = {
    "codec": "the autoencoder: the target through it",
    "flow": "the teacher, beyond the autoencoder",
    "guidance": "the teacher's guidance, beyond the teacher without it",
    "distillation": "the student, beyond the teacher",
}


@dataclass(frozen=True)
class Blame:
    """Shares of the student's mean absolute error in a category, by part, and who is blamed."""

    category: str
    error: float  # of the student, 0 to 1
    parts: Mapping[str, Interval]
    points: Mapping[str, Difference]  # of success, where the bench has both outcomes

    @property
    def largest(self) -> str:
        """The part with the greatest share."""
        return max(self.parts, key=lambda name: self.parts[name].value)

    @property
    def verdict(self) -> str:
        """The largest part, where its share is told from every other's; else undecided."""
        own = self.parts[self.largest]
        others = [part.high for name, part in self.parts.items() if name != self.largest]
        return self.largest if own.low > max([0.0, *others]) else "undecided"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "category": self.category,
            "error": self.error,
            "verdict": self.verdict,
            "parts": {name: part.as_dict() for name, part in self.parts.items()},
            "points": {name: each.as_dict() for name, each in self.points.items()},
        }


def blame(
    bench: Bench,
    outputs: Mapping[str, Images],
    success: Mapping[str, Values],
    unguided: tuple[Sequence[int], Images] | None = None,
) -> list[Blame]:
    """Of all items and of each category.

    Args:
        outputs: student, teacher and codec_target; where teacher and student are one model,
            nothing was distilled.
        success: by editor, 0 or 1 [N].
        unguided: the teacher's edits without guidance, and the items that they are of, where it
            has guidance; then all parts are of those items.
    """
    rows = list(range(len(bench))) if unguided is None else list(unguided[0])
    target = [bench.target[row] for row in rows]

    def error(pictures: Images) -> Values:
        return gaps([pictures[row] for row in rows], target)

    codec, student = error(outputs["codec_target"]), error(outputs["student"])
    distilled = outputs["student"] is not outputs["teacher"]
    teacher = error(outputs["teacher"]) if distilled else student
    plain = teacher if unguided is None else gaps(unguided[1], target)
    parts = {"codec": codec, "flow": plain - codec}
    if unguided is not None:
        parts["guidance"] = teacher - plain
    if distilled:
        parts["distillation"] = student - teacher
    steps = {"flow": ("codec_target", "teacher"), "distillation": ("teacher", "student")}
    found = []
    for name in (ALL, *bench.categories):
        own = [i for i, row in enumerate(rows) if name in (ALL, bench.items[row].category)]
        if not own:
            continue
        of = [rows[i] for i in own]
        clusters = [bench.items[row].cluster for row in of]
        points = {
            part: difference(success[one][of], success[other][of], clusters)
            for part, (one, other) in steps.items()
            if part in parts and one in success and other in success
        }
        shares = {p: cluster_ratio(v[own], student[own], clusters) for p, v in parts.items()}
        found.append(Blame(name, float(np.mean(student[own])), shares, points))
    return found
