"""Notes and the numerics ledger, from the manifests."""

from collections.abc import Mapping

from kontext.engine.stage import StageContext
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.report.model import Evaluation
from kontext.models.precision import bf16_supported
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.flow.timesteps import shift_mu


def notes(inputs: Mapping[str, Artifact]) -> list[tuple[str, str]]:
    """(stage, note) of every fallback and limit that a stage recorded."""
    return [(name, note) for name, reader in inputs.items() for note in reader.manifest.notes]


def numerics(ctx: StageContext, done: Evaluation, models: TrainedModels) -> list[tuple[str, str]]:
    """What decides the numbers: timestep shift, lengths, precision, kernels, digests, versions."""
    sizes = done.bench.sizes
    model, codec = models.student.model, models.student.model.autoencoder
    factor, shift = 2 * codec.factor, model.transformer.shape.timestep_shift
    tokens = sorted({(width // factor) * (height // factor) for width, height in sizes})
    bf16 = bf16_supported(models.student.device)
    rows = [
        ("image side", ", ".join(f"{width} × {height} px" for width, height in sizes)),
        ("target tokens", ", ".join(map(str, tokens))),
        ("timestep shift", ", ".join(f"mu({n}) = {shift_mu(n, shift):.4f}" for n in tokens)),
        ("text length", f"{models.student.settings.text_length} tokens"),
        ("text encoder", models.student.text.digest),
        ("codec", ctx.inputs["train-autoencoder"].digest),
        ("latent scale, shift", f"{codec.scale:.5f}, {codec.shift:.5f}"),
        ("image features", f"EfficientNet-Lite0 {done.feature_digest}, own size"),
        ("precision", "bf16 autocast" if bf16 else "float32 (no native bf16)"),
    ]
    kernels: dict[tuple[str, str], list[str]] = {}
    for name, reader in ctx.inputs.items():
        for role, kernel in sorted(reader.manifest.kernels.items()):
            kernels.setdefault((role, kernel), []).append(name)
    rows += [(f"{role} ({', '.join(by)})", kernel) for (role, kernel), by in kernels.items()]
    last = list(ctx.inputs.values())[-1].manifest
    rows.append(("git commit", last.git_commit[:12]))
    shown = ("torch", "numpy", "pyvips", "duckdb", "prefect")
    return rows + [(name, last.packages[name]) for name in shown if name in last.packages]
