"""The diagram of the design, checked: who imports whom, and what `import wsmini` costs."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

PACKAGE = ROOT / "wsmini"


def module_name(path):
    """Its name within the package: ``__init__`` is that of the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}

# Every module imports only from the modules before it in its own list and in the lists above.
SANS_IO = (
    "version",
    "sansio.redaction",
    "sansio.http11",
    "exceptions",
    *("sansio." + name for name in """
        proxy_url uri response auth libcrypto frames extensions deflate messages handshake protocol
        payload
    """.split()),
)  # fmt: skip
OPENING = (
    "clock",
    "interrupts",
    "options",
    "policies",
    *("opening." + name for name in """
        cookies hints readsizes waiting steps resolver tcp streams tls_context tls proxy opening
        writebuffer
    """.split()),
    "info",
    "events.timers",
    "events.transport",
)  # fmt: skip
# Front ends, which don't import from each other; the servers for tests are none, but alike.
FRONT_ENDS = (
    tuple("blocking." + name for name in """
        receiver sender transport background connection reconnect
    """.split()),
    ("callbacks.loop", "callbacks.outbox", "callbacks.connection", "callbacks.client"),
    ("aio.selector_thread", "aio.future", "aio.connection", "aio.connecting", "aio"),
    ("testing.peer", "testing.servers", "testing.faults", "testing.replay", "testing"),
)  # fmt: skip

# What makes code wait, ask for the time or run at once with other code.
IO = set(
    "_socket _thread asyncio select selectors signal socket ssl subprocess threading time".split()
)

# Not needed to import wsmini, or only by some programs: they come when first used.
HEAVY = set(
    "argparse asyncio base64 ctypes dataclasses email hashlib http inspect json logging random re"
    " secrets ssl string threading traceback typing urllib zlib".split()
)
MOST_MODULES = 24


def allowed():
    """Module -> the modules it may import."""
    below, rules = set(), {}
    for name in SANS_IO + OPENING:
        rules[name] = set(below)
        below.add(name)
    for names in FRONT_ENDS:
        for index, name in enumerate(names):
            rules[name] = below | set(names[:index])
    # The command line is a program like any other: it uses the blocking front end.
    program = set()
    for name in (
        "cli.formats", "cli.files", "cli.arguments", "cli.commands", "cli.output",
        "cli.recorder", "cli.signals", "cli.terminal", "cli.session", "cli.manual",
        "cli.benchmark", "cli.tracing", "cli.program", "cli",
    ):  # fmt: skip
        rules[name] = below | program | {"blocking.connection"}
        program.add(name)
    rules["cli.program"].add("testing")
    for name in ("sansio", "opening", "blocking", "events", "callbacks"):
        rules[name] = set()
    rules["exiting"] = set()
    rules["__main__"] = {"cli", "exiting"}
    not_loaded = {*FRONT_ENDS[2], *FRONT_ENDS[-1], "__main__"} | program
    rules["__init__"] = set(rules) - not_loaded
    return rules


def is_type_checking(node):
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def imports(node):
    """The import statements that run, wherever they are."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif is_type_checking(child):
            for statement in child.orelse:
                yield from imports(statement)
        else:
            yield from imports(child)


def imported(source, module=""):
    """The modules that the *source* of *module* imports: (from the package, from elsewhere)."""
    folder = module.rpartition(".")[0] if module not in FOLDERS else module
    ours, others = set(), set()
    for node in imports(ast.parse(source)):
        if isinstance(node, ast.Import):
            others.update(alias.name for alias in node.names)
        elif not node.level:
            others.add(node.module)
        else:
            parts = [folder] if node.level == 1 and folder else []
            if node.module:
                ours.add(".".join([*parts, node.module]))
            else:
                ours.update(".".join([*parts, alias.name]) for alias in node.names)
    return ours, others


FOLDERS = {name.rpartition(".")[0] for name in MODULES} - {""}


def read(module):
    return MODULES[module].read_text(encoding="utf-8")


def roots(names):
    return {name.partition(".")[0] for name in names}


def test_imports_are_found_wherever_they_are():
    source = """
from __future__ import annotations
import os.path
from . import uri
from ..exceptions import Close
if TYPE_CHECKING:
    import typing
    from .opening import Opening
def function():
    try:
        import ssl as tls, zlib
    except ImportError:
        from .net import wait
"""
    others = {"__future__", "os.path", "ssl", "zlib"}
    assert imported(source) == ({"uri", "exceptions", "net"}, others)
    assert imported(source, "sansio.frames")[0] == {"sansio.uri", "exceptions", "sansio.net"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_the_layers_below(module):
    assert module in allowed(), "say in tests/test_layers.py in which layer this module is"
    ours, others = imported(read(module), module)
    assert sorted(ours - allowed()[module]) == []
    assert PACKAGE.name not in roots(others), "imports must be relative"


@pytest.mark.parametrize("module", [name for name in SANS_IO if name in MODULES])
def test_the_protocol_knows_no_sockets_no_clock_and_no_threads(module):
    assert sorted(roots(imported(read(module))[1]) & IO) == []


@pytest.mark.parametrize("module", MODULES)
def test_annotations_cost_nothing_at_run_time(module):
    others = imported(read(module))[1]
    assert "typing" not in others
    assert "__future__" in others


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
    loaded = {name for name in loaded_by_import("os") if name.partition(".")[0] != PACKAGE.name}
    assert sorted(roots(loaded) & HEAVY) == []
    assert len(loaded) <= MOST_MODULES, sorted(loaded)


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
