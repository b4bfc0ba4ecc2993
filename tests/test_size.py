"""Functions that fit on a screen: length, complexity and nesting, counted as style asks."""

from __future__ import annotations

import ast
import functools

import pytest
from helpers import ROOT, tree_of

PACKAGE = ROOT / "wsmini"
PATHS = sorted(PACKAGE.rglob("*.py"))

LONGEST_FUNCTION = 50
MOST_COMPLEX = 15
DEEPEST = 4

# "module.function" -> why it may be longer or more complex: measured hot paths, and signatures.
EXCEPTIONS = {
    "sansio.deflate.PerMessageDeflate.inflate": "its rare branches are functions; a call costs 3%",
    "events.transport.EventTransport._on_readable": "once for each read; a call costs 1%",
    "opening.writebuffer.WriteBuffer.flush": "once for each message of a loop; a call costs 1%",
    "callbacks.loop.Loop._turn": "once for each wake-up; each call costs 1% of a short round trip",
    "sansio.messages.MessageReader._plain_messages": "one loop; nothing is called for a frame",
}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
BRANCHES = LOOPS + (ast.If, ast.IfExp, ast.ExceptHandler, ast.comprehension)
BLOCKS = LOOPS + (ast.If, ast.Try, ast.With, ast.AsyncWith)


def lines_of(node):
    return range(node.lineno, node.end_lineno + 1)


def code_lines(source, tree):
    """The numbers of the lines with a token that is neither a comment nor a docstring."""
    lines = {
        number
        for number, line in enumerate(source.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    }
    docstrings = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno > node.lineno:
            lines.update(lines_of(node))  # whatever a long string has in its lines
        elif isinstance(node, FUNCTIONS + (ast.ClassDef, ast.Module)):
            if ast.get_docstring(node, clean=False):
                docstrings.append(node.body[0])
    return lines.difference(*map(lines_of, docstrings))


def complexity(function):
    """The number of branches plus one (McCabe), nested functions included."""
    count = 1
    for node in ast.walk(function):
        if isinstance(node, BRANCHES):
            count += 1 + len(getattr(node, "ifs", ()))
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
    return count


def nesting(node, depth=0):
    """How deep blocks are nested in *node*; ``elif`` doesn't count."""
    deepest = depth
    for field in ("body", "handlers", "orelse", "finalbody"):
        children = getattr(node, field, ())
        for child in children:
            is_elif = isinstance(node, ast.If) and field == "orelse" and len(children) == 1
            inner = isinstance(child, BLOCKS) and not (is_elif and isinstance(child, ast.If))
            deepest = max(deepest, nesting(child, depth + inner))
    return deepest


def functions(node, prefix):
    """(qualified name, node) of each function of *node*, but not of those within functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            yield f"{prefix}.{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{prefix}.{child.name}")
        elif isinstance(child, (ast.If, ast.Try)):
            yield from functions(child, prefix)


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@functools.lru_cache(maxsize=None)
def excess():
    """Name -> what is too much about it."""
    found = {}
    for path in PATHS:
        tree = tree_of(path)
        lines = code_lines(path.read_text(encoding="utf-8"), tree)
        for name, node in functions(tree, module_name(path)):
            length, branches, depth = (
                len(lines.intersection(lines_of(node))),
                complexity(node),
                nesting(node),
            )
            if length > LONGEST_FUNCTION or branches > MOST_COMPLEX or depth > DEEPEST:
                found[name] = f"{length} lines, complexity {branches}, nesting {depth}"
    return found


EXAMPLE = '''
def function(a):
    """Not

    counted."""
    # nor this

    if a and (a or a):
        for b in a:
            pass
    elif a:
        with a:
            return [c for c in (
                a
            ) if c]
'''


def test_what_is_counted():
    tree = ast.parse(EXAMPLE)
    function = tree.body[0]
    assert len(code_lines(EXAMPLE, tree)) == 9
    assert complexity(function) == 8
    assert nesting(function) == 2


def test_functions_are_short_and_simple():
    too_much = [f"{name}: {why}" for name, why in excess().items() if name not in EXCEPTIONS]
    assert not too_much, "\n".join(too_much)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_still_needed(name):
    assert name in excess()
