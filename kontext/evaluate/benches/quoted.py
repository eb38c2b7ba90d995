"""The texts that an instruction quotes: what stands in the picture, and what is to stand there."""

import re

from kontext.evaluate.benches.files import PictureAt
from kontext.evaluate.benches.public import BenchItem

CHANGES_RESULTS = False  # for users; no stage runs a public bench

# a quotation mark that a word follows, and one that follows a word: no apostrophe
_QUOTED = re.compile(
    r"(?:(?<=[\s(:,])|^)(?:'(?P<a>[^']+?)'(?=[\s).,;:!?]|$)|‘(?P<b>[^’]+)’)"
    r'|"(?P<c>[^"]+)"|“(?P<d>[^”]+)”|«(?P<e>[^»]+)»'
)


def quoted(instruction: str) -> tuple[str, str]:
    """(text that is there, text that is wanted) of an instruction that quotes both, in this order.

    Empty where it does not quote two: one that quotes a single text says nothing by which a reader
    can be checked.
    """
    found = ["".join(filter(None, match.groups())) for match in _QUOTED.finditer(instruction)]
    return (found[0], found[1]) if len(found) == 2 else ("", "")


def edit_item(
    item: str, category: str, instruction: str, base: str, context: PictureAt
) -> BenchItem:
    """An item with the texts that its instruction quotes."""
    written, wanted = quoted(instruction)
    return BenchItem(item, category, instruction, base, context, written=written, wanted=wanted)
