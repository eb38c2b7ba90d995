import base64
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kontext.stages import STAGES
from tasks import markdown


@given(st.text(min_size=1))
def test_keys_are_what_the_server_accepts(text: str) -> None:
    try:
        key = markdown.artifact_key("stage", text)
    except ValueError:
        pytest.fail("a prefix with letters always gives a key")
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key)


@pytest.mark.parametrize(
    ("stage", "name", "key"),
    [
        ("mine", "samples", "mine-samples"),
        ("mine", "mine-samples", "mine-samples"),
        ("index", "index", "index"),
        ("train-autoencoder", "autoencoder-summary", "train-autoencoder-summary"),
        ("train-autoencoder", "train autoencoder summary", "train-autoencoder-summary"),
    ],
)
def test_a_stage_is_named_once_in_its_keys(stage: str, name: str, key: str) -> None:
    assert markdown.stage_key(stage, name) == key
    assert markdown.stage_key(stage, name) != markdown.page_key(stage)


def test_metrics_line_leaves_long_text_out() -> None:
    metrics = {"digest": "f" * 64, "pairs": 12, "share": 0.25, "kind": "ok", "more": 1}
    assert markdown.metrics_line(metrics, {}) == "pairs: 12, share: 0.25, kind: ok"
    assert markdown.metrics_line({}, {}) == "—"


def test_figures_are_said_in_the_words_and_the_order_of_their_stage() -> None:
    words = STAGES["screen"].figures
    metrics = {"pass_rate/nsfw_max": 0.9876, "new_one/a_b": 3, "pairs_accepted": 1234}
    assert markdown.figures(metrics, words) == [
        "1,234 pairs accepted",
        "98.8 % of the pairs pass the filter nsfw max",
        "new one of a b: 3",
    ]
    size = {"shard_bytes": 2_500_000, "pairs_val": None, "shards": float("nan")}
    assert markdown.figures(size, STAGES["shard"].figures) == [
        "nan shards",
        "2.5 MB of shards",
        "not measured: pairs val",
    ]


def test_every_stage_has_words_with_a_place_for_the_value() -> None:
    for stage in STAGES.values():
        assert stage.figures, f"{stage.name}: no Figures in its docstring"
        for name, words in stage.figures.items():
            assert re.search(r"\{(%|size)?\}", words), (stage.name, name)
            assert ("*" in name) == ("*" in words), (stage.name, name)


def test_key_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError):
        markdown.artifact_key("…", "  ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "—"),
        (True, "yes"),
        (12345, "12,345"),
        (0.123456, "0.1235"),
        (24.25, "24.25"),
        (3.0, "3"),
        (51234.7, "51,235"),
        (float("nan"), "nan"),
        ("x", "x"),
    ],
)
def test_number(value: object, shown: str) -> None:
    assert markdown.number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "—"), (4.24, "4.2 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_duration(seconds: float | None, shown: str) -> None:
    assert markdown.duration(seconds) == shown


def test_size() -> None:
    assert [markdown.size(n) for n in (46, 1500, 2_500_000, 3_210_000_000)] == [
        "46 B",
        "1.5 kB",
        "2.5 MB",
        "3.21 GB",
    ]


def test_table_cells_cannot_break_the_table() -> None:
    text = markdown.table(("a", "b"), [("x|y\nz", 2)])
    assert text.splitlines()[2] == "| x\\|y z | 2 |"


def test_small_picture_is_kept_exactly() -> None:
    png = _png(np.zeros((4, 4, 3), np.uint8))
    found = re.search(r"data:image/png;base64,([^\"]+)", markdown.picture(png, 'a "b"\nc'))
    assert found is not None
    assert base64.b64decode(found[1]) == png


def test_large_picture_is_made_to_fit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    png = _png(noise)
    assert len(png) > markdown.MAX_IMAGE_BYTES
    data, kind = markdown.fit_image(png)
    assert kind == "jpeg"
    assert len(data) <= markdown.MAX_IMAGE_BYTES
    with Image.open(io.BytesIO(data)) as image:
        assert image.width == image.height


def test_json_safe_survives_json() -> None:
    value = {"a": float("nan"), "b": b"\x01", "c": (1, None), 3: np.float32(2)}
    assert json.loads(json.dumps(markdown.json_safe(value), allow_nan=False)) == {
        "a": None,
        "b": "01",
        "c": [1, None],
        "3": "2.0",
    }


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
