"""A Python environment that has only the packages named, and those they need, of this one's."""

import os
import re
import subprocess
import venv
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]
# docs/h200.md tells the reader to install these; tokenizers without what it would like to have
PACKAGES = (
    *("torch", "numpy", "safetensors", "pydantic"),
    *("pyarrow", "pillow", "tokenizers", "typer"),
)
ALONE = ("tokenizers",)


def light_environment(folder: Path) -> Path:
    """A virtual environment in `folder`, its packages linked to ours; returns its python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python3*/site-packages")
    for name in _needed():
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    return python


def _needed() -> set[str]:
    """The packages and what they require here, without extras."""
    needed: set[str] = set()
    left = list(PACKAGES)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in needed:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:  # required on another system or Python
            continue
        needed.add(name)
        for line in () if name in ALONE else found.requires or ():
            if "extra ==" not in line:
                left.append(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0])
    return needed


def run_light(
    python: Path, *arguments: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """`python arguments…` with the sources of this checkout and no other packages."""
    return subprocess.run(
        [str(python), *arguments],
        cwd=ROOT,
        env=light_variables(environment),
        capture_output=True,
        text=True,
        check=False,
    )


def light_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `run_light`."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
