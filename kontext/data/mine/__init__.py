"""Pair mining: proposals by miners, then one balanced, capped selection.

To add a miner, write one file here with `mine(images, config)`, which yields `Candidate`s;
`mine.miners` of a recipe names it by its file. What a relation is called, and in which of
KontextBench's five categories it is, stands in `relations.py`. May import kontext.data.sources and
schemas.
"""

from collections.abc import Callable, Iterator, Sequence

from kontext.data.mine.candidate import Candidate, MinedImage
from schemas.discovery import plugins
from schemas.sections.data import MineConfig

Miner = Callable[[Sequence[MinedImage], MineConfig], Iterator[Candidate]]


def miner(name: str) -> Miner:
    """The miner of that name. Raises KeyError for an unknown one."""
    found: Miner = plugins(__name__, "mine")[name].mine
    return found


def modules_named(config: MineConfig) -> list[str]:
    """Modules of the plug-ins that the section names."""
    return [plugins(__name__, "mine")[name].__name__ for name in config.miners]
