"""What differs between two artifacts: recipe, data, code, figures."""

from dataclasses import dataclass
from typing import Any

from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.artifacts.lineage import Ref, ancestors
from schemas.manifest import Manifest


@dataclass(frozen=True)
class Change:
    """One thing that differs; None where one side lacks it."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Difference:
    """Everything that differs. Empty tuples mean equal."""

    before: Ref
    after: Ref
    recipe: tuple[Change, ...]  # "stage.key" of every stage on the way
    data: tuple[Change, ...]  # "stage" by digest for ancestors, "stage:file" by SHA-256
    code: tuple[Change, ...]  # "stage" by code digest, "git_commit", "package:name"
    metrics: tuple[Change, ...]  # of the two artifacts themselves


def diff(store: ArtifactStore, before: str, after: str) -> Difference:
    """Compare two artifacts. Raises ArtifactError for an unknown reference."""
    manifests = {(m.stage, m.digest): m for m in store.list()}
    refs = store.resolve(before), store.resolve(after)
    one, two = ({r[0]: manifests[r] for r in ancestors(manifests, {ref})} for ref in refs)
    a, b = (manifests[ref] for ref in refs)
    inputs = _changes(
        {name: m.digest for name, m in one.items() if name != a.stage},
        {name: m.digest for name, m in two.items() if name != b.stage},
    )
    files = _changes(
        {f"{a.stage}:{f.name}": f.sha256 for f in a.files},
        {f"{b.stage}:{f.name}": f.sha256 for f in b.files},
    )
    return Difference(
        *refs,
        recipe=_changes(
            *(_flat({s: m.config for s, m in c.items() if m.config}) for c in (one, two))
        ),
        data=inputs + files,
        code=_changes(_code(a, one), _code(b, two)),
        metrics=_changes(dict(a.metrics), dict(b.metrics)),
    )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            found |= {f"{key}.{inner}": v for inner, v in _flat(value).items()}
        else:
            found[key] = value
    return found


def _code(manifest: Manifest, closure: dict[str, Manifest]) -> dict[str, str]:
    found = {stage: m.code_digest for stage, m in closure.items()}
    found |= {f"package:{name}": version for name, version in manifest.packages.items()}
    return {**found, "git_commit": manifest.git_commit}


def _changes(before: dict[str, Any], after: dict[str, Any]) -> tuple[Change, ...]:
    return tuple(
        Change(name, before.get(name), after.get(name))
        for name in sorted(set(before) | set(after))
        if before.get(name) != after.get(name)
    )
