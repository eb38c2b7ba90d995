import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards import training_images as module
from kontext.data.shards.read import PairRow
from kontext.data.shards.training_images import StreamedImages, training_images
from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.errors import ArtifactError, RecipeError
from kontext.models.autoencoder.patchgan import SMALLEST, PatchDiscriminator
from kontext.parallel.world import World
from schemas.sections.training import AutoencoderConfig
from tests.data.pictures import scene

COUNT = 23


def record(target: str, contexts: tuple[str, ...] = ()) -> dict[str, object]:
    """What the JSON of a pair must have, named by its target."""
    words = dict.fromkeys(PairRow.__dataclass_fields__, "")
    ids = {"pair_id": target, "target_id": target, "context_ids": list(contexts)}
    return {**words, **ids, "params": {}}


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
        samples.append(ShardSample(target, contexts, target, record(target, contexts)))
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


SIDES = ((32, 64), (48, 48), (64, 32))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 12 pictures of three shapes; each pixel says in which picture and where it is."""
    made, pngs, samples = tmp_path_factory.mktemp("mixed"), {}, []
    for number in range(12):
        width, height = SIDES[number % 3]
        rgb = np.empty((height, width, 3), np.uint8)
        rgb[..., 0] = number
        rgb[..., 1], rgb[..., 2] = np.arange(height)[:, None], np.arange(width)
        name = pixel_id(rgb)
        pngs[name] = encode_png(rgb)
        samples.append(ShardSample(name, (), name, record(name)))
    write_shards(samples, "train", made, 5, pngs.__getitem__, ShardSet())
    return made


class Shards:
    """An artifact of shards that lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.joinpath

    def names(self, prefix: str) -> list[str]:
        return sorted(path.name for path in self.path().glob(f"{prefix}*.tar"))


def places(stream: StreamedImages, step: int) -> list[tuple[int, ...]]:
    """(picture, top, left) of each crop of a batch; all of it is one picture's."""
    pixels = stream.batch(step).pixels.int()
    side = pixels.shape[2]
    for crop in pixels:
        assert torch.equal(crop[1], crop[1, 0, 0] + torch.arange(side)[:, None].expand(side, side))
        assert torch.equal(crop[2], crop[2, 0, 0] + torch.arange(side).expand(side, side))
        assert len(crop[0].unique()) == 1
    return [tuple(int(value) for value in crop[:, 0, 0]) for crop in pixels]


def test_pictures_of_several_sizes_come_as_random_crops_of_one(mixed: Path) -> None:
    stream = StreamedImages(mixed, 4, 0, World(), crop=32)
    epochs = [
        [place for step in range(3) for place in places(stream, 3 * e + step)] for e in (0, 1)
    ]
    for epoch in epochs:
        assert sorted(number for number, *_ in epoch) == list(range(12))
    first, second = ({number: at for number, *at in epoch} for epoch in epochs)
    assert sum(first[number] != second[number] for number in first) >= 8  # other crops each epoch
    assert any(at != [0, 0] for at in first.values())


def test_crops_do_not_depend_on_ranks_or_on_what_was_asked_before(mixed: Path) -> None:
    whole = [places(StreamedImages(mixed, 4, 0, World(), crop=32), step) for step in (7, 8)]
    ranks = [StreamedImages(mixed, 4, 0, World(rank=rank, size=2), crop=32) for rank in (0, 1)]
    assert [[p for rank in ranks for p in places(rank, step)] for step in (7, 8)] == whole
    other = StreamedImages(mixed, 4, 1, World(), crop=32)
    assert places(other, 7) != whole[0]


def test_a_crop_larger_than_a_picture_is_refused(mixed: Path) -> None:
    with pytest.raises(RecipeError, match="a crop of 48 pixels does not fit a picture of 32 x 64"):
        StreamedImages(mixed, 4, 0, World(), crop=48)


def test_whole_pictures_of_several_sizes_come_one_size_a_batch(mixed: Path) -> None:
    shapes = {StreamedImages(mixed, 2, 0, World()).batch(n).pixels.shape[2:] for n in range(6)}
    assert shapes == {(64, 32), (48, 48), (32, 64)}


def test_what_training_reads_follows_from_sizes_and_bytes(
    mixed: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(source: Path, **changes: int) -> torch.Tensor | StreamedImages:
        config = AutoencoderConfig(batch=4, **changes)
        shards = Shards(source)
        return training_images(config, shards, tmp_path / f"{source.name}{changes}", World())  # type: ignore[arg-type]

    several = read(mixed)
    assert isinstance(several, StreamedImages) and several.batch(0).pixels.shape[2:] == (32, 32)
    one = read(folder)
    assert isinstance(one, torch.Tensor) and len(one) == COUNT + 1  # the context too
    assert isinstance(read(folder, crop=16), StreamedImages)
    monkeypatch.setattr(module, "IN_MEMORY", 1000)
    large = read(folder)
    assert isinstance(large, StreamedImages)
    assert large.batch(0).pixels.shape[2:] == one.shape[2:]  # whole


def test_what_is_too_small_for_the_discriminator_is_refused(folder: Path, tmp_path: Path) -> None:
    """Its convolutions need 24 pixels: without this, they are what fails, in mid-training."""
    assert PatchDiscriminator(4)(torch.zeros(1, 3, SMALLEST, SMALLEST)).shape[2:] == (1, 1)
    shards = Shards(folder)
    for config in (AutoencoderConfig(crop=16), AutoencoderConfig()):
        least = SMALLEST if config.crop else 1000
        with pytest.raises(RecipeError, match=rf"needs {least} at least: see autoencoder.crop"):
            training_images(config, shards, tmp_path, World(), least)  # type: ignore[arg-type]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no shards"):
        StreamedImages(tmp_path, 4, 0, World())
