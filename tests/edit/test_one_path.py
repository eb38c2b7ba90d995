import ast
from pathlib import Path

SOURCES = [
    path
    for top in ("kontext", "flows", "tasks")
    for path in (Path(__file__).parents[2] / top).rglob("*.py")
]


def callers(name: str) -> set[str]:
    """Files of the product that call something of this name."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func
                own = called.attr if isinstance(called, ast.Attribute) else ""
                if name == (called.id if isinstance(called, ast.Name) else own):
                    found.add(path.name)
    return found


def test_there_is_one_path_for_every_edit() -> None:
    """A second sampler or decoder would be scored, shown or trained on in place of the user's."""
    assert callers("restore_detail") == {"codec.py"}
    assert callers("_Velocity") == {"euler.py"}
    drawn = {"gold.py"}  # of random numbers
    assert callers("sample") - drawn == {"edit_model.py", "pairs.py"}
