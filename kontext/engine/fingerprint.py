"""The code fingerprint: a hash of every module that a stage's result depends on, computed.

From the stage's module the imports are followed, also those inside functions, through `kontext` and
`schemas`. Nothing is imported: the syntax trees are read. A module's hash is that of its tree
without comments, docstrings, type-checking imports and the stage's own declaration, whose inputs
and section are part of the artifact's digest anyway.

A module says itself, by a literal at its top level, what the tree cannot tell:

    CHANGES_RESULTS = False          # logging, layout, launching: imports are not followed either
    DATA_FILES = ("policies/*.json",)  # read at run time: counted with the module

In a package's `__init__` the first holds for all modules below it, unless one of them declares
otherwise. No import leads to a plug-in, so those that the section names are added
(`Stage.plugins`); the others do not count.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from uuid import uuid4

from kontext.engine import known_sources
from kontext.engine.known_sources import KnownSources, Read
from kontext.engine.stage import Stage
from kontext.errors import ArtifactError
from schemas import syntax
from schemas.sections.base import Section
from schemas.syntax import syntax_tree

CHANGES_RESULTS = False  # the hashes themselves are in every digest

FOLLOWED = ("kontext", "schemas")
OF_EVERY_STAGE = ("kontext.store.parquet",)  # bytes of the tables that stages hand to the engine
_DECLARATIONS = ("STAGE", "CHANGES_RESULTS", "DATA_FILES")
_LEFT_OUT = ("ctx", "kind", "type_comment", "type_ignores")  # fields of nodes that change nothing


@dataclass(frozen=True)
class SourceFile:
    """One module: the hash of its syntax tree, its imports, and what it declares about itself."""

    hash: str
    imports: tuple[str, ...]  # dotted names; some name a module's attribute
    data: tuple[Path, ...]  # files that it reads at run time
    changes_results: bool | None  # as the module declares; None where it declares nothing


def code_of(stage: Stage, section: Section) -> dict[str, str]:
    """Module or data file -> hash, of all that decide this stage's result for this section."""
    named = resolve_name(stage.plugins)(section) if stage.plugins else ()
    return modules_of(stage.module, *named, *OF_EVERY_STAGE)


def code_digest(modules: Mapping[str, str]) -> str:
    """SHA-256 over modules and their hashes."""
    text = "".join(f"{name}\0{modules[name]}\0" for name in sorted(modules))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def changes_results(module: str) -> bool:
    """Whether a change of this module counts, as it or the nearest package above it declares."""
    path = source_path(module)
    said = _source(path).changes_results if path else None
    if said is not None:
        return said
    above = module.rpartition(".")[0]
    return changes_results(above) if above else True


@cache
def source_path(module: str) -> Path | None:
    """The file of a module, or a package's `__init__`; None where there is none."""
    top, *rest = module.split(".")
    spec = _top(top)
    if spec is None:
        return None
    if not rest:
        return spec[1]
    for root in spec[0]:
        base = root.joinpath(*rest)
        for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def forget() -> None:
    """Look at the files again. One process looks once: its code is loaded once, too."""
    for cached in (_top, modules_of, source_path, changes_results, _source):
        cached.cache_clear()


@cache
def modules_of(*roots: str) -> dict[str, str]:
    """Module or data file -> hash, of the modules `roots` and all that they import, by name.

    Raises ArtifactError for a root that is no module.
    """
    tops = {*FOLLOWED, *(root.partition(".")[0] for root in roots)}
    found: dict[str, str] = {}
    seen: set[str] = set()
    coming = sorted(set(roots))
    for root in coming:
        if source_path(root) is None:
            raise ArtifactError(f"no source found for '{root}': is the installation complete?")
    while coming:
        module = coming.pop()
        path = source_path(module)
        if module in seen or path is None or not changes_results(module):
            continue
        seen.add(module)
        coming.append(module.rpartition(".")[0] or module)  # whose __init__ runs first
        source = _source(path)
        if source.hash != _EMPTY:  # most packages' __init__ have only a docstring
            found[module] = source.hash
        for file in source.data:
            name = f"{module}:{file.name}"
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        coming += [name for name in source.imports if name.partition(".")[0] in tops]
    known().save()
    return dict(sorted(found.items()))


