"""The overfit gates can be missed, and measure what they say. `make gates` runs them."""

import pytest

from benchmarks.overfit import SHAPES, drawn_pairs, main, mean_db, psnr


def test_psnr_is_of_images_and_against_the_targets() -> None:
    data = drawn_pairs()
    exact = data.latents[data.target]
    assert float(psnr(exact, data).min()) > 100
    assert mean_db(exact + 0.02, data) <= 40.01
    assert mean_db(exact - 0.2, data) == pytest.approx(20.0, abs=0.3)  # 0.2 of a range of 2
    contexts = data.latents[data.context]
    assert mean_db(contexts, data) < 15  # copying the context is no way to pass
    assert float(psnr(contexts, data).max()) < 30


def test_a_flow_too_short_to_learn_misses_the_gates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--short", "--flow-steps", "6"]) == 1
    said = capsys.readouterr().out
    assert "times the spread of real latents" in said and said.endswith("gates MISSED\n")


def test_pairs_can_have_four_shapes_two_of_each() -> None:
    data = drawn_pairs(SHAPES)
    assert [len(rows) for rows in data.by_shape(data.edits())] == [2, 2, 2, 2]
    exact = [data.latents[row.view(1)][0] for row in data.target]
    assert float(psnr(exact, data).min()) > 100
    worse = [exact[0] + 0.2, *exact[1:]]
    assert psnr(worse, data).argmin() == 0  # each pair has its own figure
