"""Stage finetune: the rectified-flow transformer, text-to-image first, then jointly with edits.

Figures:
    val_loss: validation loss {}
    context_gain: {%} of a wrong context's loss saved by the right one
    train_loss_last: training loss {} over the last 20 steps
    parameters: {} parameters
    step_seconds: {} s per step
    step_utilisation: {%} of the device's peak
    step_memory_mib: {} MiB of memory
    steps_left_out: {} steps left out
    guidance_unlearned: {%} of the guidance not learned
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pyarrow as pa
import torch
from safetensors.torch import save_file

from kontext.data.encoded.banks import open_bank
from kontext.data.encoded.latents import load_pairs
from kontext.data.encoded.pair_tensors import PairTensors
from kontext.edit.preview import check_prompts, preview_edits, preview_prompts
from kontext.engine.stage import Stage, StageContext, section_of
from kontext.errors import RecipeError
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.ranks.rank import StepProgress
from kontext.parallel.world import World
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.capacity import estimate_flow
from kontext.train.flow.edit_step import EditMethod
from kontext.train.flow.validation import context_gain, level_losses
from kontext.train.loop.fit import Measure
from kontext.train.loop.training import train
from kontext.train.methods import after_flow, flow
from kontext.train.methods.flow import FlowMethod
from kontext.train.record.ledger import Ledger, optimizer_ledger
from kontext.train.record.numerics import LEDGER, check_against, report_ledger
from kontext.train.record.outputs import device_for, write_history, write_incidents
from kontext.train.record.reporting import report_progress, report_speed, tensorboard
from kontext.train.record.transformer_ledger import pairs_ledger
from kontext.train.start.model import ADAPTER, START, TEACHER
from kontext.train.start.transformer import (
    Given,
    save_adapters,
    save_flow,
    starting_weights,
    without_weights,
)
from schemas.sections.training import EncodeConfig, FinetuneConfig

STAGE = Stage(
    name="finetune",
    section="finetune",
    inputs=("encode", "train-autoencoder"),
    pool="gpu",
    weights=("transformer", "adapter"),
    plugins="kontext.train.methods:modules_named",
    model=True,
    summary="rectified-flow transformer: text-to-image, then joint text and image",
)

_SAMPLES = {
    "samples": "validation pairs: context | edit | target",
    "prompts": "own prompts: without a picture, with one, with several",
}


def run(ctx: StageContext[FinetuneConfig]) -> None:
    """Train on the train split, measure loss per level and category on the validation split.

    Raises:
        RecipeError: `weights.transformer` points to nothing, or to a transformer that takes
            latents or texts of other widths; steps after the flow, and no edits; adapters
            of another rank or other layers than the recipe's, or beside a base that cannot be.
        GateError: a prompt of the recipe's own is one that nobody may edit with.
        NumericsError: the latents or texts were not encoded as this recipe says.
        DivergedError: losses that are not finite, and the recipe says to stop.
    """
    keep_freed_memory()
    check_prompts(ctx.upstream("encode", EncodeConfig).prompts)
    given = starting_weights(ctx, ctx.config)
    inputs = Inputs.of(ctx)
    if given is not None:
        ctx, inputs = _beginning(ctx, inputs, given)
    config = ctx.config
    launches = config.launch.launcher != "in-process"
    method = flow.build(config, inputs, World(device=device_for(ctx), launches=launches))
    if after_flow(config) and not len(method.data.plain_edits()):  # not when the flow is paid for
        raise RecipeError(
            f"finetune: steps after the flow ({', '.join(after_flow(config))}) need edits, and the "
            "training split has none"
        )
    method.state.ledger = _ledger(ctx, method)
    history = train(
        ctx,
        build_on_rank,
        method,
        inputs,
        progress=_with_samples(ctx, report_progress(ctx, "flow")),
        stage="finetune",
        measure=_measured(ctx, method),
    )
    if method.state.step < method.total_steps:
        ctx.note(
            f"ended after {method.state.step:,} of {method.total_steps:,} steps: "
            f"{config.patience} validations without a better loss"
        )
    model = method.model
    method.state.ema["model"].copy_to(model)
    following = after_flow(config)
    for name in (name for name, each in following.items() if each.IN_PLACE):
        model = _train_further(ctx, method, model, inputs, name)
    model.requires_grad_(False).eval()
    save_adapters(ctx, config, model, given.adapter if given else None)
    for name in (name for name, each in following.items() if not each.IN_PLACE):
        model = _train_further(ctx, method, model, inputs, name).requires_grad_(False).eval()
    save_flow(ctx, config, model, given)
    ctx.output.add_json("config.json", {"shape": model.shape.model_dump(mode="json")})
    ctx.output.add_json(LEDGER, method.state.ledger)
    write_history(ctx, history)
    mixture = method.mixture()
    ctx.output.add_json("mixture.json", mixture)
    ctx.report.table("finetune-mixture", mixture)
    write_incidents(ctx, method.state)
    _validated(ctx, method, model, history)


def _beginning(
    ctx: StageContext[FinetuneConfig], inputs: Inputs, given: Given
) -> tuple[StageContext[FinetuneConfig], Inputs]:
    """The section with the shape and the rank of given weights, and the inputs with their files."""
    section: dict[str, object] = {"shape": given.shape}
    files = {START: given.path}
    if given.adapter is not None:
        section["lora_rank"], files[ADAPTER] = given.adapter.rank, given.adapter.path
    changed = replace(ctx, config=ctx.config.model_copy(update=section))
    return changed, inputs.using(files=files)


def _validated(
    ctx: StageContext, method: FlowMethod, model: FluxTransformer, history: list[dict[str, float]]
) -> None:
    """Loss per level and category of held-out pairs, their edits in pictures, and the summary."""
    config, tokens = method.config, method.data.edit_tokens
    speed = report_speed(ctx, "finetune", method.state, partial(estimate_flow, config, tokens))
    held_out = load_pairs(ctx.inputs["encode"], "val", method.device)
    levels = level_losses(model, held_out, seed=config.seed, told=method.told)
    ctx.output.add_table("levels.parquet", pa.Table.from_pylist(levels))
    for kind, sheet in _samples(ctx.inputs, method, model, held_out).items():
        ctx.output.add_bytes(f"{kind}.png", sheet)
        ctx.report.image(f"finetune-{kind}", sheet, _SAMPLES[kind])
    losses = torch.tensor([float(row["loss"]) for row in levels])
    ctx.output.metric("parameters", sum(p.numel() for p in without_weights(model).parameters()))
    ctx.output.metric("val_loss", float(losses.mean()))
    gain = context_gain(model, held_out, config.seed, method.told)
    if gain is not None:
        ctx.output.metric("context_gain", gain)
    ctx.output.metric("train_loss_last", sum(r["loss"] for r in history[-20:]) / len(history[-20:]))
    ctx.report.table("finetune-levels", [dict(row) for row in levels])
    ctx.report.markdown(
        "finetune-summary",
        f"**{method.total_steps:,}** steps ({config.t2i_steps:,} text-to-image, "
        f"{config.joint_steps:,} joint) of batch {config.batch}, then {config.pictures.steps:,} "
        f"with a loss in pixels; validation loss over eight noise "
        f"levels **{losses.mean():.4f}**. {speed}",
    )


def _measured(ctx: StageContext, method: FlowMethod) -> Measure | None:
    """Validation loss and samples on the way, where the recipe asks for them."""
    if method.measure is None or method.world.launches:  # ranks measure then
        return None
    held_out = load_pairs(ctx.inputs["encode"], "val", method.device)
    loss = method.measure.of

    def measure(step: int) -> Mapping[str, float]:
        _show(ctx, step, _averaged_samples(ctx.inputs, method, held_out))
        return loss(step)

    return replace(method.measure, of=measure)


def build_on_rank(config: FinetuneConfig, inputs: Inputs, world: World) -> FlowMethod:
    """The flow's method, which draws samples where it validates on the way.

    All ranks draw all of them, for each holds a part of the weights only. The first puts them where
    `_with_samples` finds them. Ranks that share sequences draw none: not all lengths divide.
    """
    method = flow.build(config, inputs, world)
    if method.measure is None or world.context > 1:
        return method
    held_out = load_pairs(inputs["encode"], "val", world.device)
    loss, folder = method.measure.of, inputs.scratch / "drawn"

    def measure(step: int) -> Mapping[str, float]:
        sheets = _averaged_samples(inputs.artifacts, method, held_out)
        if world.is_leader:
            folder.mkdir(exist_ok=True)
            for kind, sheet in sheets.items():
                (folder / f"{step:08}-{kind}.png").write_bytes(sheet)
        return loss(step)

    method.measure = replace(method.measure, of=measure)
    return method


def _with_samples(ctx: StageContext, progress: StepProgress) -> StepProgress:
    """Progress that also shows what ranks have drawn, as soon as they tell what they measured."""

    def report(done: int, total: int, numbers: Mapping[str, float | None]) -> None:
        progress(done, total, numbers)
        if "val_loss" in numbers:
            found = sorted((ctx.scratch / "drawn").glob(f"{done:08}-*.png"))
            _show(ctx, done, {path.stem[9:]: path.read_bytes() for path in found})
            for path in found:
                path.unlink()

    return report


def _show(ctx: StageContext, step: int, sheets: Mapping[str, bytes]) -> None:
    """Samples of a step, on the run's page and in TensorBoard."""
    board = tensorboard(ctx, "flow")
    for kind, sheet in sheets.items():
        ctx.report.image(f"finetune-{kind}", sheet, f"{_SAMPLES[kind]}, after {step:,} steps")
        board.picture(step, f"flow/{kind}", sheet)


