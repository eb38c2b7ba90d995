"""Pair mining: proposals by miners, then one balanced, capped selection.

A miner is a function `(images, config) -> Iterator[Candidate]`. A new miner is one file and one
line here. What a relation is called and which of KontextBench's five categories it belongs to is in
`relations.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kontext.data.mine import attributes, references, singles
from kontext.data.mine.candidate import Candidate, MinedImage
from kontext.data.mine.select import Selection, select
from schemas.sections.data import MineConfig

MINERS: dict[str, Callable[[Sequence[MinedImage], MineConfig], Iterator[Candidate]]] = {
    "attributes": attributes.mine,
    "references": references.mine,
    "singles": singles.mine,
}

__all__ = ["MINERS", "Candidate", "MinedImage", "Selection", "select"]
