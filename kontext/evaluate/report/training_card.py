"""The training sections: curves, losses per noise level and category, reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kontext.evaluate.bench import Bench
from kontext.evaluate.pixels import Images
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.charts import Line, line_chart, smooth
from kontext.evaluate.report.model import Chart, HeatMap
from kontext.evaluate.score import PSNR_GOAL
from kontext.stage import ArtifactReader
from schemas.recipes import Recipe
from schemas.tables import RELATION_CLASSES

SHOWN = 24  # reconstructions


def column(history: pa.Table, name: str) -> NDArray[np.float64]:
    """A history column with nan for missing values; all nan where there is no such column."""
    if name not in history.column_names:
        return np.full(history.num_rows, np.nan)
    return np.array(
        [np.nan if v is None else float(v) for v in history[name].to_pylist()], np.float64
    )


def curves(history: pa.Table, names: Mapping[str, str]) -> list[Line]:
    """Per column (name -> label): the values faintly, a moving average boldly."""
    x = column(history, "step")
    lines: list[Line] = []
    for colour, (name, label) in enumerate(names.items()):
        y = column(history, name)
        known = np.isfinite(y)
        if not known.any():
            continue
        window = max(1, int(known.sum()) // 40)
        if window > 1:
            lines.append(Line("", x[known], y[known], colour, faint=True))
        lines.append(Line(label, x[known], smooth(y[known], window), colour))
    return lines


def numeric(history: pa.Table, leave_out: Sequence[str] = ()) -> list[str]:
    """Names of the numeric columns other than the step."""
    return [
        field.name
        for field in history.schema
        if (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
        and field.name not in ("step", *leave_out)
    ]


def autoencoder_charts(artifact: ArtifactReader, recipe: Recipe) -> list[Chart]:
    """Loss terms, and PSNR where the history has it."""
    history = artifact.table("history.parquet")
    psnr = [name for name in numeric(history) if "psnr" in name]
    terms = {"l1": "L1", "perceptual": "perceptual", "adversarial": "adversarial"}
    config = recipe.autoencoder
    marks = [(config.perceptual_start, "perceptual")]
    if config.disc_start != config.perceptual_start:
        marks.append((config.disc_start, "PatchGAN"))
    else:
        marks = [(config.disc_start, "perceptual, PatchGAN")]
    charts = [
        Chart(
            "Autoencoder loss",
            "Terms as they enter the sum; perceptual and adversarial terms start late.",
            line_chart(curves(history, terms), "step", "loss", marks=marks),
        ),
        Chart(
            "Discriminator",
            "Hinge loss; 1 is a discriminator that cannot tell.",
            line_chart(curves(history, {"critic": "PatchGAN"}), "step", "hinge loss"),
        ),
        Chart(
            "Held-out PSNR",
            "EMA weights, while training.",
            line_chart(
                curves(history, {name: name for name in psnr}),
                "step",
                "dB",
                goal=(PSNR_GOAL, f"goal {PSNR_GOAL:g} dB"),
            ),
        ),
    ]
    return [chart for chart in charts if chart.svg]


def flow_charts(artifact: ArtifactReader, recipe: Recipe) -> list[Chart]:
    """Flow-matching loss of both phases."""
    history = artifact.table("history.parquet")
    names = {"edit": "editing", "t2i": "text-to-image"}
    if not set(names) & set(history.column_names):
        names = {"loss": "training"}
    start = recipe.finetune.t2i_steps
    svg = line_chart(
        curves(history, names),
        "step",
        "velocity error (MSE)",
        marks=[(start, "joint phase")] if start else [],
    )
    caption = "Faint: every step. Phase one is text-to-image from scratch, phase two trains both."
    return [Chart("Flow matching", caption, svg)] if svg else []


def distill_charts(artifact: ArtifactReader) -> list[Chart]:
    """Adversarial losses, and how the discriminator's logits separate where that was recorded."""
    history = artifact.table("history.parquet")
    names = numeric(history, ("seconds", "lr"))
    losses = [n for n in names if "loss" in n or n in ("student", "heads", "critic", "r1")]
    logits = [n for n in names if "real" in n or "fake" in n or "logit" in n]
    losses = [n for n in losses if n not in logits] or [n for n in names if n not in logits][:3]
    charts = [
        Chart(
            "Distillation (LADD)",
            "Hinge losses of the student and of the heads on the frozen teacher.",
            line_chart(curves(history, _labels(losses)), "step", "loss"),
        ),
        Chart(
            "Discriminator logits",
            "Teacher edits (real) against student edits (fake): together means indistinguishable.",
            line_chart(curves(history, _labels(logits)), "step", "mean logit"),
        ),
    ]
    return [chart for chart in charts if chart.svg]


def _labels(names: Sequence[str]) -> dict[str, str]:
    return {name: name.replace("_", " ") for name in names[:6]}


def level_map(artifact: ArtifactReader) -> HeatMap | None:
    """Held-out loss per noise level x category of the last recorded step."""
    levels = artifact.table("levels.parquet")
    if not levels.num_rows:
        return None
    rows = levels.to_pylist()
    if "step" in levels.column_names:
        last = max(row["step"] for row in rows)
        rows = [row for row in rows if row["step"] == last]
    times = sorted({round(float(row["t"]), 3) for row in rows})
    loss = {(row["category"], round(float(row["t"]), 3)): float(row["loss"]) for row in rows}
    names = [name for name in RELATION_CLASSES if any(key[0] == name for key in loss)]
    values = list(loss.values())
    return HeatMap(
        "Held-out loss per noise level and category",
        "Velocity error on the validation split at fixed noise; columns are noise levels t, "
        "from nearly clean to nearly pure noise.",
        tuple(f"t = {t:.2f}" for t in times),
        tuple((name, tuple(loss.get((name, t)) for t in times)) for name in names),
        min(values),
        max(values),
    )


def reconstructions(
    bench: Bench, outputs: Mapping[str, Images], assets: Assets
) -> list[tuple[str, str]]:
    """Contexts of bench items, categories in turn, beside their round trips."""
    queues = [[int(i) for i in bench.where(name)] for name in bench.categories]
    longest = max(len(queue) for queue in queues)
    order = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    seen: set[bytes] = set()
    shown: list[tuple[str, str]] = []
    for i in order:
        pixels = bench.context[i].tobytes()
        if pixels not in seen and len(shown) < SHOWN:
            seen.add(pixels)
            pair = assets.image(bench.context[i], 144), assets.image(outputs["codec"][i], 144)
            shown.append(pair)
    return shown
