"""Weights as a stage stores them: one file, with the model's own names."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from kontext.errors import WeightsError


def load_stored(model: nn.Module, path: Path) -> None:
    """Fill `model`, which may be on the meta device, with a stage's file, in the file's dtypes.

    For files of other makers see `kontext.models.files.weights`.

    Raises:
        WeightsError: damaged, or missing, surplus or misshapen keys.
    """
    try:
        model.load_state_dict(load_file(path), strict=True, assign=True)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error})") from error
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the model; {error}") from error
