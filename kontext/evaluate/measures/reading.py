"""Text edits, read by OCR (rapidocr's PP-OCR, whose wheel has its weights): exact, NED and CER.

The reader is checked first, item by item: where it does not read in the input the text that is to
be replaced, its figure would be about the reader. Such items have no value, and the table's count
says how many are left.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from kontext.evaluate.measures.base import Made, Measure, Opened, package
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.metrics.reading import plain_text
from kontext.evaluate.pixels import Picture

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_RUN = 4  # lines that a text may stand on
ReadLines = Callable[[Picture], Sequence[str]]


def distance(a: str, b: str) -> int:
    """Levenshtein's: insertions, deletions and substitutions that make one of the other."""
    row = list(range(len(b) + 1))
    for i, own in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (own != other))
    return row[-1]


def nearest(wanted: str, lines: Sequence[str]) -> str:
    """The line, or run of lines, that is nearest to a text: a text may stand on several lines."""
    plain = [plain_text(line) for line in lines]
    count = len(plain)
    runs = ["".join(plain[i : i + n]) for i in range(count) for n in range(1, _RUN + 1)]
    return min(runs, key=lambda run: distance(wanted, run), default="")


@cache
def reader() -> ReadLines:
    """Reads all lines of a picture, from the top."""
    from rapidocr import RapidOCR

    engine: Any = RapidOCR(params={"Global.log_level": "error"})

    def read(picture: Picture) -> Sequence[str]:
        found = engine(np.ascontiguousarray(picture[..., ::-1]))
        return tuple(getattr(found, "txts", None) or ())

    return read


def read_again(read: ReadLines, made: Made) -> tuple[str, str] | None:
    """(what is wanted, what the result says) without case and spaces; None where it is not known.

    None also where the reader does not find in the input what stands there.
    """
    wanted, written, context = plain_text(made.wanted), plain_text(made.written), made.context
    if not wanted or not written or context is None:
        return None
    before = made.once("ocr", "context", lambda: read(context))
    if nearest(written, before) != written:
        return None
    after = made.once("ocr", "output", lambda: read(made.output))
    return wanted, nearest(wanted, after)


def _exact(wanted: str, said: str) -> float:
    return float(wanted == said)


def _ned(wanted: str, said: str) -> float:
    return 1 - distance(wanted, said) / max(len(wanted), len(said))


def _cer(wanted: str, said: str) -> float:
    return distance(wanted, said) / len(wanted)


def _open(score: Callable[[str, str], float]) -> Opened:
    name = package("rapidocr", "'kontext[ocr]'")

    def value(made: Made) -> float | None:
        found = read_again(lambda picture: reader()(picture), made)
        return None if found is None else score(*found)

    card = Card(
        name,
        "PP-OCR, in its wheel",
        resize="rapidocr's own, of the whole picture",
        crop="the lines that it finds",
        range="BGR, rapidocr's own; texts without case and spaces",
        dtype="float32",
    )
    return Opened(value, card)


_OF = "of text edits whose old text the reader finds in the input"
MEASURES = {
    "text_exact": Measure(
        "text exact",
        "%",
        "higher",
        f"share {_OF} in which it reads just what was asked for",
        lambda: _open(_exact),
    ),
    "text_ned": Measure(
        "text NED",
        "",
        "higher",
        f"1 - edit distance ÷ the longer text's length, {_OF}; 1 is exact",
        lambda: _open(_ned),
    ),
    "text_cer": Measure(
        "text CER",
        "",
        "lower",
        f"character error rate: edit distance ÷ the wanted text's length, {_OF}",
        lambda: _open(_cer),
    ),
}
