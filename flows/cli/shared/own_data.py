"""Paths that a user names instead of a recipe's sources."""

import json
import re
from collections.abc import Sequence

import typer

from flows.cli.shared.licence import licence_unknown
from flows.cli.shared.show import dim, say


def overrides(paths: Sequence[str] | None, name: str) -> list[str]:
    """Recipe changes that read these paths and nothing else, under a name; says what each path is.

    Raises:
        SourceError: a path is missing, or has no layout that we know.
        typer.BadParameter: the name is none, or names nothing.
    """
    if not paths:
        if name:
            raise typer.BadParameter("--name needs --source")
        return []
    from kontext.data.sources.found import findings, source_at
    from schemas.own_names import NAME

    if name and not re.match(NAME, name):
        raise typer.BadParameter(f"'{name}' is no name: letters, digits, dot, dash, underscore")
    sources = []
    for path in paths:
        found = findings(source_at(path), samples=0)
        dim(
            f"{path}: {found.layout}; {found.pictures:,} pictures, {found.pairs:,} edits with an "
            f"instruction, {found.captions:,} captions"
        )
        if unknown := licence_unknown(found):
            dim(f"{path}: {unknown}")
        for warning in found.warnings:
            say(f"warning: {path}: {warning}")
        sources.append(found.source.model_dump(mode="json"))
    changes = [f"ingest.sources={json.dumps(sources)}"]
    if name:
        changes += [f"shard.dataset={name}", f"publish.name=kontext-{name}"]
    return changes
