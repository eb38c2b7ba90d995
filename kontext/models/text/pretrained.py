"""transformers' models and tokenizers from folders on disk: complete, or an error.

transformers gives random numbers to tensors that a file lacks, and a tiny vocabulary of its own to
a tokenizer without one. Here both are errors of one line. Progress bars and remarks are not shown.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from kontext.errors import WeightsError

_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
_LISTED = 8
_LARGE, _BLOCK, _BLOCKS = 1 << 20, 4096, 256  # bytes
# transformers imports torchao, whose registrations PyTorch 2.14 remarks upon
_REMARKS = "torch.utils._pytree"


@contextmanager
def without_remarks() -> Iterator[None]:
    """Keep torchao's warnings off stderr while it is imported, by transformers or by us."""
    logger = logging.getLogger(_REMARKS)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and nothing below an error, while transformers works."""
    theirs: Any = import_module("transformers.utils.logging")  # untyped
    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with without_remarks():
            yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


def load_module(kind: str, folder: Path, dtype: torch.dtype) -> Any:
    """A model of transformers' class `kind` (T5EncoderModel) with every tensor from the folder.

    Raises:
        WeightsError: damaged, not of the shapes that its config.json says, or not complete.
    """
    import transformers

    def load() -> Any:
        made = getattr(transformers, kind)
        return made.from_pretrained(folder, dtype=dtype, output_loading_info=True)

    found, report = _tried(folder, load)
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise WeightsError(
            f"{folder} is not whole; {len(missing)} missing: {', '.join(missing[:_LISTED])}{more}"
        )
    return found


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder.

    Raises:
        WeightsError: damaged, or without a vocabulary.
    """
    import transformers

    check_vocabulary(folder)
    return _tried(folder, lambda: transformers.AutoTokenizer.from_pretrained(folder))


def check_vocabulary(folder: Path) -> None:
    """Raise WeightsError where a tokenizer's folder has no vocabulary."""
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise WeightsError(f"{folder} has no vocabulary ({', '.join(_VOCABULARIES)})")


def _tried(folder: Path, load: Callable[[], Any]) -> Any:
    if not (folder / "config.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        raise WeightsError(f"{folder} has no configuration")
    try:
        with _quiet():
            return load()
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, SafetensorError) as error:
        said = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise WeightsError(f"{folder} cannot be loaded: {said.strip()}") from error


def folder_digest(folder: Path, parts: Sequence[str]) -> str:
    """Digest of all files in the sub-folders `parts`: names, sizes, and contents.

    Of large files a sample of the contents counts, so that 10 GB are not read.
    """
    digest = hashlib.sha256()
    files = [p for part in parts for p in sorted((folder / part).rglob("*")) if p.is_file()]
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}:{size}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(_LARGE))
            for block in range(_BLOCKS if size > _LARGE else 0):
                file.seek(_LARGE + (size - _LARGE) * block // _BLOCKS)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]
