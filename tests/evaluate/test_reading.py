"""Text edits, read by PP-OCR on drawn signs of 64 px."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from kontext.errors import MetricUnavailable
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.metrics import reading
from kontext.evaluate.metrics.base import Measured, Scoring
from kontext.evaluate.pixels import Images
from kontext.evaluate.score import _interval
from tests.evaluate.drawn import codec, drawn

NONE = np.zeros((0, 8), np.float32)


@pytest.fixture(autouse=True)
def _fresh_self_check() -> Iterator[None]:
    reading.targets_read.cache_clear()
    yield
    reading.targets_read.cache_clear()


def few() -> Bench:
    """Ten text edits and two others."""
    bench, _ = drawn()
    texts = [i for i, item in enumerate(bench.items) if item.relation == "text"][:10]
    rows = [*texts, *(i for i, item in enumerate(bench.items) if item.relation != "text")][:12]
    arrays = {name: getattr(bench, name)[rows] for name in ("context", "target", "mask")}
    return replace(bench, items=tuple(bench.items[i] for i in rows), **arrays)


def read(bench: Bench, output: Images) -> Measured | None:
    return reading.text_read(Scoring(bench, output, output, output, NONE, NONE, NONE))


def share(found: Measured | None) -> float:
    assert found is not None
    return float(np.nansum(found.top) / np.nansum(found.bottom))


def test_what_was_asked_for_is_read_and_the_context_is_not() -> None:
    bench = few()
    found = read(bench, bench.target)
    assert share(found) >= reading.MIN_READ
    assert (
        found is not None and np.isnan(found.top[10:]).all() and np.isnan(found.bottom[10:]).all()
    )
    assert share(read(bench, bench.context)) == 0
    assert share(read(bench, codec(bench.target))) >= 0.9


def test_text_that_nobody_can_read_counts_as_wrong() -> None:
    bench = few()
    board = np.broadcast_to(bench.target.mean(axis=(1, 2), keepdims=True), bench.target.shape)
    assert share(read(bench, board.astype(np.uint8))) == 0


def test_a_reader_that_does_not_read_the_true_targets_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = few()
    monkeypatch.setattr(reading, "load_reader", lambda: lambda line: "?")
    assert reading.targets_read(bench) == 0
    with pytest.raises(MetricUnavailable, match="reads 0% of the true targets, and 95% are needed"):
        read(bench, bench.target)


def test_without_the_package_or_without_text_there_is_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = few()
    others = replace(
        bench,
        items=bench.items[10:],
        **{name: getattr(bench, name)[10:] for name in ("context", "target", "mask")},
    )
    assert read(others, others.target) is None
    monkeypatch.setattr(reading, "load_reader", lambda: None)
    with pytest.raises(MetricUnavailable, match="it needs rapidocr: pip install"):
        read(bench, bench.target)


@pytest.mark.parametrize(
    ("said", "wanted"), [("①", "1"), ("o pen", "OPEN"), (" Ｃafé", "CAFÉ"), ("7", "7")]
)
def test_case_spaces_and_variants_do_not_matter(said: str, wanted: str) -> None:
    assert reading.plain_text(said) == reading.plain_text(wanted)


def test_items_without_a_figure_are_not_in_its_interval() -> None:
    bench = few()
    found = read(bench, bench.target)
    assert found is not None
    interval = _interval(bench, np.arange(len(bench)), "text_read", found)
    assert interval.value >= reading.MIN_READ and interval.n == 10
    assert np.isnan(_interval(bench, np.arange(10, 12), "text_read", found).value)
