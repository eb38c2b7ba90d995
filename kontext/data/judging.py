"""What judges the texts of a run: by the home's key, and by all code and data that decide."""

import json
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from kontext.engine.fingerprint import modules_of
from kontext.engine.versions import package_versions
from kontext.safety.judged_texts import JudgedTexts, known_texts
from kontext.safety.keys import run_key
from kontext.safety.texts import LIMIT
from kontext.store.artifacts.artifact_store import Artifact

_JUDGES = "kontext.safety.texts"


def judged_texts(home: Path, made: Sequence[Artifact], limit: float = LIMIT) -> JudgedTexts:
    """What judges texts at a limit, once it has shown that it stops what it must.

    Args:
        made: artifacts that may know texts which this home has let pass. They may come from
            outside, and say of any text that today's code has let it pass.

    Raises:
        GateError: the home's key cannot be used; or (CanaryError) a canary passes.
    """
    found = JudgedTexts(run_key(home), limit, known_texts(made), judging_code())
    found.prove()
    return found


@cache
def judging_code() -> str:
    """All that decides what is said of a text, by content: modules, word lists, weights, packages.

    No version that somebody has to raise.
    """
    decides = (modules_of(_JUDGES), package_versions(), unicodedata.unidata_version)
    return json.dumps(decides, sort_keys=True)
