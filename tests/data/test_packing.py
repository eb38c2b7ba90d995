"""A sharded dataset becomes a pack that says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kontext.data.loader import load_split
from kontext.data.packed import SPLITS, read_pack
from kontext.data.packing import make_pack
from kontext.data.pixels import pixel_id
from kontext.data.shards import ShardSample, ShardSet, write_shards
from kontext.models.features import load_features
from kontext.models.text import load_text_encoder
from kontext.store.artifacts import ArtifactWriter
from schemas.recipes import load_recipe
from tests.data.test_loader import IDS, PNG, pair
from tests.stages.stage_harness import Harness

SAMPLES: dict[str, list[ShardSample]] = {
    "train": [pair([0], 1), pair([1], 0), pair([], 4, "t2i")],
    "val": [pair([2], 3)],
    "test": [pair([3], 2, "style")],
}


def test_images_texts_and_pairs_are_those_of_the_shards(tmp_path: Path) -> None:
    recipe = load_recipe("ci")
    written = ShardSet()
    (tmp_path / "tars").mkdir()
    for split, samples in SAMPLES.items():
        write_shards(samples, split, tmp_path / "tars", 8, PNG.__getitem__, written)

    def fill(out: ArtifactWriter) -> None:
        for path in written.paths:
            out.add_file(path.name, path)

    shards = Harness(tmp_path, recipe).make("shard", fill)
    encoder = load_text_encoder()
    make_pack(shards, recipe, encoder, tmp_path / "a.pack", parts=2)
    pack = read_pack(tmp_path / "a.pack")

    assert sorted(map(pixel_id, pack.images)) == sorted(IDS)
    seen = 0
    for number, split in enumerate(SPLITS):
        rows = torch.nonzero(pack.pairs.split == number).flatten().tolist()
        wanted = load_split(shards, split).rows
        assert len(rows) == len(wanted)
        for row, expected in zip(rows, wanted, strict=True):
            whole = next(s for s in SAMPLES[split] if s.pair_id == expected.pair_id)
            assert pixel_id(pack.images[pack.pairs.target[row]]) == whole.target_id
            context = int(pack.pairs.context[row])
            assert (context < 0) == (not whole.context_ids)
            if context >= 0:
                assert pixel_id(pack.images[context]) == whole.context_ids[0]
            assert pack.instructions[pack.pairs.text[row]] == expected.instruction
            assert pack.categories[pack.pairs.category[row]] == expected.relation_class
            seen += 1
    assert seen == 5 and pack.instructions[0] == ""
    tokens, mask, _ = encoder.encode(pack.instructions, recipe.encode.text_length)
    apart = (pack.texts.padded().float() - tokens).abs().max()
    assert apart < 0.02 * tokens.abs().max() and torch.equal(pack.texts.lengths.long(), mask.sum(1))
    weights = load_features().state_dict()
    assert pack.features.keys() == weights.keys()
    assert np.allclose(pack.features["stem.conv.bias"].float(), weights["stem.conv.bias"], 1e-2)
    assert pack.recipe["name"] == "ci"
