"""Lineage, stage table, notes and the numerics ledger, from the manifests."""

from collections.abc import Mapping
from typing import Any

from kontext.engine.stage import Stage, StageContext
from kontext.evaluate.report.builder import duration
from kontext.evaluate.report.lineage import Node
from kontext.evaluate.report.model import StageRow
from kontext.store.artifacts.artifact_store import Artifact
from schemas.manifest import Manifest


def manifests(inputs: Mapping[str, Artifact]) -> dict[str, Manifest]:
    """Every input's manifest, in their order."""
    return {stage: reader.manifest for stage, reader in inputs.items()}


def nodes(
    known: Mapping[str, Manifest], digests: Mapping[str, str], stages: Mapping[str, Stage]
) -> list[Node]:
    """One box per stage. `digests` maps every stage that has run to its digest."""
    return [
        Node(
            stage.name,
            digests.get(stage.name, ""),
            stage.inputs,
            duration(known[stage.name].seconds) if stage.name in known else "",
            stage.pool,
        )
        for stage in stages.values()
    ]


def stage_rows(
    known: Mapping[str, Manifest], digests: Mapping[str, str], stages: Mapping[str, Stage]
) -> list[StageRow]:
    """The lineage table: stages that have run, with cost and size."""
    rows = []
    for name, stage in stages.items():
        if name not in digests:
            continue
        manifest = known.get(name)
        rows.append(
            StageRow(
                name,
                stage.summary,
                digests[name],
                manifest.seconds if manifest else 0.0,
                len(manifest.files) if manifest else 0,
                sum(file.size for file in manifest.files) if manifest else 0,
                stage.inputs,
                manifest.git_commit if manifest else "",
            )
        )
    return rows


def notes(known: Mapping[str, Manifest]) -> list[tuple[str, str]]:
    """(stage, note) of every fallback and limit that a stage recorded."""
    return [(name, note) for name, manifest in known.items() for note in manifest.notes]


def numerics(
    ctx: StageContext, known: Mapping[str, Manifest], facts: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """What decides the numbers: timestep shift, lengths, precision, kernels, digests, versions.

    Args:
        facts: image side, latent grid, text length and digest, and precision of this run.
    """
    tokens = int(facts["target_tokens"])
    rows = [
        ("image side", f"{facts['side']} px"),
        ("target tokens", str(tokens)),
        ("timestep shift", f"mu({tokens}) = {facts['mu']:.4f}"),
        ("text length", f"{facts['text_length']} tokens"),
        ("text encoder", str(facts["text_digest"])),
        ("codec", ctx.inputs["train-autoencoder"].digest),
        ("latent scale, shift", f"{facts['scale']:.5f}, {facts['shift']:.5f}"),
        ("image features", f"EfficientNet-Lite0 {facts['feature_digest']}, own size"),
        ("precision", str(facts["precision"])),
    ]
    kernels: dict[tuple[str, str], list[str]] = {}
    for name, manifest in known.items():
        for role, kernel in sorted(manifest.kernels.items()):
            kernels.setdefault((role, kernel), []).append(name)
    rows += [(f"{role} ({', '.join(by)})", kernel) for (role, kernel), by in kernels.items()]
    last = list(known.values())[-1] if known else None
    if last is not None:
        rows.append(("git commit", last.git_commit[:12]))
        for package in ("torch", "numpy", "pyvips", "duckdb", "prefect"):
            if package in last.packages:
                rows.append((package, last.packages[package]))
    return rows
