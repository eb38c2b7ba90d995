"""The process that talks to an exchange: `main` of this module fetches once and ends.

An exchange may hang, trickle, or send what fills the memory, and no thread can be stopped from
outside. What the client logs quotes hashes, accounts and whole answers, so it logs nothing, and an
error is told by its kind alone.
"""

import json
import logging
import os
import resource
import sys
import time
from typing import IO, Any

from kontext.safety.exchanges.base import Delta
from schemas.discovery import plugins

CHANGES_RESULTS = False

_MEMORY = 4 << 30  # address space
_KINDS = "kontext.safety.exchanges"


def main() -> None:
    """Read a request as JSON from standard input; answer with deltas, then an end or an error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    os.environ["TZ"] = "UTC"  # NCMEC's client writes local times as if they were UTC
    time.tzset()
    request = json.load(sys.stdin)
    try:
        module = plugins(_KINDS, "deltas")[request["settings"]["kind"]]
        settings = module.Settings.model_validate(request["settings"])
        for delta in module.deltas(settings, request["credentials"], request["since"]):
            _say(answers, Delta(*delta)._asdict())
    except Exception as error:  # noqa: BLE001 - told by its kind: its text may quote an answer
        _say(answers, {"error": what_failed(error)})
    else:
        _say(answers, {"end": True})


def what_failed(error: Exception) -> str:
    """What a user can do something about, without the error's own text."""
    name = type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return "its client is not installed: pip install 'kontext[exchanges]'"
    if isinstance(error, MemoryError):
        return "its answer is too large"
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        refused = "refuses the credentials" if status in (401, 403) else "answers with an error"
        return f"it {refused} (HTTP {status})"
    if isinstance(error, requests.exceptions.RetryError):
        return "it answers with errors again and again (HTTP 429 or 5xx)"
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"it cannot be reached ({name})"
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return f"its file cannot be read ({error.strerror or name})"
    return f"its settings or its answer are not in their form ({name})"


def _say(answers: IO[str], what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()
