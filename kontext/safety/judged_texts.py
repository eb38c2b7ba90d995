"""Texts that come in parts, each judged once; and what the next run need not judge again.

Of a text that passes, a digest and the classifier's score are kept: the same code would say the
same of it. Of a text that is refused nothing is.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kontext.safety.ids import Reason
from kontext.safety.texts import LIMIT, learned, rules_and_scores
from kontext.store.artifacts.artifact_store import Artifact
from schemas.tables import JUDGED_TEXTS

FILE = "texts.parquet"
_KEPT = 1 << 18  # texts of which it is remembered what was said
Keys = NDArray[np.bytes_]


def text_key(text: str) -> str:
    """What stands for a text in JUDGED_TEXTS."""
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def known_texts(made: Iterable[Artifact]) -> pa.Table:
    """JUDGED_TEXTS of artifacts that today's code has made, which may have none."""
    tables = [one.table(FILE) for one in made if one.names(FILE)]
    return pa.concat_tables([JUDGED_TEXTS.empty_table(), *tables])


class JudgedTexts:
    """Judges texts that come in parts: each different one once, however often it comes.

    Args:
        limit: as in `judge_texts`.
        known: JUDGED_TEXTS that the same code has made; they are not judged again.
    """

    def __init__(self, limit: float = LIMIT, known: pa.Table | None = None) -> None:
        self._limit = limit
        table = JUDGED_TEXTS.empty_table() if known is None else known
        self._keys, self._scores = _by_key(
            np.array(table["key"].to_pylist(), "S32"), table["score"].to_numpy()
        )
        self._found: dict[str, Reason | None] = {}
        self._passed: list[tuple[Keys, NDArray[np.float32]]] = []

    def __call__(self, part: Iterable[str]) -> Mapping[str, Reason | None]:
        """The strictest reason against every text of a part, or None; more texts may be in it.

        Raises GateError as `judge_texts`.
        """
        texts = dict.fromkeys(part)
        if len(self._found) > _KEPT:  # instructions that people wrote hardly come twice
            self._found = {}
        new = [text for text in texts if text not in self._found]
        if new:
            self._found |= zip(new, self._judge(new), strict=True)
        return self._found

    def _judge(self, texts: list[str]) -> list[Reason | None]:
        keys = np.array([text_key(text) for text in texts], "S32")
        place, known = np.searchsorted(self._keys, keys), np.zeros(len(keys), bool)
        inside = place < len(self._keys)
        known[inside] = self._keys[place[inside]] == keys[inside]
        scores = np.full(len(texts), np.nan, np.float32)
        scores[known] = self._scores[place[known]]
        new = np.flatnonzero(~known)
        ruled: list[Reason | None] = [None] * len(texts)
        said, found = rules_and_scores([texts[row] for row in new.tolist()])
        for row, reason, score in zip(new.tolist(), said, found, strict=True):
            ruled[row], scores[row] = reason, score
        reasons = [
            reason or learned(text, score, self._limit)
            for text, reason, score in zip(texts, ruled, scores.tolist(), strict=True)
        ]
        passed = np.array([reason is None for reason in reasons])
        self._passed.append((keys[passed], scores[passed]))
        return reasons

    def table(self) -> pa.Table:
        """JUDGED_TEXTS of all that has come and passed, by key."""
        every = [(np.zeros(0, "S32"), np.zeros(0, np.float32)), *self._passed]
        keys, scores = _by_key(
            np.concatenate([keys for keys, _ in every]),
            np.concatenate([scores for _, scores in every]),
        )
        return pa.table([pa.array(keys.astype(str), pa.string()), scores], schema=JUDGED_TEXTS)


def _by_key(keys: Keys, scores: NDArray[np.float32]) -> tuple[Keys, NDArray[np.float32]]:
    """Different keys in their order, and their scores."""
    found, first = np.unique(keys, return_index=True)
    return found, scores[first]
