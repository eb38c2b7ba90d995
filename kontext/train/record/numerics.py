"""The numerics ledger between stages: written with every result, compared before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from kontext.models.autoencoder.network import Autoencoder
from kontext.train.record.ledger import Ledger, codec_ledger, compare, without_arithmetic

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext
    from kontext.store.artifacts.artifact_store import Artifact

LEDGER = "ledger.json"
CODEC = "autoencoder.safetensors"


def codec_digest(trained: Artifact) -> str:
    """SHA-256 of the autoencoder in train-autoencoder's artifact."""
    return trained.manifest.file(CODEC).sha256


def encoded_ledger(
    ctx: StageContext, codec: Autoencoder, products: torch.dtype, text_digest: str, text_length: int
) -> Ledger:
    """The lines of whoever has an autoencoder and a text encoder loaded."""
    return {
        **codec_ledger(codec, products, next(codec.parameters()).device),
        "codec: sha256": codec_digest(ctx.inputs["train-autoencoder"]),
        "codec: scale": repr(codec.scale),
        "codec: shift": repr(codec.shift),
        "text: length": str(text_length),
        "text: encoder sha256": text_digest,
    }


def encoded_lines(ctx: StageContext) -> Ledger:
    """What `encode` wrote about codec and texts, not about the device it had.

    Empty where it was made before ledgers were.
    """
    artifact = ctx.inputs["encode"]
    return without_arithmetic(artifact.json(LEDGER)) if LEDGER in artifact.names() else {}


def check_against(
    ctx: StageContext, stage: str, lines: Mapping[str, str], source: str, *, arithmetic: bool = True
) -> None:
    """Stop where what this stage measured is not what the artifact of `source` was made with.

    Args:
        stage: this stage's name.
        lines: what it measured; entries that only one side has are not compared.
        arithmetic: compare how products are computed too (kernel, dtypes, device).

    Raises:
        NumericsError: with one line per difference.
    """
    artifact = ctx.inputs[source]
    if LEDGER not in artifact.names():
        ctx.note(f"{source} has no numerics ledger (made before there were any): not compared")
        return
    made = artifact.json(LEDGER) if arithmetic else without_arithmetic(artifact.json(LEDGER))
    compare(made, lines, f"{source}/{artifact.digest}", f"this {stage}", shared=True)


def report_ledger(ctx: StageContext, stage: str, ledger: Mapping[str, str]) -> None:
    """Show the ledger as a run starts."""
    lines = sorted(ledger.items())
    for line in lines:
        ctx.log.info("numerics: %s = %s", *line)
    ctx.report.table(f"{stage}-numerics", [{"entry": k, "value": v} for k, v in lines])
