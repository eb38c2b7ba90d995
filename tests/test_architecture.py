"""Imports point down only: flows → tasks → kontext → schemas, and layer by layer in kontext."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from kontext.engine.fingerprint import imports_of

ROOT = Path(__file__).parents[1]
TOPS = ("flows", "tasks", "kontext", "schemas")  # each may import itself and what follows

# The parts of kontext from bottom to top: each may import those before it, and no other.
ORDER = (
    "errors",
    "store",
    "safety",
    "engine",
    "parallel",
    "models",
    "data",
    "train",
    "edit",
    "evaluate",
    "stages",
    "doctor",
    "exported",
)
TENSOR_PARTS = ("models", "parallel", "train", "edit")
TENSOR_ALLOWED = {"torch", "numpy", "safetensors", "pydantic", "schemas", "__future__"}
TENSOR_ALLOWED.add("typing_extensions")  # torch and pydantic bring it


def sources(top: str) -> list[Path]:
    return sorted((ROOT / top).rglob("*.py"))


def module_of(path: Path) -> list[str]:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


@cache
def imported(path: Path, *, module_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(), str(path))
    nodes = list(_module_level(tree)) if module_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            assert node.module
            # `from kontext import models` imports kontext.models
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _module_level(node: ast.AST) -> list[ast.AST]:
    """Statements that run on import: not those in functions or under TYPE_CHECKING."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        found += [child, *_module_level(child)]
    return found


def part_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "kontext" and len(parts) > 1 else None


def test_there_is_something_to_check() -> None:
    assert {path.parent.name for path in sources("kontext")} >= {"objects", "stages", "flux"}
    assert "kontext.errors.StoreError" in imported(ROOT / "kontext/store/objects/s3.py")
    assert "heavy" not in _names("def f():\n    import heavy\n")
    assert "heavy" in _names("try:\n    import heavy\nexcept ImportError:\n    pass\n")
    assert "heavy" in _names("class A:\n    import heavy\n")


