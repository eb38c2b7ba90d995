"""`kontext run --accept STAGE`: use an artifact as it is although its stage's code has changed.

The record is in the store, where today's code would put the stage's artifact. It names the older
artifact that is used instead. It is valid until the code changes again.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from pydantic import BaseModel, ConfigDict

from kontext.engine.fingerprint import code_digest
from kontext.errors import ObjectNotFound
from kontext.store.artifacts.artifact_store import run_prefix
from kontext.store.objects import ObjectStore
from schemas.manifest import Manifest

CHANGES_RESULTS = False  # decides what is reused, not what comes out

_NOT_ASKED = ("attempt", "before")  # what the engine adds and no recipe changes
_SHOWN = 5  # changed modules that one line names
_WIDTH, _BEFORE = 40, 12  # characters of a value that one line shows, and before the difference
_ABSENT = object()  # the value of a key that one of two sections does not have


class Acceptance(BaseModel):
    """One accepted artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str  # digest of the artifact that is used
    code_digest: str  # of the code it was accepted for
    changed: list[str]  # modules that differ from those that made it; empty where none are known
    accepted_at: str  # ISO 8601, UTC
    command: str

    def line(self) -> str:
        """For people: when, by which command, and what had changed."""
        when = f"{self.accepted_at[:16].replace('T', ' ')} UTC"
        return f"accepted {when} by '{self.command}'; {changed_line(self.changed)}"


def read_acceptance(objects: ObjectStore, stage: str, digest: str) -> Acceptance | None:
    """The record for the artifact that today's code would make, or None."""
    try:
        return Acceptance.model_validate_json(objects.get(_key(stage, digest)))
    except ObjectNotFound:
        return None


def newest_match(
    manifests: Sequence[Manifest], config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Manifest | None:
    """The newest artifact that was made from this section and these inputs, or None."""
    for manifest in reversed(manifests):
        made_with = {k: v for k, v in manifest.config.items() if k not in _NOT_ASKED}
        if made_with == config and manifest.inputs == inputs:
            return manifest
    return None


def write_acceptance(
    objects: ObjectStore,
    stage: str,
    digest: str,
    artifact: Manifest,
    code: Mapping[str, str],
    command: str,
) -> None:
    """Use `artifact` where today's `code` would make `stage/digest`."""
    record = Acceptance(
        artifact=artifact.digest,
        code_digest=code_digest(code),
        changed=changed_modules(artifact, code) or [],
        accepted_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        command=command,
    )
    objects.put(_key(stage, digest), record.model_dump_json(indent=1).encode())


def changed_modules(before: Manifest, code: Mapping[str, str]) -> list[str] | None:
    """Names of the modules that have changed since an artifact was made; None where none has.

    Empty where the code has changed but the manifest, of an earlier version of kontext, has no
    hashes of single modules.
    """
    if before.code_digest == code_digest(code):
        return None
    names = {*before.code, *code} if before.code else ()
    return sorted(name for name in names if before.code.get(name) != code.get(name))


def changed_line(changed: list[str]) -> str:
    """`code changed`, with the first of the modules."""
    if not changed:
        return "code changed"
    rest = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return f"code changed: {', '.join(changed[:_SHOWN])}{rest}"


def difference(
    before: Manifest, code: Mapping[str, str], config: Mapping[str, Any], inputs: Mapping[str, str]
) -> str:
    """Why an artifact is not the one that today's code, section and inputs make, in one line."""
    changed = changed_modules(before, code)
    changes = [] if changed is None else [changed_line(changed)]
    made_with = {k: v for k, v in before.config.items() if k not in _NOT_ASKED}
    for key in sorted({*config, *made_with}):
        old, new = made_with.get(key, _ABSENT), config.get(key, _ABSENT)
        if _text(old) != _text(new):
            changes.append(changed_value(*_first_difference(key, old, new)))
    changes += [f"input {s} changed" for s in inputs if before.inputs.get(s) != inputs[s]]
    return "; ".join(changes) or "forced again"


def changed_value(key: str, old: Any, new: Any) -> str:
    """`key: old → new`; long values are cut to where they differ, so the two are never alike."""
    texts = [_text(value) for value in (old, new)]
    pairs = zip_longest(*texts)
    same = next((i for i, (one, other) in enumerate(pairs) if one != other), 0)
    start = max(0, same - _BEFORE) if max(map(len, texts)) > _WIDTH else 0
    shown = []
    for text in texts:
        left, right = "…" * (start > 0), "…" * (len(text) > start + _WIDTH)
        shown.append(f"{left}{text[start : start + _WIDTH]}{right}")
    return f"{key}: {shown[0]} → {shown[1]}"


def _first_difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """Where two values first differ: the key of that place, and what is there in both."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        pairs = [(f".{k}", old.get(k, _ABSENT), new.get(k, _ABSENT)) for k in sorted({*old, *new})]
    elif isinstance(old, list) and isinstance(new, list):
        both = enumerate(zip_longest(old, new, fillvalue=_ABSENT))
        pairs = [(f"[{number}]", *values) for number, values in both]
    for name, one, other in pairs:
        if _text(one) != _text(other):
            return _first_difference(f"{key}{name}", one, other)
    return key, old, new


def _text(value: Any) -> str:
    """A value as digests see it: two that are equal here make the same artifact."""
    return "(absent)" if value is _ABSENT else json.dumps(value, sort_keys=True)


def _key(stage: str, digest: str) -> str:
    return run_prefix(stage, digest) + "accepted.json"
