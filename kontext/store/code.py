"""Code digests and provenance: which sources, commit and packages made an artifact."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from kontext.errors import ArtifactError

_SOURCES = {".py", ".sql", ".json", ".html", ".css", ".js", ".txt"}
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
def code_digest(modules: tuple[str, ...]) -> str:
    """SHA-256 over the sorted sources of modules and packages, without importing them.

    A name may also mean a folder of sources such as `schemas.views`. Raises ArtifactError if a
    name means nothing.
    """
    hasher = hashlib.sha256()
    for name in sorted(set(modules)):
        for path, relative in _sources(name):
            hasher.update(f"{name}:{relative}\0".encode())
            hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()


def _sources(name: str) -> list[tuple[Path, str]]:
    top, *rest = name.split(".")
    # find_spec("a.b") would import a; a top-level name is only looked up
    spec = importlib.util.find_spec(top)
    if spec and spec.origin and not rest and not spec.submodule_search_locations:
        return [(Path(spec.origin), Path(spec.origin).name)]
    for root in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(root, *rest)
        module = folder.with_name(f"{folder.name}.py")
        if rest and module.is_file():
            return [(module, module.name)]
        if folder.is_dir():
            files = (p for p in folder.rglob("*") if p.suffix in _SOURCES and p.is_file())
            found = sorted((p.relative_to(folder).as_posix(), p) for p in files)
            if found:
                return [(path, relative) for relative, path in found]
    raise ArtifactError(f"no sources found for '{name}': is the installation complete?")


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
