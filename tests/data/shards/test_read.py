import hashlib
from pathlib import Path

import numpy as np
import pytest

from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.read import PairSet, decoded, load_split
from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.errors import ArtifactError
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter
from schemas.recipes import load_recipe
from tests.data.pictures import scene
from tests.stages.stage_harness import Harness

IDS = [pixel_id(scene(n)) for n in range(5)]
PNG = {pixel_id(scene(n)): encode_png(scene(n)) for n in range(5)}


def pair(contexts: list[int], target: int, relation_class: str = "local") -> ShardSample:
    ids = tuple(IDS[n] for n in contexts)
    pair_id = hashlib.sha256(f"{contexts}{target}".encode()).hexdigest()
    record = {
        "pair_id": pair_id,
        "relation_class": relation_class,
        "relation": "color",
        "instruction": f"to {target}",
        "instruction_short": "short",
        "instruction_inverse": "back",
        "target_caption": "target",
        "context_caption": "context",
        "params": {"from": "a", "to": "b"},
        "context_ids": list(ids),
        "target_id": IDS[target],
        "license_spdx": "MIT",
        "source": "s",
        "split": "train",
    }
    return ShardSample(pair_id, ids, IDS[target], record)


PAIRS = [pair([0], 1), pair([1], 0), pair([0, 3], 2), pair([], 4, "t2i")]


def shards(folder: Path, pngs: dict[str, bytes], samples: list[ShardSample]) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    written = ShardSet()
    write_shards(samples, "train", folder, 2, pngs.__getitem__, written)

    def fill(out: ArtifactWriter) -> None:
        for path in written.paths:
            out.add_file(path.name, path)

    return Harness(folder, load_recipe("demo")).make("shard", fill)


def test_a_split_holds_each_image_once(tmp_path: Path) -> None:
    loaded = load_split(shards(tmp_path, PNG, PAIRS), "train")
    images = loaded.pixels(range(len(loaded.pngs)))
    assert images.shape == (5, 64, 64, 3) and images.dtype == np.uint8
    assert sorted(IDS) == loaded.pixel_ids
    assert [row.pair_id for row in loaded.rows] == sorted(p.pair_id for p in PAIRS)
    for row in loaded.rows:
        wanted = next(p for p in PAIRS if p.pair_id == row.pair_id)
        assert tuple(loaded.pixel_ids[i] for i in row.contexts) == wanted.context_ids
        number = IDS.index(wanted.target_id)
        assert np.array_equal(images[row.target], scene(number))
        assert row.instruction == f"to {number}" and row.params == {"from": "a", "to": "b"}
    (single,) = loaded.of_class("t2i")
    assert single.contexts == ()


def test_a_split_without_shards_is_empty(tmp_path: Path) -> None:
    loaded = load_split(shards(tmp_path, PNG, PAIRS), "val")
    assert (
        isinstance(loaded, PairSet)
        and loaded.pixels([]).size == len(loaded.pngs) == 0
        and loaded.rows == []
    )


def test_pixels_that_are_not_what_their_id_says_are_refused(tmp_path: Path) -> None:
    wrong = {**PNG, IDS[1]: PNG[IDS[2]]}
    with pytest.raises(ArtifactError, match="damaged"):
        load_split(shards(tmp_path, wrong, PAIRS), "train").pixels(range(5))
    small = {**PNG, IDS[4]: encode_png(scene(4, side=32))}
    with pytest.raises(ArtifactError, match="others are"):
        load_split(shards(tmp_path / "b", small, PAIRS), "train").pixels(range(5))


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_images_are_decoded_in_batches_of_what_is_asked_for(tmp_path: Path, batch: int) -> None:
    loaded = load_split(shards(tmp_path, PNG, PAIRS), "train")
    wanted = [IDS[number] for number in (3, 0, 4, 1, 2)]
    parts = list(decoded(loaded.pngs, wanted, batch))
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    expected = np.stack([scene(number) for number in (3, 0, 4, 1, 2)])
    assert np.array_equal(np.concatenate(parts), expected)
    assert list(decoded(loaded.pngs, [], batch)) == []
