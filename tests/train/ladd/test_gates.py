"""Each of LADD's ten known wiring faults, switched on, is caught by the gate that watches it."""

import json

import pytest
import torch

from kontext.errors import DivergedError, GateError, WiringError
from kontext.train.ladd.gates import (
    Finding,
    check_training,
    run_gates,
    settings_digest,
    stop_at_failure,
)
from kontext.train.loop.fit import fit
from kontext.train.loop.state import copied, weights_of
from schemas.sections.training import DistillConfig
from tests.train.broken_ladd import FAULTS, Deadlock, Fault, wired

GATES = ["sampler", "edits", "input", "estimate", "gradient", "batch", "turns", "rates"]


def test_a_sound_method_passes_every_gate_and_is_left_as_it_was() -> None:
    method, sampler = wired()
    before = copied(weights_of(method.state))
    drawn = torch.random.get_rng_state()
    findings = run_gates(method, sampler)
    assert [f.gate for f in findings] == GATES and all(f.passed for f in findings), findings
    stop_at_failure(findings)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    after = weights_of(method.state)
    for name, weights in before["modules"].items():
        assert all(torch.equal(value, after["modules"][name][k]) for k, value in weights.items())
    assert str(before["optimizers"]) == str(after["optimizers"])
    assert all(p.grad is None for m in method.state.modules.values() for p in m.parameters())
    untouched, _ = wired()
    assert fit(method) == fit(untouched)  # the run is that of a method without gates


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_by_its_gate_and_stops_the_run(name: str) -> None:
    fault: Fault = FAULTS[name]
    method, sampler = fault.make()
    try:
        findings = run_gates(method, sampler, fault.patience)
    finally:
        Deadlock.released.set()
    failed = [f for f in findings if f.passed is False]
    assert [f.gate for f in failed] == [fault.gate], findings
    assert fault.number in failed[0].faults
    with pytest.raises(WiringError, match=fault.symptom) as raised:
        stop_at_failure(findings)
    assert raised.value.gate == fault.gate and isinstance(raised.value, GateError)
    later = findings[[f.gate for f in findings].index(fault.gate) + 1 :]
    assert all(f.passed is None and "not run" in f.seen for f in later)


def test_all_ten_faults_are_tried_and_every_gate_has_one() -> None:
    assert {fault.number for fault in FAULTS.values()} == set(range(1, 11))
    assert {fault.gate for fault in FAULTS.values()} == set(GATES)
    watched = {n for f in run_gates(*wired()) for n in f.faults}
    assert watched == set(range(1, 11))


def test_findings_are_json_and_the_same_each_time() -> None:
    rows = [[f.row() for f in run_gates(*wired())] for _ in range(2)]
    assert json.dumps(rows[0]) == json.dumps(rows[1])
    assert set(rows[0][0]) == {"gate", "faults", "passed", "seen"}


def test_an_error_of_torch_inside_a_gate_is_a_finding() -> None:
    method, sampler = wired()
    method.real = method.real[:, :2]  # edits of another codec
    findings = run_gates(method, sampler)
    failed = next(f for f in findings if f.passed is False)
    with pytest.raises(WiringError, match=failed.gate):
        stop_at_failure(findings)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_gates_pass_for_students_of_any_number_of_steps(steps: int) -> None:
    findings = run_gates(*wired(student_steps=steps))
    assert all(f.passed for f in findings), findings


def test_settings_that_passed_are_a_line_of_the_ledger() -> None:
    one, other = DistillConfig(), DistillConfig(lr_heads=1e-3)
    assert settings_digest(one) == settings_digest(DistillConfig())
    assert settings_digest(one) != settings_digest(other)


def test_a_hinge_pinned_to_the_end_is_a_failure() -> None:
    with pytest.raises(DivergedError, match="pinned at zero"):
        check_training([{"heads_loss": 0.0, "accuracy": 1.0}] * 30)
    assert check_training([{"heads_loss": 1.3, "accuracy": 0.8}] * 30) == []
    with pytest.raises(ValueError, match="batch"):
        DistillConfig(batch=1)


def test_heads_that_never_beat_chance_are_told_of() -> None:
    chance, able = {"heads_loss": 1.9, "accuracy": 0.5}, {"heads_loss": 1.2, "accuracy": 0.7}
    (verdict,) = check_training([chance] * 60)
    assert "never told real from fake (best 50%" in verdict
    # a student that catches up with its teacher ends there too, and that is no fault
    assert check_training([able] * 30 + [chance] * 60) == []
    assert check_training([chance] * 19) == []  # too short to tell


def test_findings_without_a_failure_stop_nothing() -> None:
    stop_at_failure([Finding("input", (1,), True, "fine"), Finding("rates", (10,), None, "")])
