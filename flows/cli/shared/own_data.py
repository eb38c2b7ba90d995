"""Paths that a user names instead of a recipe's sources."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from flows.cli.shared import opened
from flows.cli.shared.licence import licence_unknown
from flows.cli.shared.show import dim, say

if TYPE_CHECKING:
    from schemas.recipe import Recipe


def overrides(
    paths: Sequence[str] | None, name: str, recipe: str = "demo", store: str = ""
) -> list[str]:
    """Recipe changes that read these paths and nothing else, under a name; says what each path is.

    A recipe for square pictures takes somebody's own in their shapes: what a centre square cuts off
    a photograph is often the edit. A recipe with sizes of its own keeps them.

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
    if opened.changed_recipe(recipe, None, store).ingest.sizes == "square":
        changes.append("ingest.sizes=kontext")
    return changes


def shapes(recipe: Recipe) -> str:
    """In which sizes the pictures of a recipe are trained on, in words."""
    from kontext.data.buckets import Buckets

    ingest = recipe.ingest
    if ingest.sizes == "square":
        return (
            f"pictures are cut to squares of {ingest.resolution} px: --set ingest.sizes=kontext "
            "keeps their shapes"
        )
    named = "kontext" if ingest.sizes == "kontext" else "a list"
    sizes = sorted(Buckets.of(ingest).sizes, key=lambda size: size[0] / size[1])
    (left, top), (width, height) = sizes[0], sizes[-1]
    said = "1 size" if len(sizes) == 1 else f"{len(sizes)} sizes, {left} x {top} to"
    return f"pictures keep their shapes: {said} {width} x {height} px (ingest.sizes={named})"
