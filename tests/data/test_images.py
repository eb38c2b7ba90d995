import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kontext.data.contact_sheet import contact_sheet
from kontext.data.images import ImageBank
from kontext.data.pixels import encode_png, pixel_id
from schemas.recipes import load_recipe
from schemas.tables import PIXELS
from tests.data.pictures import scene
from tests.stages.stage_harness import Harness, rows_table


@pytest.fixture
def bank(tmp_path: Path) -> ImageBank:
    def fill(out: object) -> None:
        for chunk in range(2):
            rows = [
                {"pixel_id": pixel_id(scene(n)), "png": encode_png(scene(n))}
                for n in range(3 * chunk, 3 * chunk + 3)
            ]
            out.add_table(f"pixels/{chunk:03d}.parquet", rows_table(PIXELS, rows))  # type: ignore[attr-defined]

    return ImageBank(Harness(tmp_path, load_recipe("demo")).make("ingest", fill))


def test_bank_reads_every_chunk(bank: ImageBank) -> None:
    ids = [pixel_id(scene(n)) for n in range(6)]
    assert bank.ids == ids and len(bank) == 6
    for number in (5, 0, 3):
        assert np.array_equal(bank.rgb(ids[number]), scene(number))
        assert bank.png(ids[number]) == encode_png(scene(number))
    batch = bank.batch([ids[4], ids[1], ids[4]])
    assert batch.shape == (3, 64, 64, 3) and np.array_equal(batch[0], batch[2])
    assert ids[2] in bank and "nothing" not in bank
    with pytest.raises(KeyError):
        bank.rgb("nothing")


def test_more_than_memory_should_hold_lies_on_disk(
    bank: ImageBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("_PNG_BYTES", "_DECODED_BYTES"):
        monkeypatch.setattr(f"kontext.data.images.{limit}", 1)
    for number in (5, 0, 3, 5):
        assert bank.png(bank.ids[number]) == encode_png(scene(number))
        assert np.array_equal(bank.rgb(bank.ids[number]), scene(number))
    held = [png for pngs in bank._pngs.values() for png in pngs]
    assert len(held) == 6 and all(isinstance(png, memoryview) for png in held)
    assert not bank._kept


def test_cached_pixels_cannot_be_changed_by_accident(bank: ImageBank) -> None:
    rgb = bank.rgb(bank.ids[0])
    with pytest.raises(ValueError, match="read-only"):
        rgb[0, 0] = 0
    assert bank.rgb(bank.ids[0]) is rgb
    bank.batch(bank.ids)[0, 0, 0] = 0  # a copy
    assert np.array_equal(bank.rgb(bank.ids[0]), scene(0))


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def test_contact_sheet_shows_every_image_with_labels() -> None:
    rows = [[scene(0), None, scene(1)], [scene(2)]]
    bare = opened(contact_sheet(rows, cell=64))
    assert bare.size == (6 + 3 * 70, 6 + 2 * 70)
    assert np.array_equal(np.asarray(bare)[6:70, 6:70], scene(0))
    assert np.array_equal(np.asarray(bare)[6:70, 146:210], scene(1))
    assert (np.asarray(bare)[10:60, 80:130] == 255).all()
    labelled = opened(
        contact_sheet(
            rows,
            column_labels=("context", "student", "target"),
            row_labels=("make the sign read 'OPEN' instead of 'CLOSED', please", ""),
            captions=[["one", "", "three three three three three three three"]],
            cell=64,
        )
    )
    pixels = np.asarray(labelled)
    assert labelled.width > bare.width and labelled.height > bare.height
    assert pixels[26:90, :180].min() < 100  # the row label is drawn
    assert pixels[:20, 190:].min() < 100  # so are the column labels


def test_contact_sheet_is_deterministic_and_kept_below_its_limit() -> None:
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(5)] for _ in range(3)]
    full = contact_sheet(rows, cell=96, smooth=True)
    assert full == contact_sheet(rows, cell=96, smooth=True)
    small = contact_sheet(rows, cell=96, smooth=True, max_bytes=60_000)
    assert len(small) <= 60_000 < len(full)
    assert opened(small).width < opened(full).width


def test_enlarging_is_sharp_unless_asked() -> None:
    tile = np.zeros((2, 2, 3), np.uint8)
    tile[0] = 255
    sharp = np.asarray(opened(contact_sheet([[tile]], cell=64)))[6:70, 6:70]
    soft = np.asarray(opened(contact_sheet([[tile]], cell=64, smooth=True)))[6:70, 6:70]
    assert set(np.unique(sharp)) == {0, 255} and len(np.unique(soft)) > 10
