"""Steps against quality: what an edit gains by more sampling steps, and what it costs.

Of a few items: the whole bench is scored at the models' own steps only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.latency import each_step
from kontext.evaluate.metrics.base import Scoring
from kontext.evaluate.metrics.fidelity import mae_ratio
from kontext.evaluate.metrics.success import succeeded
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.pixels import Images, Values, alike, as_images
from kontext.evaluate.statistics import Interval, cluster_rate, cluster_ratio

STEPS = (1, 2, 4, 8, 28)


@dataclass(frozen=True)
class Quality:
    """A model's edits in so many steps: their success, and their error against doing nothing."""

    model: str  # student or teacher
    steps: int
    evaluations: int  # of the transformer, for one edit
    success: Interval
    error: Interval

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        own = {"model": self.model, "steps": self.steps, "evaluations": self.evaluations}
        return {**own, "success": self.success.as_dict(), "error": self.error.as_dict()}


def qualities(
    bench: Bench,
    rows: Sequence[int],
    models: TrainedModels,
    codec: Images,
    codec_target: Images,
) -> list[Quality]:
    """The items `rows`, edited in each of STEPS by the student and by the teacher.

    Args:
        codec, codec_target: round trips of all contexts and targets.
    """
    if not rows:
        return []
    editors = {"student": models.student, "teacher": models.teacher}
    if models.teacher is models.student:
        del editors["student"]
    items = [bench.items[row] for row in rows]
    contexts = [[bench.context[row]] for row in rows]
    texts, ids = [item.instruction for item in items], [item.pair_id for item in items]
    clusters = [item.cluster for item in items]
    found = []
    for name, editor in editors.items():
        each = each_step(editor)
        for steps in STEPS:
            made = models.edit(editor, contexts, texts, ids, steps=steps)
            success, top, bottom = outcomes(bench, rows, made, codec, codec_target)
            rate = cluster_rate(success, clusters)
            error = cluster_ratio(top, bottom, clusters)
            found.append(Quality(name, steps, each * steps, rate, error))
    return found


def outcomes(
    bench: Bench, rows: Sequence[int], made: Images, codec: Images, codec_target: Images
) -> tuple[Values, Values, Values]:
    """Success, error over the mask and the context's, of edits of some items [n]."""
    found = np.zeros((3, len(rows)))
    for own in alike(as_images([bench.target[row] for row in rows])):
        of = np.array([rows[i] for i in own], np.int64)
        nothing = np.zeros((len(of), 0), np.float32)
        scoring = Scoring(
            bench=bench.part(of),
            output=np.stack([made[i] for i in own]),
            codec=np.stack([codec[row] for row in of]),
            codec_target=np.stack([codec_target[row] for row in of]),
            context_features=nothing,
            target_features=nothing,
            output_features=None,
        )
        error = mae_ratio(scoring)
        found[:, own] = np.stack([succeeded(scoring), error.top, error.bottom])
    return found[0], found[1], found[2]
