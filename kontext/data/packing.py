"""Making a pack: a sharded dataset, its texts encoded, and the feature network, in one file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kontext.data.latents import encode_texts, unique_texts
from kontext.data.loader import PairSet, decoded, load_split
from kontext.data.packed import SPLITS, Pack, Pairs, Texts, write_pack
from kontext.data.pair_tensors import NO_CONTEXT, padded
from kontext.models.features import load_features
from kontext.models.text import TextEncoder
from kontext.stage import ArtifactReader
from schemas.recipes import Recipe
from schemas.tables import RELATION_CLASSES


def make_pack(
    shards: ArtifactReader, recipe: Recipe, encoder: TextEncoder, path: Path, parts: int = 1
) -> Pack:
    """Pack all splits of a shard artifact with the recipe they are to be trained by.

    Raises:
        ArtifactError: an image's pixels are not those its id names.
        WeightsError: the feature network's package is missing.
    """
    sets = {split: load_split(shards, split) for split in SPLITS}
    order = _grouped(list(sets.values()))
    place = {name: row for row, name in enumerate(order)}
    pngs = {name: png for pairs in sets.values() for name, png in pairs.pngs.items()}
    rows = [
        (number, pairs, row) for number, pairs in enumerate(sets.values()) for row in pairs.rows
    ]
    texts = unique_texts(row.instruction for _, _, row in rows)
    states = encode_texts(encoder, texts, recipe.encode.text_length)
    text_row = {text: number for number, text in enumerate(texts)}

    def column(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.int64)

    references = padded([[place[p.pixel_ids[i]] for i in r.contexts[1:]] for _, p, r in rows])
    pack = Pack(
        images=np.concatenate(list(decoded(pngs, order, 256))),
        texts=Texts.of(states.tokens, states.mask, states.pooled),
        pairs=Pairs(
            target=column([place[p.pixel_ids[row.target]] for _, p, row in rows]),
            context=column(
                [
                    place[p.pixel_ids[row.contexts[0]]] if row.contexts else NO_CONTEXT
                    for _, p, row in rows
                ]
            ),
            text=column([text_row[row.instruction] for _, _, row in rows]),
            category=column([RELATION_CLASSES.index(row.relation_class) for _, _, row in rows]),
            split=column([number for number, _, _ in rows]),
            references=references,
        ),
        instructions=texts,
        categories=tuple(RELATION_CLASSES),
        features={k: v.half() for k, v in load_features().state_dict().items()},
        recipe=recipe.model_dump(mode="json"),
    )
    write_pack(pack, path, parts)
    return pack


def _grouped(sets: Sequence[PairSet]) -> list[str]:
    """Pixel ids with related images side by side, so that what they share is near in the stream."""
    parent: dict[str, str] = {name: name for pairs in sets for name in pairs.pixel_ids}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for pairs in sets:
        for row in pairs.rows:
            for context in row.contexts:
                one, other = root(pairs.pixel_ids[row.target]), root(pairs.pixel_ids[context])
                parent[max(one, other)] = min(one, other)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(parent):
        groups[root(name)].append(name)
    return [name for key in sorted(groups) for name in groups[key]]
