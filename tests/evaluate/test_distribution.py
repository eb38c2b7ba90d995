"""Distances of distributions against closed forms and against the definitions, written naively."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from kontext.evaluate.metrics.distribution import diversity, kid, precision_recall, saturation

Points = NDArray[np.float32]


def normal(count: int, size: int, mean: float = 0.0, seed: int = 0) -> Points:
    return np.random.default_rng(seed).normal(mean, 1, (count, size)).astype(np.float32)


def naive_kid(real: Points, made: Points) -> float:
    def k(x: Points, y: Points) -> float:
        return float((float(np.dot(x.astype(float), y)) / len(x) + 1) ** 3)

    def among(points: Points) -> float:
        pairs = [k(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j]
        return sum(pairs) / len(pairs)

    across = [k(a, b) for a in real for b in made]
    return among(real) + among(made) - 2 * sum(across) / len(across)


def naive_share(points: Points, others: Points, neighbours: int) -> float:
    found = 0
    for point in points:
        for i, other in enumerate(others):
            fellows = sorted(
                float(np.linalg.norm(other - fellow)) for j, fellow in enumerate(others) if j != i
            )
            if float(np.linalg.norm(point - other)) <= fellows[neighbours - 1]:
                found += 1
                break
    return found / len(points)


@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_kid_is_its_definition(mean: float) -> None:
    real, made = normal(13, 5), normal(9, 5, mean, seed=1)
    assert kid(real, made) == pytest.approx(naive_kid(real, made), rel=1e-6, abs=1e-9)


def test_kid_of_normal_distributions_is_the_closed_form() -> None:
    """In one dimension (x y + 1)^3 compares the first three moments, weighing 3, 3 and 1."""
    mean = 0.8
    moments = [(mean, 0.0), (1 + mean**2, 1.0), (3 * mean + mean**3, 0.0)]
    expected = sum(w * (a - b) ** 2 for w, (a, b) in zip((3, 3, 1), moments, strict=True))
    found = [kid(normal(300, 1, mean, seed=s), normal(300, 1, seed=100 + s)) for s in range(60)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 4 * error < 0.25 * expected


def test_kid_of_one_distribution_is_zero_on_average_whatever_the_number_of_pictures() -> None:
    for count in (5, 50):
        found = [kid(normal(count, 4, seed=s), normal(count, 4, seed=1000 + s)) for s in range(400)]
        assert abs(np.mean(found)) < 4 * np.std(found) / 20
        assert min(found) < 0 < max(found)


@pytest.mark.parametrize(("mean", "neighbours"), [(0.0, 3), (0.8, 3), (0.8, 1), (3.0, 5)])
def test_precision_and_recall_are_their_definition(mean: float, neighbours: int) -> None:
    real, made = normal(40, 3), normal(25, 3, mean, seed=1)
    found = precision_recall(real, made, neighbours)
    expected = (naive_share(made, real, neighbours), naive_share(real, made, neighbours))
    assert found == pytest.approx(expected)


def test_what_is_made_of_one_kind_alone_has_precision_and_no_recall() -> None:
    real = np.concatenate([normal(60, 4), normal(60, 4, mean=40.0, seed=1)])
    precision, recall = precision_recall(real, normal(60, 4, seed=2))
    assert precision > 0.9 and recall < 0.55
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 1000) == (0.0, 0.0)


def test_rows_in_chunks_are_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = normal(40, 3), normal(25, 3, 0.5, seed=1)
    whole = precision_recall(real, made)
    monkeypatch.setattr("kontext.evaluate.metrics.distribution._CHUNK", 7)
    assert precision_recall(real, made) == whole


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="two pictures"):
        kid(normal(1, 3), normal(5, 3))
    with pytest.raises(ValueError, match="3 nearest neighbours"):
        precision_recall(normal(3, 3), normal(9, 3))
    with pytest.raises(ValueError, match="two or more"):
        diversity(normal(4, 3)[None])


def test_diversity_is_the_mean_over_pairs_of_draws() -> None:
    features = normal(4 * 6, 5).reshape(4, 6, 5)
    found = diversity(features)
    for item in range(6):
        apart = [
            1 - float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
            for a, b in combinations(features[:, item].astype(float), 2)
        ]
        assert found[item] == pytest.approx(np.mean(apart), rel=1e-6)
    same = np.repeat(normal(6, 5)[None], 3, axis=0)
    assert diversity(same) == pytest.approx(np.zeros(6), abs=1e-9)


def test_saturation_is_nothing_for_grey_and_all_for_a_pure_colour() -> None:
    grey = np.full((1, 4, 4, 3), 77, np.uint8)
    red = np.zeros((1, 4, 4, 3), np.uint8)
    red[..., 0] = 255
    half = np.concatenate([red[:, :2], grey[:, :2]], axis=1)
    assert saturation(np.concatenate([grey, red, half])).tolist() == [0.0, 1.0, 0.5]
