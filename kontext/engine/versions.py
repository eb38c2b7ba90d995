"""Provenance: which commit and packages made an artifact."""

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

CHANGES_RESULTS = False  # writes down what ran

_PACKAGES = (
    "torch",
    "numpy",
    "pyarrow",
    "duckdb",
    "pillow",
    "pyvips",
    "pdqhash",
    "open-clip-torch",
    "onnxruntime",
    "nudenet",
    "tokenizers",
    "safetensors",
    "pydantic",
    "boto3",
    "prefect",
)


@cache
def git_commit() -> str:
    """The commit of the checkout this code lies in, `+changes` if edited; empty outside git."""
    folder = Path(__file__).parent
    try:
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
