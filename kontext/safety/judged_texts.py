"""Texts that come in parts, each judged once; and what the next run need not judge again.

Of a text that passes an HMAC is kept, with the home's key: the same rules, classifier and limit
would say the same of it. What another home has kept, or somebody without the key has written, is
not found, so those texts are judged. Of a text that is refused nothing is kept.
"""

import secrets
from collections.abc import Iterable, Mapping
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kontext.errors import CanaryError
from kontext.safety.ids import Reason
from kontext.safety.keys import derived
from kontext.safety.texts import CANARIES, LIMIT, judge_texts, judged_by, prove_texts
from kontext.store.artifacts.artifact_store import Artifact
from schemas.tables import JUDGED_TEXTS

FILE = "texts.parquet"
_KEPT = 1 << 18  # texts of which it is remembered what was said
_HMAC = "^[0-9a-f]{32}$"
Hmacs = NDArray[np.bytes_]  # [N] of 32 characters


def known_texts(made: Iterable[Artifact]) -> pa.Table:
    """JUDGED_TEXTS of artifacts that may have none; of a table of other columns nothing is taken.

    Before there were keys, it held digests that anybody could have written.
    """
    tables = [one.table(FILE) for one in made if one.names(FILE)]
    ours = [table for table in tables if table.schema.equals(JUDGED_TEXTS)]
    return pa.concat_tables([JUDGED_TEXTS.empty_table(), *ours])


class JudgedTexts:
    """Judges texts that come in parts: each different one once, however often it comes.

    Args:
        key: the home's. None: one that nobody else has, for what is kept nowhere.
        limit: as in `judge_texts`.
        known: JUDGED_TEXTS; what the same key, code and limit have let pass is not judged again.
        code: stands for all code and data that decide; see `kontext.data.judging`.
    """

    def __init__(
        self,
        key: bytes | None,
        limit: float = LIMIT,
        known: pa.Table | None = None,
        code: str = "",
    ) -> None:
        self._limit = limit
        purpose = f"texts let pass by {judged_by()} at {limit!r}, {code}".encode()
        self._key = derived(key or secrets.token_bytes(32), purpose)
        table = JUDGED_TEXTS.empty_table() if known is None else known
        hmacs = table.filter(pc.match_substring_regex(table["text_hmac"], _HMAC))["text_hmac"]
        self._known: Hmacs = np.unique(np.array(hmacs.to_pylist(), "S32"))
        self._found: dict[str, Reason | None] = {}
        self._passed: list[Hmacs] = []

    def __call__(self, part: Iterable[str]) -> Mapping[str, Reason | None]:
        """The strictest reason against every text of a part, or None; more texts may be in it.

        Raises GateError as `judge_texts`.
        """
        texts = dict.fromkeys(part)
        if len(self._found) > _KEPT:  # instructions that people wrote hardly come twice
            self._found = {}
        new = [text for text in texts if text not in self._found]
        if new:
            self._found |= self._judge(new)
        return self._found

    def prove(self) -> None:
        """Raise CanaryError where rules or classifier fail, or a canary passes as a known text.

        Before the first text and after the last one: what breaks in between is found, too.
        """
        prove_texts(self._limit)
        passed = sum(reason is None for reason in self._judge(list(CANARIES)).values())
        if passed:
            raise CanaryError(f"{passed} of {len(CANARIES)} canaries were taken for known texts")

    def hmac(self, text: str) -> str:
        """What stands for a text in JUDGED_TEXTS."""
        data = text.encode(errors="surrogatepass")
        return blake2b(data, digest_size=16, key=self._key).hexdigest()

    def table(self) -> pa.Table:
        """JUDGED_TEXTS of all that has come and passed, in order."""
        passed = np.unique(np.concatenate([np.zeros(0, "S32"), *self._passed]))
        return pa.table([pa.array(passed.astype(str), pa.string())], schema=JUDGED_TEXTS)

    def _judge(self, texts: list[str]) -> dict[str, Reason | None]:
        hmacs = np.array([self.hmac(text) for text in texts], "S32")
        new = np.flatnonzero(~np.isin(hmacs, self._known)).tolist()
        asked = [texts[row] for row in new]
        said = dict.fromkeys(texts) | dict(zip(asked, judge_texts(asked, self._limit), strict=True))
        self._passed.append(hmacs[[reason is None for reason in said.values()]])
        return said
