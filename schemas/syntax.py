"""Python sources as syntax trees, whatever other threads parse meanwhile."""

import ast
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_LOCK = Lock()


def syntax_tree(source: str, name: str = "<unknown>") -> ast.Module:
    """`ast.parse` that no other thread disturbs.

    Python 3.11 counts the depth of all threads' trees in one place: where the garbage collector
    lets another thread parse in the midst of a tree, parsing ends with "SystemError: AST
    constructor recursion depth mismatch" (cpython issue 106905). So nothing is collected for the
    milliseconds that it takes.

    Raises:
        SyntaxError: the source is no Python.
    """
    with _LOCK, _nothing_collected():
        return ast.parse(source, name)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
