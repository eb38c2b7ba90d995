import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch

from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.training_images import StreamedImages
from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.errors import ArtifactError
from kontext.parallel.world import World
from tests.data.pictures import scene

COUNT = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 23 pairs: every second one has a context, which no pair has for a target."""
    made = tmp_path_factory.mktemp("shards")
    pngs = {pixel_id(scene(n)): encode_png(scene(n)) for n in range(COUNT)}
    other = scene(1000)
    pngs[pixel_id(other)] = encode_png(other)
    samples = []
    for number, target in enumerate(itertools.islice(pngs, COUNT)):
        contexts = (pixel_id(other),) if number % 2 else ()
        record = {"pair_id": target, "relation_class": "local", "context_ids": list(contexts)}
        samples.append(ShardSample(target, contexts, target, {**record, "target_id": target}))
    write_shards(samples, "train", made, 5, pngs.__getitem__, ShardSet())
    return made


def ids(pixels: torch.Tensor) -> list[str]:
    return [pixel_id(image.permute(1, 2, 0).numpy()) for image in pixels]


def test_an_epoch_shows_every_target_once_and_no_context(folder: Path) -> None:
    stream = StreamedImages(folder, batch=4, seed=0, world=World())
    assert len(stream) == COUNT
    seen: Counter[str] = Counter()
    sizes = []
    for step in range(6):
        batch = stream.batch(step)
        assert batch.pixels.dtype == torch.uint8 and batch.total == len(batch.pixels)
        sizes.append(batch.total)
        seen.update(ids(batch.pixels))
    assert sizes == [4, 4, 4, 4, 4, 3]
    assert seen == Counter(pixel_id(scene(n)) for n in range(COUNT))


def test_any_step_can_be_asked_for_again(folder: Path) -> None:
    stream = StreamedImages(folder, batch=4, seed=0, world=World())
    first = [ids(stream.batch(step).pixels) for step in range(14)]
    other = StreamedImages(folder, batch=4, seed=0, world=World())
    assert [ids(other.batch(step).pixels) for step in (9, 10, 3, 13, 13)] == [
        first[step] for step in (9, 10, 3, 13, 13)
    ]
    assert first[:6] != first[6:12]  # another epoch, another order
    reseeded = StreamedImages(folder, batch=4, seed=1, world=World())
    assert ids(reseeded.batch(0).pixels) != first[0]


def test_ranks_share_a_batch_and_leave_out_one_that_is_too_small(folder: Path) -> None:
    whole = StreamedImages(folder, batch=4, seed=0, world=World())
    ranks = [StreamedImages(folder, 4, 0, World(rank=rank, size=4)) for rank in range(4)]
    batches = [[rank.batch(step) for rank in ranks] for step in range(7)]
    for step in range(5):
        parts = batches[step]
        assert [part.first for part in parts] == [0, 1, 2, 3]
        assert [i for part in parts for i in ids(part.pixels)] == ids(whole.batch(step).pixels)
        assert sum(part.share for part in parts) == 1
    # the sixth has three pictures for four ranks: step 5 is the next epoch's first
    assert [i for part in batches[5] for i in ids(part.pixels)] == ids(whole.batch(6).pixels)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no shards"):
        StreamedImages(tmp_path, 4, 0, World())
