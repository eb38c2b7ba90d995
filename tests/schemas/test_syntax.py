"""Sources parsed by several threads at once."""

import ast
import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest

from schemas.syntax import syntax_tree

SOURCES = [path.read_text() for path in sorted(Path(ast.__file__).parent.glob("[a-b]*.py"))]


class Litter:
    """Takes a while to be collected, in Python: another thread may get its turn."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        for _ in range(50):
            pass


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def parsed(source: str) -> int:
    Litter()
    return nodes(syntax_tree(source))


def nodes(tree: ast.Module) -> int:
    return sum(1 for _ in ast.walk(tree))


def test_threads_do_not_disturb_each_other(restless: None) -> None:
    """With plain `ast.parse` Python 3.11 ends hundreds of these in a SystemError."""
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(parsed, 4 * SOURCES))
    assert found == 4 * [nodes(ast.parse(source)) for source in SOURCES]


def test_a_library_that_parses_meanwhile_does_not_disturb_us(restless: None) -> None:
    done = Event()

    def theirs() -> None:
        while not done.is_set():
            Litter()
            with suppress(SystemError):  # their trouble, not ours
                ast.parse(SOURCES[0])

    with ThreadPoolExecutor(1) as pool:
        their_work = pool.submit(theirs)
        try:
            found = [parsed(source) for source in SOURCES]
        finally:
            done.set()
        their_work.result()
    assert found == [nodes(ast.parse(source)) for source in SOURCES]


@pytest.mark.parametrize("on", [True, False])
def test_collecting_goes_on_as_before(on: bool) -> None:
    before = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        syntax_tree("a = 1")
        assert gc.isenabled() == on
    finally:
        (gc.enable if before else gc.disable)()


def test_no_python_is_a_syntax_error_at_once() -> None:
    with pytest.raises(SyntaxError):
        syntax_tree("a =")
