"""What holds for every operation, and whether its words are true of its pixels."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pytest

from kontext.data.edited import shows
from kontext.data.operations import chosen, operations
from kontext.data.operations.base import (
    COLOURS,
    PLACES,
    Canvas,
    Draw,
    Edit,
    Operation,
    evidence,
    luma,
)
from kontext.data.operations.regions import PARTS
from kontext.errors import RecipeError
from schemas.tables import CATEGORIES
from tests.data.operations.pictures import cutout, scene

EVERY = operations()
CANVASES = (scene(0), scene(1, 120, 150), cutout())


Done = tuple[Canvas, Any, Edit]


def done(operation: Operation, count: int = 3) -> list[Done]:
    """Edits with different parameters that fit and show."""
    return _done(operation.name)[:count]


@cache
def _done(name: str) -> list[Done]:
    found = list(islice(_fitting(EVERY[name]), 8))
    assert found, f"{name} fits no picture"
    return found


def _fitting(operation: Operation) -> Iterator[Done]:
    for number in range(60):
        canvas = CANVASES[number % len(CANVASES)]
        parameters = operation.draw(canvas, Draw("test", operation.name, number))
        if parameters is None:
            continue
        edit = operation.apply(canvas, parameters)
        if shows(edit):
            yield canvas, parameters, edit


def only(name: str, count: int = 4) -> list[Done]:
    return done(EVERY[name], count)


def test_there_are_many_in_all_categories() -> None:
    assert len(EVERY) >= 20
    assert {operation.category for operation in EVERY.values()} == set(CATEGORIES)
    assert [one.name for one in chosen(("sepia", "hue", "sepia"))] == ["sepia", "hue"]
    with pytest.raises(RecipeError, match=r"no operation nonsense; there are add-shape, "):
        chosen(("nonsense",))


@pytest.mark.parametrize("operation", EVERY.values(), ids=list(EVERY))
def test_the_mask_is_what_changes_and_nothing_else_does(operation: Operation) -> None:
    for canvas, parameters, edit in done(operation):
        before = canvas.rgb.copy()
        assert edit.context.shape == edit.target.shape == canvas.rgb.shape
        assert edit.context.dtype == edit.target.dtype == np.uint8
        assert np.array_equal(edit.context[~edit.region], edit.target[~edit.region])
        changed = (edit.context != edit.target).any(axis=2)
        assert np.array_equal(edit.mask, changed) and not (changed & ~edit.region).any()
        if operation.category in ("local", "text") and operation.name != "exchange-color":
            assert not edit.region.all() and changed.sum() > 0.05 * edit.region.sum(), parameters
        again = operation.apply(canvas, parameters)
        assert np.array_equal(again.target, edit.target)
        assert np.array_equal(again.context, edit.context)
        assert np.array_equal(canvas.rgb, before)  # nobody wrote into the picture


@pytest.mark.parametrize("operation", EVERY.values(), ids=list(EVERY))
def test_one_seed_gives_one_edit_and_others_give_others(operation: Operation) -> None:
    canvas = cutout() if "subject" in operation.name or operation.name == "background" else scene()
    drawn = [operation.draw(canvas, Draw(operation.name, n)) for n in range(12)]
    assert drawn == [operation.draw(canvas, Draw(operation.name, n)) for n in range(12)]
    fits = {str(parameters) for parameters in drawn if parameters is not None}
    assert fits
    if any(evidence(p) for p in drawn if p is not None) and "mirror" not in operation.name:
        assert len(fits) > 1 or operation.name in ("flip", "half-turn")


@pytest.mark.parametrize(
    "operation", [one for one in EVERY.values() if one.restores], ids=lambda one: one.name
)
def test_an_inverse_restores(operation: Operation) -> None:
    assert operation.undoes is not None and operation.restores is not None
    for canvas, parameters, edit in done(operation):
        back = operation.apply(Canvas(edit.target, canvas.alpha), operation.restores(parameters))
        apart = np.abs(back.target.astype(int) - edit.context)
        # rounding alone: a level of a dark power is several of a bright one
        assert apart.max() <= (12 if operation.name == "brightness" else 3)
        assert apart.mean() < 0.6


@pytest.mark.parametrize("operation", EVERY.values(), ids=list(EVERY))
def test_sentences_are_many_short_and_say_the_parameters(operation: Operation) -> None:
    for _, parameters, _ in done(operation):
        values = evidence(parameters)
        assert all(isinstance(value, str | int | float) for value in values.values())
        for says in filter(None, (operation.says, operation.undoes)):
            sentences = says(parameters)
            assert len(set(sentences)) == len(sentences) >= 6
            for sentence in sentences:
                assert len(sentence.split()) <= 14 and "{" not in sentence, sentence
                assert sentence == " ".join(sentence.split()) and sentence
        said = " ".join(operation.says(parameters))
        for name, value in values.items():
            # what is only there to be changed need not be said
            told = name == "to" if "to" in values else name not in ("font", "way")
            if isinstance(value, str) and value and told:
                assert value in said, (name, value)


def test_inverses_name_what_was_there() -> None:
    for name, field in (("add-shape", "shape"), ("write-text", "words"), ("frame", "color")):
        for _, parameters, _ in only(name):
            said = " ".join(EVERY[name].undoes(parameters))  # type: ignore[misc]
            assert str(getattr(parameters, field)) in said
    for _, parameters, _ in only("recolor-shape"):
        says, back = (
            f(parameters) for f in (EVERY["recolor-shape"].says, EVERY["recolor-shape"].undoes)
        )  # type: ignore[misc]
        assert says[0] == f"make the {parameters.color} {parameters.shape} {parameters.to}"
        assert back[0] == f"make the {parameters.to} {parameters.shape} {parameters.color}"


# --- true of the pixels --------------------------------------------------------------------------


def mean_change(edit: Edit, of: Any) -> float:
    return float(np.mean(of(edit.target)) - np.mean(of(edit.context)))


def chroma(rgb: Any) -> Any:
    return np.ptp(rgb.astype(int), axis=2)


def test_light_and_colour_move_as_said() -> None:
    for _, p, edit in only("brightness", 8):
        assert (mean_change(edit, luma) > 5) == (p.way == "brighter")
    for _, p, edit in only("contrast", 8):
        spread = luma(edit.target).std() - luma(edit.context).std()
        assert (spread > 0) == (p.way == "more contrast")
    for _, p, edit in only("saturation", 8):
        assert (mean_change(edit, chroma) > 0) == (p.way == "more colorful")
    for _, p, edit in only("warmth", 8):
        warmth = mean_change(edit, lambda rgb: rgb[..., 0].astype(int) - rgb[..., 2])
        assert (warmth > 3) == (p.way == "warmer")
    for _, p, edit in only("tint", 8):
        wanted = np.array(COLOURS[p.color], float) - np.mean(COLOURS[p.color])
        shift = (edit.target.astype(float) - luma(edit.target)[..., None]).mean(axis=(0, 1))
        before = (edit.context.astype(float) - luma(edit.context)[..., None]).mean(axis=(0, 1))
        assert (shift - before) @ wanted > 0


def test_much_is_more_than_a_little() -> None:
    strength: dict[bool, list[float]] = {False: [], True: []}
    for _, p, edit in only("brightness", 8):
        strength[p.much].append(abs(mean_change(edit, luma)))
    assert np.mean(strength[True]) > 1.4 * np.mean(strength[False])


def test_manners_look_as_said() -> None:
    for name in ("grayscale", "pencil", "halftone"):
        assert all(chroma(edit.target).max() == 0 for _, _, edit in only(name))
    for _, p, edit in only("posterize"):
        assert all(len(np.unique(edit.target[..., n])) <= p.levels for n in range(3))
    for _, p, edit in only("pixel-art"):
        height, width = edit.target.shape[:2]
        rows = (np.diff(edit.target.astype(int), axis=0) != 0).any(axis=(1, 2)).sum()
        assert rows < round(height * p.blocks / min(height, width))
    for _, _, edit in only("sepia"):
        assert (edit.target[..., 0].astype(int) >= edit.target[..., 2]).all()
    for _, _, edit in only("negative"):
        assert (edit.target.astype(int) + edit.context == 255).all()


def detail(rgb: Any) -> float:
    return float(
        np.abs(np.diff(luma(rgb), axis=1)).mean() + np.abs(np.diff(luma(rgb), axis=0)).mean()
    )


def test_parts_change_as_said_and_where() -> None:
    for name, sign in (("blur-part", -1), ("pixelate-part", -1), ("sharpen-part", 1)):
        for canvas, p, edit in only(name):
            left, top, right, bottom = PARTS[p.part]
            width, height = canvas.size
            box = (slice(round(top * height), round(bottom * height)),
                   slice(round(left * width), round(right * width)))  # fmt: skip
            assert edit.region[box].all() and edit.region.sum() == edit.region[box].size
            assert sign * (detail(edit.target[box]) - detail(edit.context[box])) > 0
    for _, _, edit in only("gray-part"):
        assert chroma(edit.target)[edit.region].max() == 0
    for _, _, edit in only("light-part"):
        assert luma(edit.target)[edit.region].mean() > luma(edit.context)[edit.region].mean() + 5


def test_shapes_have_the_colour_and_the_place_that_is_said() -> None:
    for canvas, p, edit in only("add-shape", 8):
        found = edit.target[edit.mask]
        same = (np.abs(found.astype(int) - COLOURS[p.color]).max(axis=1) <= 1).mean()
        assert same > 0.35
        rows, columns = np.nonzero(edit.mask)
        middle = columns.mean() / canvas.size[0], rows.mean() / canvas.size[1]
        assert np.allclose(middle, PLACES[p.place], atol=0.09)
    for _, p, _ in only("move-shape"):
        assert p.place != p.to
    for _, p, edit in only("resize-shape"):
        before, after = ((picture == COLOURS[p.color]).all(axis=2).sum()
                         for picture in (edit.context, edit.target))  # fmt: skip
        assert (after > before) == (p.to > p.radius)


def test_text_has_the_colour_that_is_said_and_stays_inside() -> None:
    for canvas, p, edit in only("write-text", 8):
        assert (edit.target == COLOURS[p.color]).all(axis=2).sum() > 20
        rows, columns = np.nonzero(edit.mask)
        width, height = canvas.size
        assert columns.min() > 0 and columns.max() < width - 1
        assert rows.min() > 0 and rows.max() < height - 1
        assert not p.plate or (edit.target == COLOURS[p.plate]).all(axis=2).sum() > 20
    for _, p, edit in only("recolor-text"):
        changed = edit.target[edit.mask]
        assert (np.abs(changed.astype(int) - COLOURS[p.to]).max(axis=1) <= 1).mean() > 0.3
    for _, p, _ in only("replace-text"):
        assert p.words != p.to


def test_frames_and_corners() -> None:
    for _, p, edit in only("frame"):
        assert (edit.target[[0, -1]] == COLOURS[p.color]).all()
        assert (edit.target[:, [0, -1]] == COLOURS[p.color]).all()
    for _, _, edit in only("vignette"):
        corner, middle = edit.target[0, 0], edit.target.shape[0] // 2
        assert luma(corner) < 0.6 * luma(edit.context[0, 0])
        assert np.array_equal(edit.target[middle, middle], edit.context[middle, middle])


def subject(canvas: Canvas, rgb: Any) -> Any:
    return np.abs(rgb.astype(int) - canvas.background).max(axis=2) > 40


def test_subjects_go_where_it_is_said_and_stay_whole() -> None:
    for canvas, p, edit in only("move-subject", 8):
        before, after = (subject(canvas, rgb) for rgb in (edit.context, edit.target))
        moved = [
            np.argwhere(after).mean(axis=0)[n] - np.argwhere(before).mean(axis=0)[n] for n in (1, 0)
        ]
        x, y = {"to the left": (-1, 0), "to the right": (1, 0), "up": (0, -1), "down": (0, 1)}[
            p.way
        ]
        assert moved[0] * x + moved[1] * y > 0.05 * canvas.size[0]
        assert abs(after.sum() - before.sum()) <= 2
    for canvas, p, edit in only("resize-subject", 6):
        before, after = (subject(canvas, rgb).sum() for rgb in (edit.context, edit.target))
        assert (after > before) == (p.way == "larger")
        assert after / before == pytest.approx(p.factor**2, rel=0.1)
    for canvas, _, edit in only("mirror-subject", 1):
        before, after = (np.argwhere(subject(canvas, rgb)) for rgb in (edit.context, edit.target))
        assert np.allclose(before.mean(axis=0), after.mean(axis=0), atol=1.5)


def test_backgrounds_have_their_colour_and_the_subject_keeps_its_own() -> None:
    for canvas, p, edit in only("background"):
        assert (edit.target[0, 0] == COLOURS[p.color]).all()
        assert (edit.target[-1, -1] == COLOURS[p.lower]).all()
        assert canvas.alpha is not None
        inside = canvas.alpha == 1
        assert np.array_equal(edit.target[inside], edit.context[inside])


def test_a_subject_takes_the_colour_and_nothing_else_does() -> None:
    for canvas, p, edit in only("recolor-subject"):
        assert canvas.alpha is not None and not edit.mask[canvas.alpha == 0].any()
        inside = edit.target[canvas.alpha == 1].astype(float).mean(axis=0)
        wanted = np.array(COLOURS[p.color], float)
        assert np.corrcoef(inside, wanted)[0, 1] > 0.95


def test_a_colour_becomes_another_and_the_others_stay() -> None:
    for _, p, edit in only("exchange-color", 4):
        assert p.before in ("red", "green", "blue", "purple", "turquoise", "yellow", "orange")
        assert 0.01 < edit.mask.mean() < 0.8
        assert np.abs(chroma(edit.target).astype(int) - chroma(edit.context)).max() <= 2


def test_words_are_drawn_that_can_be_read_at_the_size_in_training() -> None:
    large, small = (replace(scene(0, 384, 256), trained=side) for side in (256, 64))
    drawn = [
        {p.words for n in range(60) if (p := EVERY["write-text"].draw(canvas, Draw("w", n)))}
        for canvas in (large, small)
    ]
    assert max(map(len, drawn[0])) == 16 and max(map(len, drawn[1])) <= 12
    tiny = replace(large, trained=16)
    assert EVERY["write-text"].draw(tiny, Draw("w")) is None


def test_an_edit_has_to_show_at_the_size_in_training() -> None:
    """A fine pattern that is gone when the picture is reduced is no edit."""
    rgb = scene(0, 128, 128).rgb
    fine = rgb.astype(int) + 40 * (np.indices(rgb.shape[:2]).sum(axis=0) % 2 * 2 - 1)[..., None]
    edit = Edit(rgb, np.clip(fine, 0, 255).astype(np.uint8), np.ones(rgb.shape[:2], bool))
    assert shows(edit) and not shows(edit, unit=4)
    for name in ("halftone", "rain", "snow", "sharpen-part", "pixel-art"):
        canvas = replace(scene(0, 256, 256), trained=64)
        tried = [(EVERY[name].draw(canvas, Draw(n)), EVERY[name]) for n in range(6)]
        assert any(p is not None and shows(one.apply(canvas, p), canvas.unit) for p, one in tried)


def test_what_does_not_fit_is_not_drawn() -> None:
    grey = Canvas(np.repeat(scene().rgb[..., :1], 3, axis=2))
    for name in ("grayscale", "saturation", "exchange-color", "background", "recolor-subject"):
        assert EVERY[name].draw(grey, Draw(0)) is None
    white = Canvas(np.full((64, 64, 3), 255, np.uint8))
    assert EVERY["snow"].draw(white, Draw(0)) is None
