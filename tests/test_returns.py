"""No function that a signal handler may interrupt returns what it computes from within an except.

CPython 3.8 puts such a value below the exception, and then takes that off. A handler's exception
that comes in between has it unwind its stack to the wrong place: the value is taken for an
exception, is never let go of (a connection, say), and stands in the context of all later ones.
"""

from __future__ import annotations

import ast

from helpers import ROOT, tree_of

# Not cli/, where such an exception ends the process, and not the servers of testing/.
PATHS = [
    path
    for path in sorted((ROOT / "wsmini").rglob("*.py"))
    if path.parent.name not in ("cli", "testing")
]


def computed_returns(tree):
    """The numbers of the lines in which an except returns something that isn't a constant."""
    nodes = [
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        for child in node.body
    ]
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Return) and not isinstance(node.value, (ast.Constant, type(None))):
            yield node.lineno
        nodes += ast.iter_child_nodes(node)


EXAMPLE = """
def function():
    try:
        return [1]
    except KeyError as exc:
        if exc.args:
            return [2]
        return None
    except ValueError:
        function.other = lambda: [3]
        return
    return [4]
"""


def test_which_are_found():
    assert list(computed_returns(ast.parse(EXAMPLE))) == [7]


def test_an_except_returns_constants_only():
    found = [f"{path.name}:{line}" for path in PATHS for line in computed_returns(tree_of(path))]
    assert PATHS and not found
