"""Which edits the report shows: the first items in bench order and the student's worst."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.pixels import Images
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.model import Card, CardPicture, CategoryEdits
from kontext.evaluate.score import Scores

FIRST, WORST = 6, 2

BLURBS = {
    "local": "one thing changes, the rest stays",
    "global": "weather, daylight, background",
    "character": "the same character, another look or role",
    "style": "the same thing in another drawing style",
    "text": "other letters on the same sign",
}


def category_edits(
    bench: Bench, scores: Scores, outputs: Mapping[str, Images], assets: Assets
) -> list[CategoryEdits]:
    """The grids of all categories that have items."""
    goals = {goal.name: goal for goal in scores.goals}
    found = []
    for name in bench.categories:
        rows = bench.where(name)
        first = rows[:FIRST]
        worst = worst_items(scores, rows, {int(i) for i in first})
        found.append(
            CategoryEdits(
                name=name,
                blurb=BLURBS[name],
                first=tuple(edit_card(bench, scores, outputs, assets, int(i)) for i in first),
                worst=tuple(edit_card(bench, scores, outputs, assets, i) for i in worst),
                student=scores.table["student"][name]["success"],
                teacher=scores.table["teacher"][name]["success"],
                pixels=scores.table["student"][name]["right_pixels"],
                features=scores.table["student"][name]["right_features"],
                goal=goals[name],
            )
        )
    return found


def worst_items(scores: Scores, rows: NDArray[np.int64], shown: set[int]) -> list[int]:
    """The student's failures with the largest error over the mask, not already shown."""
    error = scores.per_item["student"]["mae_ratio"].per_item
    failed = [int(i) for i in rows if not scores.success["student"][i] and int(i) not in shown]
    return sorted(failed, key=lambda i: (-error[i], i))[:WORST]


def edit_card(
    bench: Bench, scores: Scores, outputs: Mapping[str, Images], assets: Assets, i: int
) -> Card:
    """Context, teacher, student and target of item i."""

    def made(editor: str) -> CardPicture:
        measured = scores.per_item[editor]
        halves = {"pixels": "right_pixels", "features": "right_features"}
        failed = [name for name, metric in halves.items() if not measured[metric].top[i]]
        return CardPicture(
            editor,
            assets.image(outputs[editor][i]),
            bool(scores.success[editor][i]),
            float(measured["mae_ratio"].per_item[i]),
            " and ".join(failed),
        )

    item = bench.items[i]
    return Card(
        instruction=item.instruction,
        relation=item.relation,
        source=item.source,
        pair_id=item.pair_id,
        shots=(
            CardPicture("context", assets.image(bench.context[i])),
            made("teacher"),
            made("student"),
            CardPicture("target", assets.image(bench.target[i])),
        ),
    )


def teaser(
    bench: Bench, scores: Scores, outputs: Mapping[str, Images], assets: Assets
) -> list[Card]:
    """The first item of every category: context and student only."""
    cards = []
    for name in bench.categories:
        card = edit_card(bench, scores, outputs, assets, int(bench.where(name)[0]))
        shots = (card.shots[0], card.shots[2])
        cards.append(Card(card.instruction, name, card.source, card.pair_id, shots))
    return cards
