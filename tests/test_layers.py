"""The table of folders in docs/design.md, checked: who imports whom, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import lru_cache

import pytest
from helpers import ROOT, offenders, tree_of

PACKAGE = ROOT / "wsmini"

# Folder -> the folders whose modules it may import, besides its own. "" is the package's own
# folder. Front ends never import each other, so that each can be deleted whole.
BELOW = ("", "sansio")
MAY_IMPORT = {
    "": ("sansio",),
    "sansio": (),
    "opening": BELOW,
    "blocking": (*BELOW, "opening"),
    "events": (*BELOW, "opening"),
    "callbacks": (*BELOW, "opening", "events"),
    "aio": (*BELOW, "opening", "events"),
    "testing": BELOW,
    "cli": (*BELOW, "opening", "blocking", "testing"),
}
# Modules in the package's own folder, where programs look for them, that belong to sansio.
OF_SANSIO = {"version", "exceptions"}
# They hand out what is anywhere, and are imported by none of ours.
DOORS = {"__init__", "__main__"}

MOST_FILES = 14  # in a folder
MOST_OF_OURS = 24  # modules that `import wsmini` loads
MOST_OTHERS = 24

# What makes code wait, ask for the time or run at once with other code.
IO = set(
    "_socket _thread asyncio select selectors signal socket ssl subprocess threading time".split()
)

# Not needed to import wsmini, or only by some programs: they come when first used.
HEAVY = set(
    "argparse asyncio base64 ctypes dataclasses email hashlib http inspect json logging random re"
    " secrets ssl string threading traceback typing urllib zlib".split()
)


def module_name(path):
    """Its name within the package: ``__init__`` is that of the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FOLDERS = {name: PACKAGE / name for name in MAY_IMPORT}
# Measured by tests/check_coverage.py, each by its own tests.
SANS_IO = ["exceptions", *(name for name in MODULES if name.startswith("sansio."))]


def folder_of(module):
    """The folder whose rules hold for *module*."""
    if module in OF_SANSIO:
        return "sansio"
    return module if module in FOLDERS else module.rpartition(".")[0]


