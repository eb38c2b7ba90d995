"""Images and texts encoded once, and read back as the tensors that training draws from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from kontext.data.banks import Bank, read_bank
from kontext.data.loader import PairSet
from kontext.errors import WeightsError
from kontext.models.autoencoder import Autoencoder
from kontext.models.batch import NO_CONTEXT, PairTensors, padded
from kontext.models.precision import autocast
from kontext.models.text import TextEncoder
from kontext.stage import ArtifactReader
from schemas.tables import RELATION_CLASSES

EMPTY_PROMPT = ""

ENCODED_PAIRS = pa.schema(
    [
        ("pair_id", pa.string()),
        ("split", pa.string()),
        ("relation_class", pa.string()),
        ("target", pa.int64()),
        ("context", pa.int64()),
        ("references", pa.list_(pa.int64())),
        ("text", pa.int64()),
    ],
    metadata={
        "comment": "Indices of every pair into the latent and text banks. context: what is edited, "
        "-1 for text-to-image; references: further pictures that the edit refers to."
    },
)


@dataclass(frozen=True)
class TextStates:
    """K unique texts encoded: tokens [K, L, D], mask [K, L], pooled [K, P], fp16."""

    texts: list[str]
    tokens: Tensor
    mask: Tensor
    pooled: Tensor

    def bank(self, encoder: str) -> Bank:
        """These states to be stored, keyed by the sha256 of each text."""
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in self.texts]
        tensors = {"tokens": self.tokens, "mask": self.mask, "pooled": self.pooled}
        return Bank(keys, encoder, tensors, self.texts)


@torch.no_grad()
def encode_images(
    model: Autoencoder, images: Tensor, batch: int, progress: Callable[[int], None]
) -> Tensor:
    """Normalised modes [M, C, h, w] in float16 of uint8 images [M, H, W, 3]."""
    out = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch].permute(0, 3, 1, 2).float() / 127.5 - 1
        with autocast(images.device):
            out.append(model.encode(part).to(torch.float16).cpu())
        progress(min(start + batch, len(images)))
    return torch.cat(out)


def encode_texts(encoder: TextEncoder, texts: Sequence[str], length: int) -> TextStates:
    """Encode the unique texts, the empty prompt always first."""
    unique = [EMPTY_PROMPT, *sorted(set(texts) - {EMPTY_PROMPT})]
    tokens, mask, pooled = encoder.encode(unique, length)
    return TextStates(unique, tokens.half().cpu(), mask.cpu(), pooled.half().cpu())


def pair_rows(
    pairs: PairSet, image_row: dict[str, int], texts: list[str]
) -> list[dict[str, object]]:
    """Rows of ENCODED_PAIRS for one split."""
    text_row = {text: row for row, text in enumerate(texts)}
    return [
        {
            "pair_id": row.pair_id,
            "split": row.split,
            "relation_class": row.relation_class,
            "target": image_row[pairs.pixel_ids[row.target]],
            "context": image_row[pairs.pixel_ids[row.contexts[0]]] if row.contexts else NO_CONTEXT,
            "references": [image_row[pairs.pixel_ids[place]] for place in row.contexts[1:]],
            "text": text_row[row.instruction],
        }
        for row in pairs.rows
    ]


def load_pairs(encoded: ArtifactReader, split: str, device: torch.device) -> PairTensors:
    """The pairs of one split as tensors.

    Raises:
        WeightsError: the artifact holds no pair of that split.
    """
    table = encoded.table("pairs.parquet")
    rows = [row for row in table.to_pylist() if row["split"] == split]
    if not rows:
        raise WeightsError(f"the encoded dataset has no '{split}' pairs")
    latents = read_bank(encoded, "latents").tensors["latents"].float()
    text = read_bank(encoded, "texts").tensors
    index = {name: i for i, name in enumerate(RELATION_CLASSES)}

    def column(name: str) -> Tensor:
        return torch.tensor([row[name] for row in rows], dtype=torch.int64)

    return PairTensors(
        latents=latents.to(device),
        text_tokens=text["tokens"].to(device),
        text_pooled=text["pooled"].to(device),
        target=column("target"),
        context=column("context"),
        text=column("text"),
        category=torch.tensor([index[row["relation_class"]] for row in rows]),
        categories=RELATION_CLASSES,
        empty_text=0,
        references=padded([row["references"] for row in rows]),
    )
