"""What training and attacks say: for excluded edits, and for those that are to be kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from kontext.data.caption.words import humanise, is_nothing
from kontext.data.shards.read import PairRow
from kontext.evaluate.benches.held_out import asked
from kontext.evaluate.exclusion.matching import asks_for, words_for
from kontext.evaluate.exclusion.phrasings import ROUNDS, NearWords, Pool, rephrased
from schemas.sections.exclusion import Concept

OTHER_WORDS = 24  # phrasings of each kind of kept edit
KINDS = 64  # kinds of kept edits that have any: the most frequent


@dataclass(frozen=True, eq=False)
class Wordbook:
    """The training split's edits in words.

    Args:
        rows: the training split.
        concepts: what is excluded.
        near: finds near words.
        readable: whether the model reads a text to its end: no other is used.
    """

    rows: Sequence[PairRow]
    concepts: Sequence[Concept]
    near: NearWords
    readable: Callable[[str], bool]

    def excluded(self, row: PairRow) -> bool:
        """Whether an edit asks for any of the concepts."""
        return any(asks_for(concept, row) for concept in self.concepts)

    @cached_property
    def own(self) -> list[str]:
        """Instructions that the data and the recipe have for what is excluded."""
        phrases = (text for concept in self.concepts for text in concept.phrases)
        return sorted({row.instruction for row in self.rows if self.excluded(row)}.union(phrases))

    def attacks(self, pool: Pool, count: int, seed: int) -> list[str]:
        """About `count` phrasings of a pool, as many of each concept."""
        each = -(-count // len(self.concepts))
        found: list[str] = []
        for concept in self.concepts:
            rows = [row for row in self.rows if asks_for(concept, row)]
            own = {row.instruction for row in rows}.union(concept.phrases)
            others = self._labels(concept.relation, concept.values)
            found += self._said(own, words_for(concept), pool, each, seed, others)
        return [text for text in dict.fromkeys(found) if text not in self.own]

    @cached_property
    def kept(self) -> dict[str, list[str]]:
        """What kept edits ask for -> other words for it, made as the rounds' attacks are.

        Else a model could learn that whatever is oddly worded is to be left undone.
        """
        rows = [row for row in self.rows if row.contexts and not self.excluded(row)]
        kinds = Counter(asked(row) for row in rows)
        found = {}
        for kind, _ in sorted(kinds.items(), key=lambda one: (-one[1], one[0]))[:KINDS]:
            own = [row for row in rows if asked(row) == kind]
            label = str(own[0].params.get("to", ""))
            words = (humanise(label),) if label and not is_nothing(label) else ()
            others = self._labels(own[0].relation, (label,))
            texts = {row.instruction for row in own}
            found[kind] = self._said(texts, words, ROUNDS, OTHER_WORDS, 0, others)
        return {kind: texts for kind, texts in found.items() if texts}

    def _said(
        self,
        own: set[str],
        words: Sequence[str],
        pool: Pool,
        count: int,
        seed: int,
        others: Sequence[str],
    ) -> list[str]:
        found = rephrased(own, words, self.near, pool, 2 * count, seed, others)
        return list(filter(self.readable, found))[:count]

    def _labels(self, relation: str, besides: Sequence[str]) -> list[str]:
        """Words for the labels of a relation's edits, but for some."""
        edits = (row for row in self.rows if row.contexts and row.relation == relation)
        labels = {str(row.params.get("to", "")) for row in edits} - {"", *besides}
        return sorted(humanise(label) for label in labels if not is_nothing(label))