def _names(text: str) -> set[str]:
    nodes = _module_level(ast.parse(text))
    return {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


@pytest.mark.parametrize("top", TOPS)
def test_packages_import_only_downwards(top: str) -> None:
    above = set(TOPS[: TOPS.index(top)]) | {"tests", "benchmarks", "infra"}
    for path in sources(top):
        wrong = {name for name in imported(path) if name.split(".")[0] in above}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("top", ["kontext", "schemas"])
def test_the_library_does_not_know_the_orchestrator(top: str) -> None:
    for path in sources(top):
        wrong = {n for n in imported(path) if n.split(".")[0].startswith("prefect")}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def dependencies() -> dict[str, dict[str, Path]]:
    """For each part of kontext, the parts it imports and a file that does."""
    found: dict[str, dict[str, Path]] = {}
    for path in sources("kontext"):
        module = module_of(path)
        if len(module) > 1:
            own = module[1]
            used = found.setdefault(own, {})
            for other in map(part_of, imported(path)):
                if other is not None and other != own and not other.startswith("__"):
                    used[other] = path.relative_to(ROOT)
    return found


def test_parts_of_the_library_import_downwards_only() -> None:
    for own, used in dependencies().items():
        assert own in ORDER, f"kontext.{own} has no place in ORDER"
        for other, path in used.items():
            assert ORDER.index(other) < ORDER.index(own), f"{path} imports kontext.{other}"


def circles(paths: dict[str, Path]) -> set[frozenset[str]]:
    """Groups of modules of which each reaches each, by imports anywhere but for type checking."""
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        names = set(imports_of(ast.parse(path.read_text())))
        # `from a.b import X` loads a.b, where X is no module itself
        used = {name if name in paths else name.rpartition(".")[0] for name in names}
        graph[module] = (used & set(paths)) - {module}
    while free := {m for m, used in graph.items() if not used & set(graph)} or {
        m for m in graph if not any(m in used for used in graph.values())
    }:
        graph = {m: used - free for m, used in graph.items() if m not in free}
    found = {frozenset(_reached(m, graph) & _reaching(m, graph)) for m in graph}
    return {circle for circle in found if circle}


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    found, coming = set(), [start]
    while coming:
        for module in graph[coming.pop()] & set(graph):
            if module not in found:
                found.add(module)
                coming.append(module)
    return found


def _reaching(end: str, graph: dict[str, set[str]]) -> set[str]:
    against: dict[str, set[str]] = {module: set() for module in graph}
    for module, used in graph.items():
        for other in used & set(graph):
            against[other].add(module)
    return _reached(end, against)


def test_no_files_import_each_other_in_a_circle() -> None:
    found = circles({".".join(module_of(path)): path for top in TOPS for path in sources(top)})
    assert not found, sorted(map(sorted, found))


def test_circles_are_found(tmp_path: Path) -> None:
    texts = {
        "p.a": "from p.b import x\n",
        "p.b": "def f():\n    import p.c\n",
        "p.c": "from p import a\nimport p.d\n",
        "p.d": "if TYPE_CHECKING:\n    import p.a\n",
    }
    paths = {name: tmp_path / f"{name}.py" for name in texts}
    for name, path in paths.items():
        path.write_text(texts[name])
    assert circles(paths) == {frozenset({"p.a", "p.b", "p.c"})}


def test_no_stage_sees_the_recipe() -> None:
    """A stage is handed its section and its inputs: what it read beside them no digest would cover.

    The planner predicts a whole recipe, before any stage has run; no stage calls that.
    """
    for path in [*sources("kontext/stages"), *sources("kontext/evaluate")]:
        text = path.read_text()
        assert "ctx.recipe" not in text and "schemas.recipes" not in text, path


def test_only_what_makes_no_edit_for_people_draws_without_asking_the_policy() -> None:
    """`EditModel` and `Turns` ask nobody; whoever hands out pictures goes through `Editor`."""
    inner = ("kontext.edit.edit_model", "kontext.edit.turns")
    for path in (path for top in TOPS for path in sources(top)):
        if path.relative_to(ROOT).parts[:2] not in (("kontext", "edit"), ("kontext", "evaluate")):
            wrong = {n for n in imported(path) if n.startswith(inner)}
            assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("part", TENSOR_PARTS)
def test_tensor_code_needs_four_packages(part: str) -> None:
    """Also through what it imports from other parts."""
    allowed = TENSOR_ALLOWED | set(sys.stdlib_module_names)
    coming, seen = sources(f"kontext/{part}"), set[Path]()
    while coming:
        path = coming.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported(path, module_level=True):
            if name.startswith("kontext."):
                coming += _files_of(name)
            else:
                fine = name.split(".")[0] in allowed
                assert fine, f"{path.relative_to(ROOT)} imports {name} at module level"


def _files_of(name: str) -> list[Path]:
    """The file of a module, or of the module that has the attribute `name`."""
    for parts in (name.split("."), name.split(".")[:-1]):
        base = ROOT.joinpath(*parts)
        found = [p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()]
        if found:
            return found
    return []


def test_files_can_be_read_in_one_sitting() -> None:
    lines = {path: len(path.read_text().splitlines()) for top in TOPS for path in sources(top)}
    long = {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > 400}
    assert not long, f"files of more than 400 lines: {long}"
    assert statistics.median(lines.values()) < 170


def test_functions_are_short() -> None:
    for path in (path for top in TOPS for path in sources(top)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= 60, f"{path.relative_to(ROOT)}: {node.name} has {lines} lines"


def test_parts_import_in_any_order() -> None:
    """Each alone, in a process that has imported nothing else of the library."""
    script = "import importlib, sys; importlib.import_module(sys.argv[1])"
    for part in ORDER:
        done = subprocess.run(
            [sys.executable, "-c", script, f"kontext.{part}"], cwd=ROOT, capture_output=True
        )
        assert not done.returncode, done.stderr.decode()
