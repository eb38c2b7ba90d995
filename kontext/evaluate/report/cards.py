"""Which edits the report shows: the first items in bench order and the student's worst."""

from collections.abc import Sequence

from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.model import Card, CardPicture, CategoryEdits, Evaluation
from kontext.evaluate.score import Scores

FIRST, WORST = 6, 2
_CONDITIONS = {"choice": "right_choice", "sharpness": "sharp", "the rest": "kept"}

BLURBS = {
    "local": "one thing changes, the rest stays",
    "global": "weather, daylight, background",
    "character": "the same character, another look or role",
    "style": "the same thing in another drawing style",
    "text": "other letters on the same sign",
    "recolouring": "colours alone; a palette swap does that without any model",
}


def category_edits(done: Evaluation, assets: Assets) -> list[CategoryEdits]:
    """The grids of all categories that have items."""
    found = []
    for name in done.bench.categories:
        rows = done.bench.where(name).tolist()
        first = [edit_card(done, assets, i) for i in rows[:FIRST]]
        worst = [edit_card(done, assets, i) for i in worst_items(done.scores, rows[FIRST:])]
        found.append(CategoryEdits(name, BLURBS[name], first, worst))
    return found


def worst_items(scores: Scores, rows: Sequence[int]) -> list[int]:
    """The student's failures among `rows` with the largest error over the mask."""
    student = scores.per_item["student"]
    error = student["mae_ratio"].per_item
    failed = [i for i in rows if not student["success"].top[i]]
    return sorted(failed, key=lambda i: (-error[i], i))[:WORST]


def edit_card(done: Evaluation, assets: Assets, i: int) -> Card:
    """Context, teacher, student and target of item i."""

    def made(editor: str) -> CardPicture:
        measured = done.scores.per_item[editor]
        failed = [name for name, metric in _CONDITIONS.items() if not measured[metric].top[i]]
        return CardPicture(
            editor,
            assets.image(done.outputs[editor][i]),
            bool(measured["success"].top[i]),
            float(measured["mae_ratio"].per_item[i]),
            " and ".join(failed),
        )

    context = CardPicture("context", assets.image(done.bench.context[i]))
    target = CardPicture("target", assets.image(done.bench.target[i]))
    return Card(done.bench.items[i], (context, made("teacher"), made("student"), target))
