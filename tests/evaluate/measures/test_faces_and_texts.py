"""Identity with its coverage, and texts read by OCR with its self-check."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from kontext.evaluate.benches.quoted import quoted
from kontext.evaluate.measures import MEASURES, Made
from kontext.evaluate.measures.identity import Face, found_again, same_person
from kontext.evaluate.measures.reading import distance, nearest

EMPTY = np.zeros((8, 8, 3), np.uint8)
ONE, TWO = np.full_like(EMPTY, 1), np.full_like(EMPTY, 2)


def face(area: float, *vector: float) -> Face:
    return Face(area, np.array(vector, np.float32))


def find(picture: np.ndarray) -> list[Face]:
    """No face, one, or two, of which the larger is another person."""
    known = [[], [face(9, 1, 0)], [face(50, 0, 2), face(9, 3, 4)]]
    return known[int(picture[0, 0, 0])]


def test_identity_is_of_the_largest_face_and_the_nearest_one() -> None:
    assert same_person(find, Made(ONE, ONE)) == 1
    assert same_person(find, Made(TWO, ONE)) == pytest.approx(0.6), "3 4 is nearer than 0 2"
    assert same_person(find, Made(ONE, TWO)) == 0, "the larger of two is meant"


def test_a_lost_face_has_no_cosine_and_lowers_the_coverage() -> None:
    assert same_person(find, Made(EMPTY, ONE)) is None and found_again(find, Made(EMPTY, ONE)) == 0
    assert found_again(find, Made(TWO, ONE)) == 1
    assert found_again(find, Made(ONE, EMPTY)) is None is found_again(find, Made(ONE))


@pytest.mark.parametrize(
    ("instruction", "found"),
    [
        ("Replace 'OPEN' with 'CLOSED'", ("OPEN", "CLOSED")),
        ('change the text "Sale" to "Sold out".', ("Sale", "Sold out")),
        ("Replace “Café” by ‘Bar’", ("Café", "Bar")),
        ("Don't change the dog's sign, replace 'A' with 'B'!", ("A", "B")),
        ("write 'HELLO' on the wall", ("", "")),  # nothing by which a reader can be checked
        ("make it blue", ("", "")),
        ("replace 'a' with 'b' and 'c' with 'd'", ("", "")),
    ],
)
def test_texts_are_taken_from_quotation_marks(instruction: str, found: tuple[str, str]) -> None:
    assert quoted(instruction) == found


def test_distances_of_texts_by_hand() -> None:
    assert (
        distance("kitten", "sitting") == 3 and distance("", "abc") == 3 and not distance("a", "a")
    )
    lines = ["Welcome", "Sold", "out today"]
    assert nearest("soldout", lines) == "sold", "two lines and a word too many are farther"
    assert nearest("soldouttoday", lines) == "soldouttoday" and nearest("a", []) == ""


def sign(text: str) -> np.ndarray:
    image = Image.new("RGB", (320, 120), (240, 240, 235))
    ImageDraw.Draw(image).text((30, 30), text, (20, 20, 60), ImageFont.load_default(56))
    return np.asarray(image)


def test_signs_are_read_and_an_unreadable_input_leaves_an_item_out() -> None:
    exact, ned, cer = (MEASURES[f"text_{name}"].open() for name in ("exact", "ned", "cer"))
    before, read = sign("OPEN"), {}  # what was read is kept: it takes a while
    right = Made(sign("CLOSED"), before, wanted="Closed", written="Open", kept=read)
    assert (exact.value(right), ned.value(right), cer.value(right)) == (1, 1, 0)
    known = {("ocr", "context"): read["ocr", "context"]}
    near = Made(sign("CLOSER"), before, wanted="Closed", written="Open", kept=dict(known))
    assert exact.value(near) == 0
    assert (ned.value(near), cer.value(near)) == pytest.approx((5 / 6, 1 / 6))
    same = Made(before, before, wanted="Closed", written="Open", kept=dict(known))
    assert exact.value(same) == 0 and (cer.value(same) or 0) > 0.5, "did nothing"
    unread = Made(sign("CLOSED"), before, wanted="Closed", written="Shut", kept=dict(known))
    assert exact.value(unread) is None is cer.value(unread)
    assert exact.value(Made(before, before)) is None
