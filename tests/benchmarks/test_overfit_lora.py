"""The overfit gate of adapters can be missed. `make gates` runs it."""

import pytest

from benchmarks.overfit import drawn_pairs
from benchmarks.overfit_lora import first_four, main


def test_adapters_learn_four_of_the_pairs_and_too_few_steps_miss_the_gate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert first_four(drawn_pairs()).target.tolist() == [0, 1, 2, 3]
    assert main(["--base-steps", "4", "--steps", "2"]) == 1
    assert capsys.readouterr().out.endswith("overfit of adapters MISSED\n")