def _averaged_samples(
    inputs: Mapping[str, Artifact], method: FlowMethod, held_out: PairTensors
) -> dict[str, bytes]:
    """`_samples` of the averaged weights, of a method that goes on training its own."""
    with method.state.ema["model"].applied(method.model):
        return _samples(inputs, method, method.model, held_out)


def _samples(
    inputs: Mapping[str, Artifact],
    method: FlowMethod,
    model: FluxTransformer,
    held_out: PairTensors,
) -> dict[str, bytes]:
    """PNGs: `samples` of validation pairs, `prompts` of the recipe's own where it has some."""
    codec, shown_at = inputs["train-autoencoder"], _shown_at(method, model)
    found = {"samples": preview_edits(codec, model, held_out, 12, shown_at)}
    prompts = section_of(inputs["encode"].manifest, EncodeConfig).prompts
    if prompts:
        texts = open_bank(inputs["encode"], "texts").texts or []
        rows = {prompt: texts.index(prompt) for prompt in dict.fromkeys(prompts)}
        found["prompts"] = preview_prompts(codec, model, held_out, rows, 12, shown_at)
    return found


def _shown_at(method: FlowMethod, model: FluxTransformer) -> float:
    """The guidance of sample pictures: what a model with an embedding was told."""
    return method.told if model.shape.guidance_embed else 1.0


