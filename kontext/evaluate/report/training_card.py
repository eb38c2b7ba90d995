"""The training sections: curves, losses per noise level and category, reconstructions."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.pixels import Images
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.charts import Curve, line_chart, smooth
from kontext.evaluate.report.model import Chart, HeatMap
from kontext.store.artifacts.artifact_store import Artifact
from schemas.sections.training import AutoencoderConfig, FinetuneConfig
from schemas.tables import RELATION_CLASSES

SHOWN = 24  # reconstructions
_LABELS = {"t2i": "text to image"}


def column(history: pa.Table, name: str) -> NDArray[np.float64]:
    """A history column with nan for missing values; all nan where there is no such column."""
    if name not in history.column_names:
        return np.full(history.num_rows, np.nan)
    return np.array(
        [np.nan if v is None else float(v) for v in history[name].to_pylist()], np.float64
    )


def curves(history: pa.Table, names: Mapping[str, str]) -> list[Curve]:
    """Per column (name -> label): the values faintly, a moving average boldly."""
    x = column(history, "step")
    lines: list[Curve] = []
    for colour, (name, label) in enumerate(names.items()):
        y = column(history, name)
        known = np.isfinite(y)
        if not known.any():
            continue
        window = max(1, int(known.sum()) // 40)
        if window > 1:
            lines.append(Curve("", x[known], y[known], colour, faint=True))
        lines.append(Curve(label, x[known], smooth(y[known], window), colour))
    return lines


def autoencoder_charts(artifact: Artifact, config: AutoencoderConfig) -> list[Chart]:
    """Loss terms and the discriminator."""
    history = artifact.table("history.parquet")
    terms = {"l1": "L1", "perceptual": "perceptual", "adversarial": "adversarial"}
    marks = [(config.perceptual_start, "perceptual")]
    if config.disc_start != config.perceptual_start:
        marks.append((config.disc_start, "PatchGAN"))
    else:
        marks = [(config.disc_start, "perceptual, PatchGAN")]
    charts = [
        Chart(
            "Autoencoder loss",
            "Weighted terms of the loss. Perceptual and adversarial terms start later.",
            line_chart(curves(history, terms), "step", "loss", marks=marks),
        ),
        Chart(
            "Discriminator",
            "Hinge loss; 1 means that the discriminator cannot tell decoded from real.",
            line_chart(curves(history, {"critic": "PatchGAN"}), "step", "hinge loss"),
        ),
    ]
    return [chart for chart in charts if chart.svg]


def flow_charts(artifact: Artifact, config: FinetuneConfig) -> list[Chart]:
    """Flow-matching loss of both phases."""
    history = artifact.table("history.parquet")
    names = {"edit": "editing", "t2i": "text-to-image"}
    if not set(names) & set(history.column_names):
        names = {"loss": "training"}
    start = config.t2i_steps
    svg = line_chart(
        curves(history, names),
        "step",
        "velocity error (MSE)",
        marks=[(start, "joint phase")] if start else [],
    )
    caption = "Faint: every step. Phase one is text-to-image from scratch, phase two trains both."
    return [Chart("Flow matching", caption, svg)] if svg else []


def distill_charts(artifact: Artifact) -> list[Chart]:
    """Adversarial losses, and how far the discriminator's logits lie apart."""
    history = artifact.table("history.parquet")
    losses = {"student_loss": "student", "heads_loss": "heads", "anchor": "distance to teacher"}
    logits = {
        "real_logit": "teacher edits",
        "fake_logit": "student edits",
        "wrong_logit": "wrong condition",
    }
    charts = [
        Chart(
            "Distillation (LADD)",
            "Hinge losses of the student and of the heads on the frozen teacher's features.",
            line_chart(curves(history, losses), "step", "loss"),
        ),
        Chart(
            "What the heads see",
            "Mean logits of teacher edits (real), student edits (fake) and edits with a wrong "
            "instruction or context. Where real and fake lie together, the heads cannot tell them "
            "apart.",
            line_chart(curves(history, logits), "step", "mean logit"),
        ),
    ]
    return [chart for chart in charts if chart.svg]


def level_map(artifact: Artifact) -> HeatMap | None:
    """Held-out loss per noise level x category."""
    levels = artifact.table("levels.parquet")
    if not levels.num_rows:
        return None
    rows = levels.to_pylist()
    times = sorted({round(float(row["t"]), 3) for row in rows})
    loss = {(row["category"], round(float(row["t"]), 3)): float(row["loss"]) for row in rows}
    names = [name for name in RELATION_CLASSES if any(key[0] == name for key in loss)]
    values = list(loss.values())
    return HeatMap(
        "Held-out loss per noise level and category",
        "Velocity error on the validation split at fixed noise; columns are noise levels t, "
        "from nearly clean to nearly pure noise.",
        tuple(f"t = {t:.2f}" for t in times),
        tuple(
            (_LABELS.get(name, name), tuple(loss.get((name, t)) for t in times)) for name in names
        ),
        min(values),
        max(values),
    )


def reconstructions(
    bench: Bench, outputs: Mapping[str, Images], assets: Assets
) -> list[tuple[str, str]]:
    """Contexts of bench items and their round trips, categories in turn."""
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