def is_type_checking(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"


def imports(node, at_run_time):
    """The import statements, wherever they are; without those that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif at_run_time and is_type_checking(child):
            for statement in child.orelse:
                yield from imports(statement, at_run_time)
        elif not isinstance(child, ast.expr):
            yield from imports(child, at_run_time)


def imported(tree, module="", at_run_time=False):
    """The modules that the *tree* of *module* imports: (from the package, from elsewhere)."""
    folder = module if module in FOLDERS else module.rpartition(".")[0]
    ours, others = set(), set()
    for node in imports(tree, at_run_time):
        if isinstance(node, ast.Import):
            others.update(alias.name for alias in node.names)
        elif not node.level:
            others.add(node.module)
        else:
            base = [part for part in (folder if node.level == 1 else "", node.module) if part]
            for alias in node.names:
                name = ".".join([*base, alias.name])
                ours.add(name if name in MODULES else ".".join(base))
    return ours, others


def roots(names):
    return {name.partition(".")[0] for name in names}


@lru_cache(maxsize=None)
def all_imports():
    """(importer, imported) of modules of ours, those for type checkers included."""
    return {
        (name, ours) for name, path in MODULES.items() for ours in imported(tree_of(path), name)[0]
    }


def may_import(importer, target):
    if importer in DOORS:
        return target not in DOORS
    here, there = folder_of(importer), folder_of(target)
    return target not in DOORS and (here == there or there in MAY_IMPORT[here])


def circle(edges):
    """Modules that import each other, around a circle, or an empty list."""
    below = {}
    for importer, target in edges:
        below.setdefault(importer, set()).add(target)
    path, done = [], set()

    def visit(module):
        if module in path:
            return path[path.index(module) :]
        path.append(module)
        found = []
        for target in sorted(below.get(module, set()) - done):
            found = found or visit(target)
        done.add(path.pop())
        return found

    for module in sorted(below):
        found = visit(module)
        if found:
            return found
    return []


def broken(edges):
    """What these imports break: those that point to a wrong folder, and a circle."""
    wrong = [
        f"{importer} -> {target}" for importer, target in edges if not may_import(importer, target)
    ]
    return sorted(wrong) + circle(edges)


# -- the rules --


def test_imports_are_found_wherever_they_are():
    tree = ast.parse("""
from __future__ import annotations
import os.path
from .sansio import uri
from .exceptions import Close
if TYPE_CHECKING:
    import typing
    from .opening.opening import Opening
def function():
    try:
        import ssl as tls, zlib
    except ImportError:
        from .opening.sockets import wait
""")
    others = {"__future__", "os.path", "ssl", "zlib"}
    ours = {"sansio.uri", "exceptions", "opening.sockets"}
    assert imported(tree, "options", at_run_time=True) == (ours, others)
    everything = ours | {"opening.opening"}, others | {"typing"}
    assert imported(tree, "options") == everything
    tree = ast.parse("from . import tls\nfrom ..clock import NEVER")
    assert imported(tree, "opening.proxy")[0] == {"opening.tls", "clock"}
    tree = ast.parse("from .connection import connect")
    assert imported(tree, "aio")[0] == {"aio.connection"}


BROKEN = {
    "allowed": ([("blocking.connection", "opening.tls"), ("opening.tls", "clock")], []),
    "upwards": ([("opening.tls", "blocking.sender")], ["opening.tls -> blocking.sender"]),
    "front ends": ([("aio", "blocking.sender")], ["aio -> blocking.sender"]),
    "sansio": ([("sansio.uri", "clock"), ("sansio.uri", "exceptions")], ["sansio.uri -> clock"]),
    "a part of it": (
        [("exceptions", "sansio.http11"), ("exceptions", "clock")],
        ["exceptions -> clock"],
    ),
    "the package itself": ([("opening.tls", "__init__")], ["opening.tls -> __init__"]),
    "a circle": ([("aio", "aio.b"), ("aio.b", "aio.c"), ("aio.c", "aio.b")], ["aio.b", "aio.c"]),
    "a diamond": ([("aio", "aio.b"), ("aio", "aio.c"), ("aio.b", "aio.c")], []),
}


@pytest.mark.parametrize("edges, expected", BROKEN.values(), ids=BROKEN)
def test_what_breaks_a_rule_is_found(edges, expected):
    assert broken(edges) == expected


def test_a_folder_imports_only_from_the_folders_below_and_never_in_a_circle():
    assert broken(all_imports()) == []


def test_each_folder_is_in_the_table_and_has_few_files():
    there = {path.parent.relative_to(PACKAGE).as_posix() for path in MODULES.values()}
    assert {"" if name == "." else name for name in there} == set(MAY_IMPORT)
    for name, path in FOLDERS.items():
        files = [each.name for each in path.iterdir() if each.is_file()]
        assert len(files) <= MOST_FILES, f"{name or 'wsmini'}/ has {len(files)} files"


def test_a_module_says_what_it_is_about():
    def check(path):
        text = ast.get_docstring(tree_of(path)) or ""
        assert len(text.partition("\n\n")[0].split()) >= 4
        assert text.partition("\n\n")[0][-1] in ".:"

    assert offenders(check, {name: (path,) for name, path in MODULES.items()}) == {}


def test_the_protocol_knows_no_sockets_no_clock_and_no_threads():
    def check(path):
        assert sorted(roots(imported(tree_of(path))[1]) & IO) == []

    assert offenders(check, {name: (MODULES[name],) for name in SANS_IO}) == {}


def test_annotations_and_names_cost_nothing():
    assert offenders(check_others, {name: (name,) for name in MODULES}) == {}


def check_others(module):
    others = imported(tree_of(MODULES[module]), module, at_run_time=True)[1]
    assert "typing" not in others
    assert "__future__" in others
    assert PACKAGE.name not in roots(others), "imports must be relative"


# -- what an import costs --


def loaded_by_import(*before):
    """The modules that ``import wsmini`` loads in a bare Python, after the modules *before*."""
    program = (
        f"import sys, {', '.join(before)}; sys.path.insert(0, {str(ROOT)!r})\n"
        "loaded = set(sys.modules); import wsmini; print(*sorted(set(sys.modules) - loaded))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], stdout=subprocess.PIPE, check=True
    )
    return set(run.stdout.decode().split())


def test_importing_wsmini_loads_only_what_every_program_needs():
    # `site`, which -S leaves out for its .pth files, always loads os.
    loaded = loaded_by_import("os")
    ours = {name for name in loaded if name.partition(".")[0] == PACKAGE.name}
    assert sorted(roots(loaded) & HEAVY) == []
    assert len(ours) <= MOST_OF_OURS, sorted(ours)
    assert len(loaded - ours) <= MOST_OTHERS, sorted(loaded - ours)


def test_the_callback_api_is_loaded_when_it_is_asked_for():
    program = """
import sys, wsmini
assert not {"wsmini.callbacks", "wsmini.events"} & set(sys.modules)
assert {"Client", "Loop"} < set(dir(wsmini))
assert not hasattr(wsmini, "Nonesuch")
from wsmini import *
assert Client is wsmini.Client and Loop is wsmini.Loop
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
