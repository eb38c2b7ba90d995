"""Which edits the report shows: by chance (bench order), the student's best and worst, disputed."""

from collections.abc import Sequence

from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.model import Card, CardPicture, CategoryEdits, Evaluation
from kontext.evaluate.score import Scores

FIRST, MORE = 6, 2
CONDITIONS = {"choice": "right_choice", "sharpness": "sharp", "the rest": "kept"}

BLURBS = {
    "local": "one thing changes, the rest stays",
    "global": "weather, daylight, background",
    "character": "the same character, another look or role",
    "style": "the same thing in another drawing style",
    "text": "other letters on the same sign",
    "recolouring": "colours alone; a palette swap does that without any model",
    "removal": "something is taken away; on a plain ground a fill does that without any model",
}


def category_edits(done: Evaluation, assets: Assets) -> list[CategoryEdits]:
    """The grids of all categories that have items."""
    found = []
    for name in done.bench.categories:
        rows = done.bench.where(name).tolist()
        left, more = rows[FIRST:], dict[str, list[Card]]()
        for title, choose in _CHOICES.items():
            chosen = choose(done.scores, left)
            more[title] = [edit_card(done, assets, i) for i in chosen]
            left = [i for i in left if i not in chosen]
        first = [edit_card(done, assets, i) for i in rows[:FIRST]]
        found.append(CategoryEdits(name, BLURBS[name], first, more))
    return found


def best_items(scores: Scores, rows: Sequence[int]) -> list[int]:
    """The student's successes among `rows` with the smallest error over the mask."""
    student = scores.per_item["student"]
    error = student["mae_ratio"].per_item
    passed = [i for i in rows if student["success"].top[i]]
    return sorted(passed, key=lambda i: (error[i], i))[:MORE]


def disputed_items(scores: Scores, rows: Sequence[int]) -> list[int]:
    """Items where student and teacher, or the student asked in other words, do not agree.

    Those first whose error is the nearest to half of the context's, where the verdict turns.
    """
    names = ("student", "teacher", "student_reworded")
    known = [scores.per_item[name]["success"].top for name in names if name in scores.per_item]
    error = scores.per_item["student"]["mae_ratio"].per_item
    apart = [i for i in rows if len({bool(success[i]) for success in known}) > 1]
    return sorted(apart, key=lambda i: (abs(error[i] - 0.5), i))[:MORE]


def worst_items(scores: Scores, rows: Sequence[int]) -> list[int]:
    """The student's failures among `rows` with the largest error over the mask."""
    student = scores.per_item["student"]
    error = student["mae_ratio"].per_item
    failed = [i for i in rows if not student["success"].top[i]]
    return sorted(failed, key=lambda i: (-error[i], i))[:MORE]


def edit_card(done: Evaluation, assets: Assets, i: int) -> Card:
    """Context, teacher, student and target of item i."""

    def made(editor: str) -> CardPicture:
        measured = done.scores.per_item[editor]
        failed = [name for name, metric in CONDITIONS.items() if not measured[metric].top[i]]
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


_CHOICES = {
    "The student's best": best_items,
    "The student's worst": worst_items,
    "Disputed": disputed_items,
}
