"""The page itself: one HTML file that opens anywhere, with its pictures inside."""

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kontext.data.gallery.cards import Card

CHANGES_RESULTS = False  # shows what is there

_TEMPLATE = Path(__file__).with_name("gallery.html")


def page(cards: Sequence[Card], title: str, query: str, left_out: int = 0) -> str:
    """The HTML of a gallery. `left_out` are rows of the answer that are not on it."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["picture"] = _picture
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        cards=cards,
        title=title,
        query=query,
        left_out=left_out,
        accepted=sum(card.accepted for card in cards),
        categories=sorted(Counter(card.category for card in cards).items()),
    )


def _picture(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
