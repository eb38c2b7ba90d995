"""A stage stops where its numbers do not mean what they meant to the stage before it."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from kontext.errors import NumericsError
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter
from kontext.train.record.ledger import ARITHMETIC
from kontext.train.record.numerics import LEDGER
from tests.stages import finished_run
from tests.stages.encoded_run import encoded_run
from tests.stages.stage_harness import Harness

CHANGED = "something else"


def with_ledger(harness: Harness, stage: str, ledger: Mapping[str, str]) -> None:
    """Put a copy of a stage's artifact with another ledger in its place."""
    made = harness.inputs[stage]

    def fill(writer: ArtifactWriter) -> None:
        for name in made.names():
            if name != LEDGER:
                writer.add_file(name, made.path(name))
        writer.add_json(LEDGER, dict(ledger))

    digest = f"ledger-{abs(hash(json.dumps(dict(ledger), sort_keys=True))):x}"
    writer = harness.store.writer(stage, digest)
    fill(writer)
    harness._commit(stage, writer)


def names_of(error: NumericsError) -> set[str]:
    return {line.split(": " + CHANGED)[0] for line in error.lines}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    harness = encoded_run(tmp_path_factory.mktemp("numerics"))
    return harness, harness.run("finetune")


def test_the_ledger_is_shown_stored_and_in_the_checkpoint(
    trained: tuple[Harness, Artifact],
) -> None:
    harness, artifact = trained
    ledger = artifact.json(LEDGER)
    for entry in (
        "shift: mu at 4 target tokens",
        "shift: mu at 4096 target tokens",
        "eps: transformer norms",
        "eps: optimiser adamw",
        "dtype: weights",
        "dtype: products",
        "kernel: attention",
        "guidance: mode",
        "text: length",
        "codec: sha256",
    ):
        assert ledger[entry], entry
    codec = harness.inputs["train-autoencoder"].manifest.file("autoencoder.safetensors")
    assert ledger["codec: sha256"] == codec.sha256 and ledger["text: length"] == "5"
    shown = {row["entry"]: row["value"] for row in harness.report.tables["finetune-numerics"]}
    assert shown == ledger
    assert any("encode has no numerics ledger" in note for note in artifact.manifest.notes)


def test_the_speed_of_the_steps_is_in_the_summary(trained: tuple[Harness, Artifact]) -> None:
    harness, artifact = trained
    text = harness.report.texts["finetune-summary"]
    assert "tokens/s" in text and "model FLOPs utilisation unknown" in text
    metrics = artifact.manifest.metrics
    assert metrics["step_seconds"] > 0 and metrics["step_memory_mib"] > 0
    assert metrics["step_utilisation"] is None and metrics["steps_left_out"] == 0
    assert len(harness.report.tables["finetune-speed"]) == 5


def test_every_entry_of_the_teachers_ledger_stops_distill(
    trained: tuple[Harness, Artifact],
) -> None:
    harness, artifact = trained
    ledger = artifact.json(LEDGER)
    # what only training does: its optimisers, and its three shares of dropout
    own = {name for name in ledger if "optimiser" in name or "dropout" in name}
    assert len([name for name in own if "dropout" in name]) == 3
    for name, value in ledger.items():
        if name in own:
            continue
        with_ledger(harness, "finetune", {**ledger, name: CHANGED})
        with pytest.raises(NumericsError) as stopped:
            harness.run("distill")
        assert stopped.value.lines == (f"{name}: {CHANGED} -> {value}",)
    harness.inputs["finetune"] = artifact


def test_other_arithmetic_is_let_through_where_the_recipe_says_so(tmp_path: Path) -> None:
    harness = encoded_run(tmp_path, same_arithmetic=False)
    ledger = harness.run("finetune").json(LEDGER)
    with_ledger(harness, "finetune", {**ledger, **dict.fromkeys(ARITHMETIC, CHANGED)})
    artifact = harness.run("distill")
    assert artifact.json(LEDGER)["kernel: attention"] == ledger["kernel: attention"]
    with_ledger(harness, "finetune", {**ledger, "codec: sha256": CHANGED})
    with pytest.raises(NumericsError):
        harness.run("distill")


def test_every_entry_of_the_encoded_data_stops_finetune(tmp_path: Path) -> None:
    harness = encoded_run(tmp_path)
    codec = harness.inputs["train-autoencoder"].manifest.file("autoencoder.safetensors").sha256
    true = {"text: length": "5", "text: dtype": "float16", "codec: sha256": codec}
    for name, value in true.items():
        with_ledger(harness, "encode", {**true, name: CHANGED})
        with pytest.raises(NumericsError) as stopped:
            harness.run("finetune")
        assert stopped.value.lines == (f"{name}: {CHANGED} -> {value}",)
    with_ledger(harness, "encode", {**true, "codec: scale": "0.5", "device": "cuda"})
    made = harness.run("finetune").json(LEDGER)
    assert made["codec: scale"] == "0.5" and made["device"] == "cpu"


def test_evaluate_and_publish_stop_on_any_entry_of_the_students_ledger(tmp_path: Path) -> None:
    harness = finished_run.finished_run(tmp_path)
    harness.run("encode")
    entries = {
        **harness.inputs["encode"].json(LEDGER),
        "shift: mu at 16 target tokens": "",
        "shift: mu at 256 target tokens": "",
        "shift: mu at 4096 target tokens": "",
        "eps: transformer norms": "",
        "guidance: mode": "",
        "context: mode": "",
        "dtype: weights": "",
        "dtype: products": "",
        "kernel: attention": "",
    }
    del entries["dtype: latents"], entries["text: dtype"]  # evaluate keeps neither
    with_ledger(harness, "distill", dict.fromkeys(entries, CHANGED))
    with pytest.raises(NumericsError) as stopped:
        harness.run("evaluate")
    assert names_of(stopped.value) == set(entries)
    harness.make("evaluate", lambda writer: None)  # publish reads the settings it was made with
    with pytest.raises(NumericsError) as stopped:
        harness.run("publish")
    assert names_of(stopped.value) == set(entries) - set(ARITHMETIC)
