"""Images and texts encoded once, and read back as the tensors that training draws from."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from kontext.data.encoded.banks import open_bank
from kontext.data.encoded.pair_tensors import NO_CONTEXT, PairTensors, padded
from kontext.data.pixels import Pixels
from kontext.data.shards.read import PairSet
from kontext.errors import WeightsError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.precision import autocast
from kontext.models.text.encoders import TextEncoder
from kontext.store.artifacts.artifact_store import Artifact
from schemas.tables import RELATION_CLASSES

ENCODED_PAIRS = pa.schema(
    [
        ("pair_id", pa.string()),
        ("split", pa.string()),
        ("relation_class", pa.string()),
        ("target", pa.int64()),
        ("context", pa.int64()),
        ("references", pa.list_(pa.int64())),
        ("text", pa.int64()),
        ("source", pa.string()),
    ],
    metadata={
        "comment": "Indices of every pair into the latent and text banks. context: what is edited, "
        "-1 for text-to-image; references: further pictures that the edit refers to."
    },
)

_STATE_BYTES = 2**28  # of text states in float32, that are made at a time


@torch.no_grad()
def encode_images(model: Autoencoder, images: Pixels, device: torch.device) -> Tensor:
    """Normalised modes [B, C, h, w] in float16, on the CPU, of images uint8 [B, H, W, 3]."""
    part = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    with autocast(device):
        return model.encode(part).to(torch.float16).cpu()


def unique_texts(texts: Iterable[str]) -> list[str]:
    """Each text once, in order, the empty prompt always first."""
    return ["", *sorted(set(texts) - {""})]


def text_key(text: str) -> str:
    """What a text is stored under."""
    return hashlib.sha256(text.encode()).hexdigest()


def encode_texts(encoder: TextEncoder, texts: Sequence[str], length: int) -> dict[str, Tensor]:
    """tokens [K, L, D], mask [K, L] and pooled [K, P] of texts cut or padded to L = `length`.

    As many go through the encoder at a time as have a quarter of a gigabyte of states.
    """
    most = max(1, _STATE_BYTES // (4 * length * encoder.dim))
    parts = []
    for start in range(0, max(1, len(texts)), most):
        tokens, mask, pooled = encoder.encode(texts[start : start + most], length)
        parts.append((tokens.half().cpu(), mask.cpu(), pooled.half().cpu()))
    tokens, mask, pooled = (torch.cat(made) for made in zip(*parts, strict=True))
    return {"tokens": tokens, "mask": mask, "pooled": pooled}


def pair_rows(
    pairs: PairSet, image_row: Mapping[str, int], text_row: Mapping[str, int]
) -> list[dict[str, object]]:
    """Rows of ENCODED_PAIRS for one split."""
    return [
        {
            "pair_id": row.pair_id,
            "split": row.split,
            "relation_class": row.relation_class,
            "target": image_row[pairs.pixel_ids[row.target]],
            "context": image_row[pairs.pixel_ids[row.contexts[0]]] if row.contexts else NO_CONTEXT,
            "references": [image_row[pairs.pixel_ids[place]] for place in row.contexts[1:]],
            "text": text_row[row.instruction],
            "source": row.source,
        }
        for row in pairs.rows
    ]


def load_pairs(encoded: Artifact, split: str, device: torch.device) -> PairTensors:
    """The pairs of one split, their latents and texts on disk until a batch asks for them.

    Raises:
        WeightsError: the artifact holds no pair of that split.
    """
    table = encoded.table("pairs.parquet")
    table = table.filter(pc.equal(table["split"], split))
    if not len(table):
        raise WeightsError(f"the encoded dataset has no '{split}' pairs")
    text = open_bank(encoded, "texts").tensors
    category = pc.index_in(table["relation_class"], pa.array(RELATION_CLASSES))

    def column(values: pa.ChunkedArray) -> Tensor:
        return torch.from_numpy(values.to_numpy().astype(np.int64))

    source, sources = None, list[str]()
    if "source" in table.column_names and not table["source"].null_count:  # else it is older
        sources = sorted(set(table["source"].to_pylist()))
        source = column(pc.index_in(table["source"], pa.array(sources)))
    return PairTensors(
        latents=open_bank(encoded, "latents").tensors["latents"].to(device, torch.float32),
        text_tokens=text["tokens"].to(device),
        text_pooled=text["pooled"].to(device),
        target=column(table["target"]),
        context=column(table["context"]),
        text=column(table["text"]),
        category=column(category),
        categories=RELATION_CLASSES,
        empty_text=0,
        references=padded(table["references"].to_pylist()),
        source=source,
        sources=tuple(sources),
    )
