import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kontext.data.encoded.latents import load_pairs
from kontext.errors import GateError, RecipeError
from kontext.models.files.lora_files import load_lora
from kontext.models.files.recognise_autoencoder import SHAPE_KEY
from kontext.models.files.weights import bfl_entries
from kontext.models.flux.transformer import FluxTransformer, load_transformer
from kontext.parallel.flops import Tokens
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.capacity import Estimate, Machine, estimate_flow
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.clock import COLUMNS
from kontext.train.loop.state import TrainState
from kontext.train.methods.flow import FlowMethod
from kontext.train.record import reporting
from kontext.train.record.numerics import LEDGER
from kontext.train.record.reporting import report_speed
from kontext.train.start.fit import found
from schemas.sections.training import FinetuneConfig
from schemas.sections.weights import WeightsConfig
from schemas.tables import CATEGORIES
from tests.stages.encoded_run import FLOW, PER_CATEGORY, SHAPE, broken_at, encoded_run
from tests.stages.stage_harness import Harness

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    harness = encoded_run(tmp_path_factory.mktemp("finetune"))
    return harness, harness.run("finetune")


def sums(artifact: Artifact) -> dict[str, str]:
    return {file.name: file.sha256 for file in artifact.manifest.files}


def test_a_killed_run_ends_as_an_unbroken_one(
    tmp_path: Path, made: tuple[Harness, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = encoded_run(tmp_path)
    broken_at(monkeypatch, FlowMethod, 5, harness, "finetune")
    checkpoints = Checkpoints(tmp_path / "scratch/finetune/checkpoints")
    assert checkpoints.finished() == [2, 4]  # those that were whole
    steps: list[int] = []
    real = FlowMethod.step
    monkeypatch.setattr(
        FlowMethod, "step", lambda self, index: (steps.append(index), real(self, index))[1]
    )
    resumed = harness.run("finetune")
    assert harness.report.continued_from == "step 4 of 6"
    assert steps == [4, 5]
    assert sums(resumed) == sums(made[1])


def test_every_step_and_both_phases_are_in_the_history(made: tuple[Harness, Artifact]) -> None:
    history = made[1].table("history.parquet").to_pylist()
    assert [row["step"] for row in history] == list(range(FLOW["t2i_steps"] + FLOW["joint_steps"]))
    phase_one = history[: FLOW["t2i_steps"]]
    assert all(row["t2i"] is not None and row.get("edit") is None for row in phase_one)
    assert any(row.get("edit") is not None for row in history[FLOW["t2i_steps"] :])


def test_loss_is_measured_per_level_and_category_on_validation_pairs(
    made: tuple[Harness, Artifact],
) -> None:
    _, artifact = made
    rows = artifact.table("levels.parquet").to_pylist()
    assert {row["category"] for row in rows} == {*CATEGORIES, "t2i"}
    assert len({row["level"] for row in rows}) == 8 and len(rows) == 8 * 6
    assert all(row["loss"] > 0 and row["n"] == PER_CATEGORY for row in rows)
    mean = sum(row["loss"] for row in rows) / len(rows)
    assert artifact.manifest.metrics["val_loss"] == pytest.approx(mean, rel=1e-4)


def test_the_weights_are_the_average_and_load(made: tuple[Harness, Artifact]) -> None:
    harness, artifact = made
    model = load_transformer(artifact, "flow.safetensors", torch.device("cpu"))
    assert artifact.manifest.metrics["parameters"] == sum(p.numel() for p in model.parameters())
    saved = load_file(artifact.path("flow.safetensors"))
    method = FlowMethod(harness.recipe.finetune, load_pairs(harness.inputs["encode"], "train", CPU))
    method.state.ledger = artifact.json(LEDGER)
    assert Checkpoints(harness.folder / "scratch/finetune/checkpoints").restore(method.state)
    last = method.model.state_dict()
    assert saved.keys() == last.keys()
    assert any(not torch.equal(saved[name], last[name]) for name in saved)
    assert artifact.path("samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("categories", [("t2i",), CATEGORIES], ids=["t2i", "edits"])
def test_data_of_one_kind_trains_in_both_phases(
    tmp_path: Path, categories: tuple[str, ...]
) -> None:
    """Data without edits has no steps that need them, and its samples are drawn from words."""
    harness = encoded_run(tmp_path, categories)
    artifact = harness.run("finetune")
    history = artifact.table("history.parquet").to_pylist()
    kind = "t2i" if categories == ("t2i",) else "edit"
    assert len(history) == FLOW["t2i_steps"] + FLOW["joint_steps"]
    assert all(row["loss"] > 0.1 and (row.get(kind) or 0) > 0.1 for row in history)
    levels = artifact.table("levels.parquet").to_pylist()
    assert {row["category"] for row in levels} == set(categories)
    assert artifact.path("samples.png").read_bytes().startswith(b"\x89PNG")


def test_steps_that_need_edits_are_refused_before_the_flow_is_trained(tmp_path: Path) -> None:
    harness = encoded_run(tmp_path, ("t2i",))
    section = harness.recipe.finetune.model_dump() | {"guidance_distill": {"steps": 2}}
    config = FinetuneConfig.model_validate(section)
    harness.recipe = harness.recipe.model_copy(update={"finetune": config})
    with pytest.raises(RecipeError, match=r"steps after the flow \(guidance\) need edits"):
        harness.run("finetune")
    assert not (harness.folder / "scratch/finetune/checkpoints").exists()


def test_prompts_that_the_text_rules_stop_are_not_drawn(tmp_path: Path) -> None:
    harness = encoded_run(tmp_path)
    harness.inputs["encode"].manifest.config["prompts"] = ["a cat", "undress her"]
    with pytest.raises(GateError, match="prompt 2 is refused"):
        harness.run("finetune")


def test_validation_and_samples_on_the_way_leave_no_trace(
    tmp_path: Path, made: tuple[Harness, Artifact]
) -> None:
    harness = encoded_run(tmp_path)
    section = harness.recipe.finetune.model_copy(update={"validate_every": 3})
    harness.recipe = harness.recipe.model_copy(update={"finetune": section})
    artifact = harness.run("finetune")
    plain = made[1].table("history.parquet").to_pylist()
    assert artifact.table("history.parquet").to_pylist() == plain
    rows = artifact.table("measured.parquet").to_pylist()
    assert [row["step"] for row in rows] == [3, 6]
    assert {"val_loss", "val_loss/level_0", "val_loss/category_local"} <= rows[0].keys()
    files = (harness.folder / "home/tensorboard").glob("flow-*/events*")
    data = b"".join(path.read_bytes() for path in files)
    for tag in (b"flow/loss", b"flow/tokens_per_second", b"flow/val_loss", b"flow/samples"):
        assert tag in data
    assert "measured.parquet" not in made[1].names()


def test_the_prediction_is_told_beside_what_was_measured(
    made: tuple[Harness, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = made[0]
    ctx = Context(harness)
    state = TrainState({}, {}, clock=[{"step": 0, **dict.fromkeys(COLUMNS, 2.0)}])
    section, tokens = harness.recipe.finetune, Tokens(20, 16, 16)

    def predicted(machine: Machine) -> Estimate:
        return estimate_flow(section, tokens, machine)

    with monkeypatch.context() as patch:
        patch.setattr(reporting, "this_machine", lambda ctx: Machine(1, 80.0))
        said = report_speed(ctx, "finetune", state, predicted)  # type: ignore[arg-type]
    assert re.search(r"Predicted: [\d.e-]+ s, [\d,]+ MiB\.$", said)
    (row,) = harness.report.tables["finetune-plan"]
    assert row["measured_step_seconds"] == 2.0 and row["predicted_memory_gib"] > 0
    assert "Predicted" not in report_speed(ctx, "finetune", state, predicted)  # type: ignore[arg-type]


class Context:
    """What `report_speed` needs of a stage's context."""

    def __init__(self, harness: Harness) -> None:
        self.config = harness.recipe.finetune
        self.report, self.output = harness.report, self
        self.metric = lambda name, value: None


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in bf16, as they are published, for the toy pairs of the stage."""
    torch.manual_seed(7)
    model = FluxTransformer(SHAPE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("given") / "flux.safetensors"
    state = model.to(torch.bfloat16).state_dict()
    save_file(state, path, {SHAPE_KEY: SHAPE.model_dump_json()})
    return path


def adapting(folder: Path, given: Path | str, **changes: object) -> Harness:
    """Adapters of rank 2 beside given weights."""
    harness = encoded_run(folder)
    section = {**FLOW, "shape": SHAPE, "optimizer": "adamw", "lora_rank": 2, **changes}
    config = FinetuneConfig.model_validate(section)
    weights = WeightsConfig(transformer=str(given))
    harness.recipe = harness.recipe.model_copy(update={"finetune": config, "weights": weights})
    return harness


@pytest.mark.parametrize("base", ["fp8", "nf4"])
def test_adapters_beside_a_quantised_base_are_for_the_stored_weights(
    base: str, given: Path, tmp_path: Path
) -> None:
    """What later stages take is the given weights with the adapters of the file, and nothing of
    the quantised ones; samples are drawn on the way.
    """
    harness = adapting(tmp_path, given, lora_base=base, validate_every=3, lr=1e-2)
    made = harness.run("finetune")
    assert made.manifest.metrics["lora_base"] == base
    assert made.json("ledger.json")["dtype: adapters' base"] == base
    assert made.json("ledger.json")["dtype: weights"] == "bfloat16"
    assert made.manifest.metrics["parameters"] == sum(
        p.numel() for p in FluxTransformer(SHAPE).parameters()
    )
    assert harness.report.images["finetune-samples"]
    lora = load_lora(made.path("lora.safetensors"), FluxTransformer(SHAPE)).require_effect()
    merged = {e.name: e.read() for e in lora.merged(bfl_entries(given, FluxTransformer(SHAPE)))}
    flow = load_file(made.path("flow.safetensors"))
    before = load_file(given)
    assert flow.keys() == merged.keys() == before.keys()
    for name, tensor in flow.items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, merged[name]), name
        assert torch.equal(tensor, before[name]) == (name not in lora.adapters), name


def test_a_killed_run_beside_a_quantised_base_ends_as_an_unbroken_one(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapting(tmp_path / "whole", given, lora_base="nf4").run("finetune")
    harness = adapting(tmp_path / "broken", given, lora_base="nf4")
    broken_at(monkeypatch, FlowMethod, 5, harness, "finetune")
    checkpoint = next((harness.folder / "scratch" / "finetune").glob("**/step-*/manifest"))
    names = torch.load(checkpoint, weights_only=True)["tensors"]
    assert all("lora_" in name for name in names if name.startswith(("modules/", "ema/model/d")))
    again = harness.run("finetune")
    assert sums(again) == sums(whole)


def swapping(count: int) -> dict[str, object]:
    return {"lora_base": "stored", "parallel": {"swap": count}}


def test_swapped_blocks_make_the_same_artifact(given: Path, tmp_path: Path) -> None:
    """Steps in pixels and all; what is published is merged tensor by tensor. At the end one is
    measured with merged weights, the other with adapters beside its base.
    """
    changes = {"joint_steps": 1, "pictures": {"steps": 1, "batch": 4, "warmup": 1}}
    made = [
        adapting(tmp_path / str(count), given, **swapping(count), **changes).run("finetune")
        for count in (0, 3)
    ]
    for name in ("history", "pictures"):
        one, two = (artifact.table(f"{name}.parquet") for artifact in made)
        assert one.equals(two), name
    one, two = (artifact.table("levels.parquet")["loss"].to_pylist() for artifact in made)
    assert two == pytest.approx(one, rel=1e-3)
    for file in ("flow.safetensors", "lora.safetensors"):
        one, two = (load_file(artifact.path(file)) for artifact in made)
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one), file


def test_bases_that_cannot_be_are_one_line_before_a_step(given: Path, tmp_path: Path) -> None:
    ranks = {"launcher": "torchrun", "ranks": 2}
    cases: tuple[tuple[Path | str, dict[str, object], str], ...] = (
        (given, {"lora_rank": 0}, "lora_base=nf4 is for frozen weights beside adapters"),
        ("", {}, "lora_base=nf4 is for given weights: set weights.transformer"),
        (given, {"guidance_distill": {"steps": 1}}, "and finetune.guidance_distill do not go"),
        (given, {"parallel": {"compile": "eager"}}, "and finetune.parallel.compile do not go"),
        (given, {**swapping(3), "lora_rank": 0}, "parallel.swap=3 is for frozen weights beside"),
        (given, swapping(4), "parallel.swap=4: the transformer has 3 blocks"),
        (given, swapping(2), "parallel.swap=2 saves no memory"),
        (given, {**swapping(3), "launch": ranks}, "parallel.swap=3 needs .*launcher=in-process"),
    )
    for number, (weights, changes, words) in enumerate(cases):
        section = {"lora_base": "nf4", **changes}
        harness = adapting(tmp_path / str(number), weights, **section)
        for refused in (
            lambda harness=harness: harness.run("finetune"),
            lambda harness=harness: found(harness.recipe.weights, harness.recipe, harness.store),
        ):
            with pytest.raises(RecipeError, match=words) as caught:
                refused()
            assert "\n" not in str(caught.value)
        assert not list((harness.folder / "scratch" / "finetune").iterdir())
