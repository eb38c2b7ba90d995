"""The overfit gates, shortened: smaller networks and fewer steps, and lower marks to match."""

import pytest
import torch

from benchmarks.overfit import Size, drawn_pairs, mean_db, psnr, train_flow, train_student

SHORT = Size(hidden=96, singles=1, flow_steps=200, ladd_steps=50, batch=24, ladd_batch=12)


def test_psnr_is_of_images_and_against_the_targets() -> None:
    data = drawn_pairs()
    exact = data.latents[data.target]
    assert float(psnr(exact, data).min()) > 100
    assert mean_db(exact + 0.02, data) <= 40.01
    assert mean_db(exact - 0.2, data) == pytest.approx(20.0, abs=0.3)  # 0.2 of a range of 2
    contexts = data.latents[data.context]
    assert mean_db(contexts, data) < 15  # copying the context is no way to pass
    assert float(psnr(contexts, data).max()) < 30


def test_the_flow_learns_eight_pairs_and_the_knocked_student_recovers_by_ladd() -> None:
    data = drawn_pairs()
    teacher, flow_db = train_flow(SHORT, data)
    assert flow_db > 21.0
    figures, gates = train_student(SHORT, data, teacher, lr_student=1e-3, ema_decay=0.9)
    assert len(gates) == 8
    assert figures["knocked_student_db"] < figures["teacher_4_steps_db"] - 3
    assert figures["student_4_steps_db"] > figures["knocked_student_db"] + 3
    assert torch.isfinite(torch.tensor(list(figures.values()))).all()
