"""A bench whose items differ in size: every editor and metric treats each as its own size's."""

import numpy as np
import pytest
import torch

from kontext.evaluate.benches.held_out import Bench, BenchCandidate, Item, build
from kontext.evaluate.false_editors import FALSE_EDITORS, TrainingEdits, run_false_editors
from kontext.evaluate.metrics import Measured
from kontext.evaluate.pixels import Images, alike, as_images, in_order, taken
from kontext.evaluate.references import EDITORS, other_targets, run_editors
from kontext.evaluate.score import autoencoder_scores, score
from kontext.evaluate.scoring import prepare
from kontext.models.features.efficientnet import FeatureNet
from schemas.sections.evaluation import EvaluateConfig
from tests.evaluate.test_score import exactly

SIZES = ((64, 64), (96, 48), (48, 80))  # width, height
CONFIG = EvaluateConfig(items_per_category=12)
Picture = np.ndarray


def pictures(number: int) -> tuple[Picture, Picture]:
    """A context and its target: a square in the middle is inverted."""
    width, height = SIZES[number % 3]
    draw = np.random.default_rng(number)
    context = draw.integers(0, 255, (height // 8, width // 8, 3)).astype(np.uint8)
    context = context.repeat(8, axis=0).repeat(8, axis=1)
    target = context.copy()
    target[16:32, 16:32] = 255 - target[16:32, 16:32]
    return context, target


def mixed(count: int = 9) -> Bench:
    found = [picture for number in range(count) for picture in pictures(number)]
    candidates = [
        BenchCandidate(
            Item(f"{n:064x}", "local", "r", "a=b", "do", "after", "before", "drawn", f"k{n}"),
            (2 * n,),
            2 * n + 1,
            (2 * n + 1, 2 * ((n + 1) % count) + 1),
        )
        for n in range(count)
    ]
    # its context has another shape than its target: nothing says what should change
    unlike = Item(f"{99:064x}", "local", "r", "a=b", "do", "after", "before", "drawn", "other")
    candidates.append(BenchCandidate(unlike, (0,), 3))
    return build(candidates, lambda rows: [found[row] for row in rows], CONFIG)


class Models:
    """A student that is right, a teacher that does nothing, an autoencoder that is a little off."""

    student, teacher, few_steps = "student", "teacher", 4

    def __init__(self, made: Bench) -> None:
        self.targets = {item.pair_id: made.target[row] for row, item in enumerate(made.items)}

    def round_trip(self, images: Images) -> Images:
        off = [np.clip(image.astype(int) + 4, 0, 255).astype(np.uint8) for image in images]
        return as_images(off)

    def edit(
        self,
        editor: str,
        contexts: list[list[Picture]],
        texts: list[str],
        ids: list[str],
        size: tuple[int, int] | None = None,
        steps: int | None = None,
    ) -> Images:
        if size is not None:
            return np.zeros((len(ids), size[1], size[0], 3), np.uint8)
        if editor == self.teacher:
            return as_images([context for (context,) in contexts])
        return as_images([self.targets[name] for name in ids])


def training(made: Bench) -> TrainingEdits:
    """Two edits of other sizes, asked for what the items ask for."""
    both = [pictures(number) for number in (30, 31)]
    context, target = (as_images([pair[side] for pair in both]) for side in (0, 1))
    return TrainingEdits(context, target, {("r", "a=b"): np.arange(2)})


def test_pictures_of_several_sizes_are_grouped_and_put_back() -> None:
    images = as_images([np.full((h, w, 3), n, np.uint8) for n, (w, h) in enumerate(SIZES * 2)])
    assert images.dtype == object and len(images) == 6
    groups = alike(images)
    assert [rows.tolist() for rows in groups] == [[1, 4], [0, 3], [2, 5]]
    assert taken(images, groups[1]).shape == (2, 64, 64, 3)
    values = [np.array([10.0 * row for row in rows]) for rows in groups]
    assert in_order(groups, values) == [0, 10, 20, 30, 40, 50]
    plain = as_images([np.zeros((4, 4, 3), np.uint8)] * 2)
    assert plain.shape == (2, 4, 4, 3) and len(alike(plain)) == 1


def test_a_bench_takes_items_of_all_sizes_but_none_whose_context_is_of_another() -> None:
    made = mixed()
    assert len(made) == 9 and made.excluded["local"] == 1
    assert made.sizes == sorted(SIZES)
    assert all(
        one.shape == other.shape for one, other in zip(made.context, made.target, strict=True)
    )
    for i, rivals in made.rivals.items():
        assert rivals.shape[1:] == made.target[i].shape  # brought to the item's size
    assert sorted(row for rows, _ in made.parts for row in rows) == list(range(9))
    for rows, part in made.parts:
        assert part.target.ndim == 4 and part.whole is made and len(part.rivals) == len(rows)
        assert [part.items[0]] == [made.items[rows[0]]]


def test_every_editors_output_has_its_items_shape() -> None:
    made = mixed()
    outputs = run_editors(made, Models(made), training(made), 0)  # type: ignore[arg-type]
    assert list(outputs) == list(EDITORS)
    for name, output in outputs.items():
        shapes = [one.shape for one in output]
        assert shapes == [target.shape for target in made.target], name
    assert all(
        not np.array_equal(one, target)
        for one, target in zip(other_targets(made, 0), made.target, strict=True)
    )


def test_wrong_editors_stay_wrong_on_a_size_that_one_item_alone_has() -> None:
    made = mixed(4)  # of the second and third size there is one
    outputs = run_false_editors(made, training(made))
    for name in FALSE_EDITORS:
        for one, target in zip(outputs[name], made.target, strict=True):
            assert not np.array_equal(one, target), name


def test_scores_of_a_mixed_bench_are_those_of_its_parts() -> None:
    torch.manual_seed(0)
    net = FeatureNet().requires_grad_(False).eval()
    made = mixed()
    outputs = run_editors(made, Models(made), training(made), 0)  # type: ignore[arg-type]
    scorings = prepare(made, outputs, net, Clip())  # type: ignore[arg-type]
    assert {len(parts) for parts in scorings.values()} == {3}
    found = score(made, scorings, {"psnr": exactly(25)})
    assert found.table["student"]["local"]["success"].value == 1.0
    assert found.table["oracle"]["local"]["success"].value == 1.0
    assert found.table["identity"]["local"]["success"].value == 0.0
    for number, (rows, part) in enumerate(made.parts):
        alone = {name: [parts[number]] for name, parts in scorings.items()}
        own = score(part, alone, {"psnr": exactly(25)})
        for editor, measured in own.per_item.items():
            for name, values in measured.items():
                all_of: Measured = found.per_item[editor][name]
                assert np.array_equal(all_of.top[rows], values.top, equal_nan=True), (editor, name)


class Clip:
    """Vectors of pictures and texts that mean nothing."""

    def image_embeddings(self, images: Images) -> np.ndarray:
        return np.stack([images.mean(axis=(1, 2, 3)), np.ones(len(images))], axis=1)

    def text_embeddings(self, texts: list[str]) -> np.ndarray:
        return np.array([[len(text), 1.0] for text in texts], np.float32)


def test_the_autoencoder_is_scored_on_pictures_of_all_sizes() -> None:
    images = as_images([pictures(number)[0] for number in range(6)])
    off = Models(mixed(3)).round_trip(images)
    clusters = [str(number) for number in range(6)]
    both = autoencoder_scores(images, off, clusters)
    singles = [
        autoencoder_scores(images[row][None], off[row][None], ["0"])["psnr"].value
        for row in range(6)
    ]
    assert both["psnr"].value == pytest.approx(float(np.mean(singles)))
