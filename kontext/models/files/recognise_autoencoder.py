"""Which autoencoder a weights file holds, from its tensors and the configuration next to it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from kontext.errors import WeightsError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.files.convert import read_autoencoder_config
from kontext.models.files.weights import WeightsFile, open_weights
from schemas.sections.models import AutoencoderShape

SHAPE_KEY = "kontext.shape"  # metadata of our BFL files: what tensors alone do not tell


def is_autoencoder(weights: WeightsFile) -> bool:
    """Whether the keys are an autoencoder's, in either layout."""
    return any(key.startswith(("encoder.", "decoder.")) for key in weights)


def recognise_autoencoder(path: Path, guess: bool = True) -> Autoencoder:
    """The autoencoder, on the meta device, that fits a file or diffusers' `vae` folder.

    Args:
        guess: take usual numbers where neither tensors nor a configuration tell them.

    Raises:
        WeightsError: damaged, no autoencoder, or a number that would have to be guessed.
    """
    weights = open_weights(path)
    if not is_autoencoder(weights):
        raise WeightsError(f"{path} is a transformer, not an autoencoder")
    config = read_json(path / "config.json") if path.is_dir() else {}
    with torch.device("meta"):
        found, assumed = autoencoder_of(weights, config)
    if assumed and not guess:
        raise told_by_nothing(str(path), assumed)
    return found


def autoencoder_of(
    weights: WeightsFile, config: dict[str, Any]
) -> tuple[Autoencoder, tuple[str, ...]]:
    """The autoencoder that a file holds, and the numbers that had to be assumed about it.

    Args:
        config: diffusers' configuration next to the file; empty where there is none.

    Raises:
        WeightsError: too few tensors to find the autoencoder's shape, or a broken configuration.
    """
    stored = weights.metadata.get(SHAPE_KEY)
    try:
        if stored:
            return Autoencoder.from_config(json.loads(stored)), ()
        if "block_out_channels" in config:
            return read_autoencoder_config(config), ()
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise bad_config(weights, error) from error
    shape = _autoencoder_shape(weights)
    known = shape == AutoencoderShape()
    return Autoencoder(shape), () if known else ("norm_groups", "scale", "shift")


def _autoencoder_shape(weights: WeightsFile) -> AutoencoderShape:
    levels = "down" if weights.layout == "bfl" else "down_blocks"
    blocks = "block" if weights.layout == "bfl" else "resnets"
    try:
        ch = weights.shape("encoder.conv_in.weight")[0]
        count = count_blocks(weights, rf"encoder\.{levels}")
        first = f"encoder.{levels}.{{}}.{blocks}.0.conv1.weight"
        widths = [weights.shape(first.format(level))[0] for level in range(count)]
        return AutoencoderShape(
            in_channels=weights.shape("encoder.conv_in.weight")[1],
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=count_blocks(weights, rf"encoder\.{levels}\.0\.{blocks}"),
            z_channels=weights.shape("decoder.conv_in.weight")[1],
            norm_groups=32 if ch % 32 == 0 else ch,
        )
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{weights.label}: not a whole FLUX.1 autoencoder ({error})") from error


def count_blocks(weights: WeightsFile, stem: str) -> int:
    """How many blocks have keys that start with `stem` and a number."""
    found = (re.match(rf"{stem}\.(\d+)\.", key) for key in weights)
    return len({match[1] for match in found if match})


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no such file. Raises WeightsError."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file}: not JSON ({error})") from error
    return found if isinstance(found, dict) else {}


def told_by_nothing(label: str, assumed: Sequence[str]) -> WeightsError:
    """What to raise where numbers of a shape cannot be read."""
    return WeightsError(
        f"{label}: {', '.join(assumed)} cannot be read from the tensors of a custom model; put "
        "diffusers' config.json next to it"
    )


def bad_config(weights: WeightsFile, error: Exception) -> WeightsError:
    """What to raise where a file's configuration cannot be used."""
    if isinstance(error, ValidationError):  # its own words take a line for each field
        wrong = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        return WeightsError(f"{weights.label}: its configuration has no usable {wrong}")
    why = f"no {error}" if isinstance(error, KeyError) else str(error)
    return WeightsError(f"{weights.label}: its configuration is incomplete ({why})")