@cache
def _top(name: str) -> tuple[tuple[Path, ...], Path | None] | None:
    """Folders of a top-level package, and its own file. It is looked up, not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    file = Path(spec.origin) if spec.origin and spec.has_location else None
    return tuple(map(Path, spec.submodule_search_locations or ())), file


@cache
def _source(path: Path) -> SourceFile:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    read = known().get(digest)
    if read is None:
        read = _read(data.decode(), str(path))
        known().put(digest, read)
    files = [sorted(path.parent.glob(pattern)) for pattern in read.patterns]
    for pattern, matched in zip(read.patterns, files, strict=True):
        if not matched:
            raise ArtifactError(f"{path}: DATA_FILES '{pattern}' matches nothing")
    found = tuple(file for matched in files for file in matched)
    return SourceFile(read.hash, read.imports, found, read.changes_results)


def _read(source: str, name: str) -> Read:
    tree = syntax_tree(source, name)
    said = _literals(tree)
    return Read(
        syntax_hash(tree),
        tuple(dict.fromkeys(imports_of(tree))),
        said.get("DATA_FILES", ()),
        said.get("CHANGES_RESULTS"),
    )


def _reader() -> str:
    """SHA-256 of the code that reads sources."""
    try:
        files = (__file__, known_sources.__file__, syntax.__file__)
        return hashlib.sha256(b"".join(Path(str(file)).read_bytes() for file in files)).hexdigest()
    except OSError:
        return uuid4().hex  # nobody can say what it is: no other process's


_READER = _reader()  # as this process has loaded it: files may change while it runs


@cache
def known() -> KnownSources:
    """What earlier processes have read, by this code."""
    return KnownSources(known_sources.FILE, _READER)


def _literals(tree: ast.Module) -> dict[str, Any]:
    """The declarations of a module that are literals (all but STAGE must be)."""
    return {
        name: ast.literal_eval(node.value)
        for node in tree.body
        if (name := _declares(node)) and name != "STAGE" and isinstance(node, ast.Assign)
    }


def _declares(node: ast.AST) -> str:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        return name if name in _DECLARATIONS else ""
    return ""


def imports_of(node: ast.AST) -> Iterator[str]:
    """Names that are imported anywhere below a node, functions included, but for type checking."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            # `from kontext import models` means kontext.models, `... import X` the module before it
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
            yield str(child.module)
        elif isinstance(child, ast.If) and _for_types(child):
            yield from (name for other in child.orelse for name in imports_of(other))
        else:
            yield from imports_of(child)


def _for_types(node: ast.If) -> bool:
    return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def syntax_hash(tree: ast.Module) -> str:
    """16 hex characters of SHA-256 over a module's tree, equal in all versions of Python."""
    parts: list[str] = []
    _dump(tree, parts)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _dump(node: Any, parts: list[str]) -> None:
    """Append the tree as text. By hand: `ast.dump` and `ast.unparse` differ between versions.

    Fields that are empty are left out, so one that a later version adds changes nothing.
    """
    if isinstance(node, list):
        parts.append("[")
        for item in node:
            _dump(item, parts)
        parts.append("]")
    elif isinstance(node, ast.AST):
        parts.append(f"({type(node).__name__}")
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                value = [item for item in value if not _changes_nothing(item)]
                value = _joined(value) if isinstance(node, ast.JoinedStr) else value
            if value is None or value == [] or name in _LEFT_OUT:
                continue
            parts.append(f" {name}=")
            _dump(value, parts)
        parts.append(")")
    else:
        parts.append(f"{type(node).__name__}:{node!r}")


def _changes_nothing(node: Any) -> bool:
    """Docstrings and other bare strings, imports for types only, and declarations."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, str)
    if isinstance(node, ast.If) and _for_types(node):
        return not node.orelse
    return bool(_declares(node))


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Parts of an f-string, neighbouring texts as one: versions cut them up differently."""
    parts: list[ast.expr] = []
    for value in values:
        last = parts[-1] if parts else None
        if isinstance(value, ast.Constant) and isinstance(last, ast.Constant):
            parts[-1] = ast.Constant(str(last.value) + str(value.value))
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            parts.append(value)
    return parts


_EMPTY = syntax_hash(ast.Module([], []))
