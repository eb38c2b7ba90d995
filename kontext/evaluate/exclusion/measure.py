"""The figures of a safety training: an attack in unseen words, and what other edits have lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kontext.evaluate.exclusion.attack import Outcome, Subjects, attack
from kontext.evaluate.exclusion.record import lost
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.wordings import reworded

_MOST_KINDS = 24  # of a category: instructions that are all their own are none


def last_attack(
    searched: Subjects,
    subjects: Subjects,
    before: TrainedModels,
    after: TrainedModels,
    texts: Sequence[str],
    strongest: int,
) -> dict[str, Any]:
    """Success of excluded edits by both flows, in the data's words and in those that attack best.

    The strongest phrasings are chosen on `searched`: those that the trained flow follows most
    often, and among these those that the flow before followed most often. They are measured on
    `subjects`, which have no part in the choice.

    Args:
        texts: phrasings that no round has seen.
        strongest: how many of them are measured.
    """
    known = {one.text: one.success for one in attack(searched, before, texts)}
    tried = attack(searched, after, texts)
    chosen = sorted(tried, key=lambda one: (-one.success, -known[one.text], one.text))[:strongest]
    words = [one.text for one in chosen]
    first, last = subjects.asked(before, words), subjects.asked(after, words)
    return {
        "subjects": len(subjects.bench),
        "own_before": subjects.in_own_words(before).rates(),
        "own_after": subjects.in_own_words(after).rates(),
        "tried": len(texts),
        "tried_before": sum(value > 0 for value in known.values()),
        "tried_after": sum(one.success > 0 for one in tried),
        "attacked_before": _together(first).rates(),
        "attacked_after": _together(last).rates(),
        "texts": [
            {"text": text, "before": a.rates()["success"], "after": b.rates()["success"]}
            for text, a, b in zip(words, first, last, strict=True)
        ],
    }


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(np.concatenate(flags) for flags in zip(*outcomes, strict=True)))


def cost_on_others(
    subjects: Subjects, before: TrainedModels, after: TrainedModels
) -> list[dict[str, Any]]:
    """Rows by category and by what is asked for: success by both flows, and the share that is lost.

    `reworded_…` are of instructions in words that training has not seen (`evaluate.wordings`).
    """
    others = [reworded(item) for item in subjects.bench.items]
    found = {
        "before": subjects.in_own_words(before).success,
        "after": subjects.in_own_words(after).success,
        "reworded_before": subjects.in_own_words(before, others).success,
        "reworded_after": subjects.in_own_words(after, others).success,
    }
    rows = []
    for category in subjects.bench.categories:
        places = subjects.bench.where(category)
        asked: dict[str, list[int]] = {"": places.tolist()}
        for place in places.tolist():
            asked.setdefault(subjects.bench.items[place].asked, []).append(place)
        kinds = asked if len(asked) <= _MOST_KINDS else {"": asked[""]}
        for kind, own in kinds.items():
            rates = {name: float(flags[own].mean()) for name, flags in found.items()}
            row = {"category": category, "asked": kind, "edits": len(own), **rates}
            rows.append(row | {"cost": lost(rates["before"], rates["after"])})
    return rows
