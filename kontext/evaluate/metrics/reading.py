"""Text edits, read by OCR: does the picture say what was asked for?

PP-OCR's recogniser (rapidocr, Apache-2.0, weights in its wheel) reads what the edit changes. It has
to read the true targets first: where it does not, its figure would be about the reader.
"""

import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from kontext.errors import MetricUnavailable
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.metrics.base import Card, Measured, Metric, Scoring
from kontext.evaluate.pixels import Images

MIN_READ = 0.95  # of the true targets, for the reader to be believed
_MARGIN = 3 / 64  # of a picture's side, around the change
_TALL = 96  # pixels that a line of text is enlarged to: the recogniser was trained on 48
Reader = Callable[[NDArray[np.uint8]], str]  # of RGB [H, W, 3]


def text_read(scoring: Scoring) -> Measured | None:
    """1 per item that says what was asked for, else 0; nan where no text was asked for.

    None without text edits, and for editors that are wrong on purpose: of those only success is
    asked.

    Raises:
        MetricUnavailable: rapidocr is not installed, or does not read the true targets.
    """
    bench, reader = scoring.bench, load_reader()
    if reader is None:
        raise MetricUnavailable("it needs rapidocr: pip install 'kontext[ocr]'")
    known = targets_read(bench.whole or bench)
    if np.isnan(known) or scoring.output_features is None:
        return None
    if known < MIN_READ:
        raise MetricUnavailable(
            f"{reader_name()} reads {known:.0%} of the true targets, and {MIN_READ:.0%} are needed"
        )
    said = _read(bench, scoring.output, reader)
    return Measured(said, np.where(np.isnan(said), np.nan, 1.0))


@lru_cache(maxsize=1)
def targets_read(bench: Bench) -> float:
    """Share of the bench's true targets that the reader reads rightly; nan without text edits."""
    reader = load_reader()
    if reader is None or not any(item.relation == "text" for item in bench.items):
        return float("nan")
    return float(np.nanmean(_read(bench, bench.target, reader)))


def reader_name() -> str:
    """Package and version of the reader, whose wheel has its weights; empty where there is none."""
    try:
        return f"rapidocr {version('rapidocr')}"
    except PackageNotFoundError:
        return ""


@cache
def load_reader() -> Reader | None:
    """Reads one line of text; None where rapidocr is not installed."""
    if not reader_name():
        return None
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "error"})

    def read(line: NDArray[np.uint8]) -> str:
        found = engine(line[..., ::-1], use_det=False, use_cls=False, use_rec=True)
        return "".join(getattr(found, "txts", None) or ())

    return read


def _read(bench: Bench, pictures: Images, reader: Reader) -> NDArray[np.float64]:
    """Per item: 1 where the picture says what was asked for, 0 where not, nan for other edits."""
    said = np.full(len(bench), np.nan)
    for i, item in enumerate(bench.items):
        if item.relation == "text":
            wanted = item.asked.partition("=")[2]
            line = _enlarged(_around(pictures[i], bench.mask[i]))
            said[i] = plain_text(reader(line)) == plain_text(wanted)
    return said


def plain_text(text: str) -> str:
    """Without case, spaces and typographic variants: a 1 in a circle is a 1."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _around(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The box of the mask with a margin."""
    margin = round(_MARGIN * len(picture))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    return picture[top : rows[-1] + margin + 1, left : columns[-1] + margin + 1]


def _enlarged(line: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    factor = _TALL / len(line)
    found = cv2.resize(line, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return np.asarray(found, np.uint8)


PLACE = 1
METRICS = (
    Metric(
        "text_read",
        "Text read by OCR",
        "%",
        "share of text edits in which PP-OCR reads what was asked for, around the change (left out "
        "where it reads less than 95 % of the true targets, or rapidocr is not installed)",
        text_read,
        card=Card(
            reader_name() or "rapidocr",
            "PP-OCR's recogniser, in its wheel",
            resize=f"the line to {_TALL} pixels, bicubic (OpenCV)",
            crop="around the change",
            range="BGR, rapidocr's own",
            dtype="float32",
        ),
    ),
)
