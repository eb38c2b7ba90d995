"""The selection for tests: candidates in, what is kept and why the others are not out."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from kontext.data.mine.candidate import Candidate
from kontext.data.mine.proposals import Proposals
from kontext.data.mine.select import select
from schemas.sections.data import MineConfig
from schemas.tables import PAIRS

Counts = Counter[tuple[str, str, str]]


def chosen(
    proposed: Iterable[Candidate], config: MineConfig, given: Iterable[Candidate] = ()
) -> tuple[list[dict[str, Any]], Counts]:
    """PAIRS rows in the order of their ids, and counts by (relation_class, relation, outcome)."""
    with tempfile.TemporaryDirectory() as folder:
        proposals = Proposals(Path(folder), config.seed)
        proposals.add(proposed)
        proposals.add(given, given=True)
        selection = select(proposals, config)
        tables = list(selection.tables())
        assert not list(Path(folder).iterdir())
    return pa.concat_tables([PAIRS.empty_table(), *tables]).to_pylist(), +selection.counts
