"""The training sections: curves, losses per noise level and category, reconstructions."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kontext.evaluate.benches.held_out import in_turn
from kontext.evaluate.categories import SCORED_CATEGORIES
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.charts import Curve, chart, smooth
from kontext.evaluate.report.model import Chart, Evaluation, HeatMap
from kontext.store.artifacts.artifact_store import Artifact
from schemas.sections.training import AutoencoderConfig, FinetuneConfig
from schemas.tables import RELATION_CLASSES

SHOWN = 24  # reconstructions
_LABELS = {"t2i": "text to image"}
Marks = Sequence[tuple[float, str]]


def column(history: pa.Table, name: str) -> NDArray[np.float64]:
    """A history column with nan for missing values; all nan where there is no such column."""
    if name not in history.column_names:
        return np.full(history.num_rows, np.nan)
    return np.asarray(history[name].to_numpy(), np.float64)


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


def _drawn(
    artifact: Artifact, *charts: tuple[str, str, Mapping[str, str], str, Marks]
) -> list[Chart]:
    """Charts of the artifact's history that have something to show.

    Args:
        charts: each one's title, caption, columns (name -> label), y label and marks.
    """
    if not artifact.names("history.parquet"):
        return []  # given weights, taken as they are
    history = artifact.table("history.parquet")
    found = [
        chart(title, caption, curves(history, names), "step", ylabel, marks)
        for title, caption, names, ylabel, marks in charts
    ]
    return [one for one in found if one.svg]


def autoencoder_charts(artifact: Artifact, config: AutoencoderConfig) -> list[Chart]:
    """Loss terms and the discriminator."""
    marks = [(config.perceptual_start, "perceptual"), (config.disc_start, "PatchGAN")]
    if config.disc_start == config.perceptual_start:
        marks = [(config.disc_start, "perceptual, PatchGAN")]
    return _drawn(
        artifact,
        (
            "Autoencoder loss",
            "Weighted terms of the loss. Perceptual and adversarial terms start later.",
            {"l1": "L1", "perceptual": "perceptual", "adversarial": "adversarial"},
            "loss",
            marks,
        ),
        (
            "Discriminator",
            "Hinge loss; 1 means that the discriminator cannot tell decoded from real.",
            {"critic": "PatchGAN"},
            "hinge loss",
            (),
        ),
    )


def flow_charts(artifact: Artifact, config: FinetuneConfig) -> list[Chart]:
    """Flow-matching loss of both phases."""
    return _drawn(
        artifact,
        (
            "Flow matching",
            "Faint: every step. Phase one is text-to-image from scratch, phase two trains both.",
            {"edit": "editing", "t2i": "text-to-image"},
            "velocity error (MSE)",
            [(config.t2i_steps, "joint phase")] if config.t2i_steps else (),
        ),
    )


def distill_charts(artifact: Artifact) -> list[Chart]:
    """Adversarial losses, and how far the discriminator's logits lie apart."""
    return _drawn(
        artifact,
        (
            "Distillation",
            "Losses of the student, of the heads on the frozen teacher's features (a hinge), and "
            "of DMD2's fake score.",
            {
                "student_loss": "student",
                "heads_loss": "heads",
                "anchor": "distance to teacher",
                "fake_loss": "fake score",
            },
            "loss",
            (),
        ),
        (
            "What the heads see",
            "Mean logits of teacher edits (real), student edits (fake) and edits with a wrong "
            "instruction or context. Where real and fake lie together, the heads cannot tell them "
            "apart.",
            {
                "real_logit": "teacher edits",
                "fake_logit": "student edits",
                "wrong_logit": "wrong condition",
            },
            "mean logit",
            (),
        ),
    )


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


def reconstructions(done: Evaluation, assets: Assets) -> list[tuple[str, str]]:
    """Contexts of bench items and their round trips, categories in turn."""
    bench, shown = done.bench, dict[bytes, int]()
    order = SCORED_CATEGORIES.index
    for i in in_turn(range(len(bench)), lambda i: bench.items[i].category, order):
        shown.setdefault(bench.context[i].tobytes(), i)
    return [
        (assets.image(bench.context[i], 144), assets.image(done.outputs["codec"][i], 144))
        for i in list(shown.values())[:SHOWN]
    ]
