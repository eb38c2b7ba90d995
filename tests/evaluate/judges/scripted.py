"""A judge that says the same of the same question, behind a real HTTP server."""

import hashlib
import json
from typing import Any

from tests.data.chat_server import Say, completion, pictures


def kind_of(body: dict[str, Any]) -> str:
    """What a request is for, e.g. `viescore_edit`."""
    return str(body["response_format"]["json_schema"]["name"])


def number(body: dict[str, Any], low: int, high: int, what: str = "") -> int:
    """A number that depends on the model and on what it is shown."""
    said = json.dumps([body["model"], body["messages"], what], sort_keys=True)
    return low + int(hashlib.sha256(said.encode()).hexdigest(), 16) % (high - low + 1)


def scripted(body: dict[str, Any], times: int) -> Say:
    """Sees whether anything was changed; the rest is by hash."""
    kind, shown = kind_of(body), pictures(body)
    said: dict[str, Any] = {"reasons": "It looks so."}
    if kind == "viescore_edit":
        done = shown[0] != shown[1]
        said["success"] = number(body, 5, 10, "success") if done else 0
        said["restraint"] = number(body, 3, 9, "restraint") if done else 10
    elif kind == "viescore_quality":
        said |= {"natural": number(body, 4, 9, "n"), "clean": number(body, 4, 10, "c")}
    elif kind == "drawn_text":
        said["success"] = number(body, 0, 10)
    elif kind == "imgedit":
        first = number(body, 2, 5) if shown[0] != shown[1] else 1
        said |= {"first": first, "second": number(body, 1, first, "s"), "third": first}
    else:
        said["better"] = "A" if shown[-2] > shown[-1] else "B"
    return completion(said)


def prose(body: dict[str, Any], times: int) -> Say:
    """A judge that does not do what it is asked for."""
    return completion("I would give this a solid 8 out of 10, nice work!")