def _train_further(
    ctx: StageContext, trained: FlowMethod, model: FluxTransformer, inputs: Inputs, name: str
) -> FluxTransformer:
    """Train a flow on by a method that follows it; the history is `<name>.parquet`.

    Returns the averaged weights: `model` itself where the method trains in place.
    """
    config, module = trained.config, after_flow(trained.config)[name]
    launches = trained.world.launches and not module.IN_PLACE
    if launches:
        path = ctx.scratch / "teacher.safetensors"  # no checkpoint of the new model has it
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
        inputs = inputs.using(files={TEACHER: path})
        trained.state.ema.clear()  # nothing is held while ranks train
        model.to_empty(device="meta")
    else:
        inputs = inputs.using(model)
    method: EditMethod = module.build(config, inputs, replace(trained.world, launches=launches))
    trained.state.ledger |= method.numerics
    method.state.ledger = dict(trained.state.ledger)
    progress = report_progress(ctx, name)
    history = train(
        ctx, module.build, method, inputs, progress=progress, stage="finetune", name=name
    )
    write_history(ctx, history, name)
    write_incidents(ctx, method.state)
    for metric, value in method.summary(history[-20:]).items():
        ctx.output.metric(metric, value)
    method.state.ema["model"].copy_to(method.trained)
    return method.trained


def _ledger(ctx: StageContext, method: FlowMethod) -> Ledger:
    """The flow's numerics ledger, from what was loaded; checked against that of `encode`."""
    config = method.config
    ledger = {
        **pairs_ledger(ctx, method.model, method.data, method.products, method.device),
        **optimizer_ledger(method.state.optimizers),
        "guidance: text dropout": f"{config.text_dropout:g}",
        "guidance: image dropout": f"{config.image_dropout:g}",
        "guidance: dropout of both": f"{config.both_dropout:g}",
    }
    check_against(ctx, "finetune", ledger, "encode", arithmetic=False)
    report_ledger(ctx, "finetune", ledger)
    return ledger
