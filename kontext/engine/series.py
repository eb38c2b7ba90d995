"""Which earlier artifacts a stage with `continues` goes on from.

The stage's section has a field that names a series, for example a dataset. An artifact goes on from
the series' newest ones: those that no other has gone on from. That is one, or several where runs
were made at the same time. Their digests are part of the artifact's own, and stand in its manifest.

Where the field is one of a later stage, as in `shard.dataset`, the stage goes on from the artifacts
that the newest ones of that series were made of.

A stage with `compares` is handed the artifact behind the tagged one of a later stage, whatever code
made it. One that has been made stays compared with what was tagged then; so the later stage asks,
before it takes the tag, whether that is still the one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kontext.engine.stage import Stage, section_in
from kontext.engine.versions import package_versions
from kontext.errors import GateError
from kontext.store.artifacts.artifact_store import ArtifactStore
from schemas.manifest import Manifest
from schemas.recipe import Recipe

CHANGES_RESULTS = False  # what it finds is part of the digest


def before_of(
    store: ArtifactStore,
    stage: Stage,
    stages: Mapping[str, Stage],
    recipe: Recipe,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    code_digest: str,
) -> list[str]:
    """Digests of the artifacts that the one of this section, inputs and code goes on from."""
    made = store.list(stage.name)
    if stage.compares:
        said = _said(made, config, inputs, code_digest)
        return _behind_tag(store, stage, stages, recipe) if said is None else said
    later, _, field = stage.continues.rpartition(".")
    if not later:
        return goes_on_from(made, field, config, inputs, code_digest)
    if later not in stages:
        return []
    name = getattr(section_in(recipe, stages[later]), field)
    users = [one for one in store.list(later) if one.config.get(field) == name]
    return made_into(users, stage.name, made, config, inputs, code_digest)


def _behind_tag(
    store: ArtifactStore, stage: Stage, stages: Mapping[str, Stage], recipe: Recipe
) -> list[str]:
    """The stage's artifact that the tagged one of the stage it `compares` for was made of."""
    if stage.compares not in stages:
        return []
    sections = {name: getattr(recipe, name) for name in type(recipe).model_fields}
    tagged = store.tagged(stages[stage.compares].tag.format(**sections))
    made = store.manifest(*tagged) if tagged else None
    digest = made.inputs.get(stage.name, "") if made else ""
    return [digest] if digest and store.exists(stage.name, digest) else []


def require_compared(
    store: ArtifactStore,
    stage: Stage,
    stages: Mapping[str, Stage],
    recipe: Recipe,
    inputs: Mapping[str, str],
) -> None:
    """Raise GateError where an input `compares` for this stage, but not with what is tagged now.

    An artifact behind the tag itself is fine, and so is any where nothing is tagged, or nothing is
    left of what the tagged one was made of.
    """
    for source, digest in inputs.items():
        if stages[source].compares != stage.name:
            continue
        now = _behind_tag(store, stages[source], stages, recipe)
        made = store.manifest(source, digest)
        if now and made and now not in ([digest], made.config.get("before")):
            raise GateError(
                f"{source}/{digest} is compared with what was tagged when it was made, and another "
                f"is tagged since ({source}/{now[0]}): make it again, with --only {source} --force"
            )


def goes_on_from(
    manifests: Sequence[Manifest],
    field: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    code_digest: str,
) -> list[str]:
    """Digests of the artifacts that the one of this section, inputs and code goes on from.

    One that has been made already keeps what its manifest says, so it stays the same artifact
    when others follow. `manifests` are the stage's, oldest first.
    """
    series = [m for m in manifests if m.config.get(field) == config[field]]
    said = _said(series, config, inputs, code_digest)
    return _newest(series) if said is None else said


def made_into(
    users: Sequence[Manifest],
    stage: str,
    manifests: Sequence[Manifest],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    code_digest: str,
) -> list[str]:
    """Digests of those `manifests` that the newest of the `users` were made of.

    Only of what today's code and packages have made; none for a forced artifact, whose work is to
    be done again. One that has been made already keeps what its manifest says.
    """
    said = _said(manifests, config, inputs, code_digest)
    if said is not None:
        return said
    newest = _newest(users) if "attempt" not in config else []
    used = {user.inputs.get(stage) for user in users if user.digest in newest}
    today = (code_digest, package_versions())
    return sorted(
        {m.digest for m in manifests if m.digest in used and (m.code_digest, m.packages) == today}
    )


def _said(
    manifests: Sequence[Manifest],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    code_digest: str,
) -> list[str] | None:
    """What the newest artifact of this section, inputs and code has gone on from."""
    for made in reversed(manifests):
        plain = {k: v for k, v in made.config.items() if k != "before"}
        if (plain, made.inputs, made.code_digest) == (config, inputs, code_digest):
            return list(made.config.get("before", ()))
    return None


def _newest(series: Sequence[Manifest]) -> list[str]:
    """Those that no other has gone on from."""
    gone_on = {digest for made in series for digest in made.config.get("before", ())}
    return sorted({made.digest for made in series} - gone_on)
