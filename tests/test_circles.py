"""No file imports another in a circle, not even inside functions; type-checking imports aside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.test_architecture import module_of, sources

TOPS = ("kontext", "schemas", "tasks")


def imports(node: ast.AST) -> Iterator[str]:
    """Dotted names that a file imports, also those of attributes of modules."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from imports(child)


def graph(texts: dict[str, str]) -> dict[str, set[str]]:
    """Module -> the modules of `texts` that it imports."""
    found: dict[str, set[str]] = {}
    for module, text in texts.items():
        names = set(imports(ast.parse(text)))
        names |= {name.rpartition(".")[0] for name in names - set(texts)}
        found[module] = (names & set(texts)) - {module}
    return found


def circle(texts: dict[str, str]) -> list[str]:
    """Modules of one circle, the first one again at its end; empty where there is none."""
    try:
        TopologicalSorter(graph(texts)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_circles_are_found_also_inside_functions() -> None:
    lazy = {"a": "def f():\n    from b import g\n", "b": "import a\n"}
    assert sorted(set(circle(lazy))) == ["a", "b"]
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b\n"
    assert circle({"a": for_types, "b": "import a\n"}) == []


@pytest.mark.parametrize("top", TOPS)
def test_no_file_imports_another_in_a_circle(top: str) -> None:
    found = circle({".".join(module_of(path)): path.read_text() for path in sources(top)})
    assert not found, " -> ".join(found)
