from __future__ import annotations

import ast
from pathlib import Path

from kontext.sample.core import guidance_for
from kontext.sample.euler import Guidance
from tests.sample.test_editor import networks

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
    assert callers("denoise") == {"editor.py", "edits.py", "session.py", "latency.py"}


def test_guidance_goes_where_the_model_takes_it() -> None:
    plain, embedded = networks()[0], networks(guidance_embed=True)[0]
    assert guidance_for(plain, 3.0, image=1.5) == Guidance(3.0, 1.5)
    assert guidance_for(embedded, 3.0, true_cfg=2.0) == Guidance(2.0, 1.0, embedded=3.0)
