"""FLUX.1's text encoders loaded when they are needed, and their embeddings on disk.

T5 has 10 GB. With the cache, an edit whose instruction was seen before does not load it. There is
one file per text, named by the digest of encoder, length and text.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from kontext.models.text.encoders import (
    Encoded,
    FluxTextEncoder,
    TextEncoder,
    check_transformers,
    count_tokens,
    flux_digest,
    load_text_encoder,
    text_widths,
)
from kontext.models.text.pretrained import load_tokenizer

CHANGES_RESULTS = False  # keeps states that the encoder made

KEPT = 200  # texts: 4 MB each for FLUX.1-dev


class LaterText:
    """A text encoder whose weights are loaded for the first text that is encoded."""

    def __init__(
        self,
        digest: str,
        widths: tuple[int, int],
        tokens: Callable[[str], int],
        load: Callable[[], TextEncoder],
    ) -> None:
        """Take what is known of the encoder without its weights.

        Args:
            widths: channels of a token's state and of the pooled vector.
            tokens: counts a text's tokens.
            load: makes the encoder; called at most once.
        """
        self.digest, (self.dim, self.pooled_dim) = digest, widths
        self._tokens, self._load = tokens, load

    def encode(self, texts: Sequence[str], length: int) -> Encoded:
        """See `TextEncoder`."""
        return self.encoder.encode(texts, length)

    def count(self, text: str) -> int:
        """See `TextEncoder`."""
        return self._tokens(text)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The encoder itself; it is loaded now if it was not."""
        return self._load()


class CachedText(LaterText):
    """A text encoder that loads its weights only for a text that is not in the cache.

    Args:
        folder: where the embeddings lie; made when the first is written.
        text: the encoder without the cache.
        device: of the embeddings.
    """

    def __init__(self, folder: Path, text: LaterText, device: torch.device | str = "cpu") -> None:
        super().__init__(text.digest, (text.dim, text.pooled_dim), text.count, lambda: text.encoder)
        self.folder, self.device = folder, torch.device(device)

    def encode(self, texts: Sequence[str], length: int) -> Encoded:
        """See `TextEncoder`."""
        found = {text: self._read(text, length) for text in dict.fromkeys(texts)}
        missing = [text for text, kept in found.items() if kept is None]
        if missing:
            tokens, mask, pooled = self.encoder.encode(missing, length)
            for row, text in enumerate(missing):
                one = slice(row, row + 1)
                found[text] = made = tokens[one], mask[one], pooled[one]
                self._write(text, length, made)
        rows = [kept for kept in map(found.get, texts) if kept is not None]
        tokens, mask, pooled = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return tokens, mask, pooled

    def _path(self, text: str, length: int) -> Path:
        key = hashlib.sha256(f"{self.digest}:{length}:{text}".encode()).hexdigest()
        return self.folder / f"{key}.safetensors"

    def _read(self, text: str, length: int) -> Encoded | None:
        path = self._path(text, length)
        try:
            kept = load_file(path, device=str(self.device))
            os.utime(path)
            return kept["tokens"].float(), kept["mask"], kept["pooled"].float()
        except (OSError, SafetensorError, KeyError):
            return None

    def _write(self, text: str, length: int, made: Encoded) -> None:
        names = ("tokens", "mask", "pooled")
        state = {name: _small(part.cpu()) for name, part in zip(names, made, strict=True)}
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(handle, "wb") as file:
            file.write(save(state))
        Path(name).replace(self._path(text, length))
        kept = sorted(self.folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime)
        for path in kept[:-KEPT]:
            path.unlink(missing_ok=True)


def _small(part: Tensor) -> Tensor:
    """In bf16 where that loses nothing, as with what a bf16 encoder made."""
    half = part.to(torch.bfloat16) if part.is_floating_point() else part
    return (half if torch.equal(half.to(part.dtype), part) else part).contiguous()


def later_text_encoder(spec: str, device: torch.device | str = "cpu") -> TextEncoder:
    """`load_text_encoder`, with FLUX.1's encoders loaded for the first text that is encoded.

    Raises:
        WeightsError: as `load_text_encoder`; of damaged FLUX.1 weights only when they are loaded.
    """
    kind, _, place = spec.partition(":")
    if kind != "flux" or not place:
        return load_text_encoder(spec, device)
    source = Path(place)
    check_transformers()
    digest = flux_digest(source)
    words = load_tokenizer(source / "tokenizer_2")
    load = partial(FluxTextEncoder.load, source, device)
    return LaterText(digest, text_widths(spec), partial(count_tokens, words), load)


def cached_text_encoder(spec: str, device: torch.device | str, folder: Path) -> TextEncoder:
    """`later_text_encoder`, with FLUX.1's encoders behind a cache in `folder`. MiniLM needs none.

    Raises:
        WeightsError: see `later_text_encoder`.
    """
    found = later_text_encoder(spec, device)
    return CachedText(folder, found, device) if isinstance(found, LaterText) else found
