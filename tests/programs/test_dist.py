"""What is made for others to install: tools/dist.py, and the program in one file."""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import sys
import tarfile
import tokenize
import zipfile

import pytest
from helpers import ROOT
from programs.terminals import completed

SOURCES = sorted((ROOT / "wsmini").glob("*.py"))


def tool():
    spec = importlib.util.spec_from_file_location("dist", str(ROOT / "tools" / "dist.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dist = tool()


class WithoutHints(ast.NodeTransformer):
    """Takes out of a tree what may be missing from the program in one file."""

    def documented(self, node):
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [self.nothing(node.body[0])]
        node.returns = None
        return node

    visit_Module = visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = documented

    def nothing(self, node):
        return ast.copy_location(ast.Pass(), node)

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        if node.value is None:
            return self.nothing(node)
        return ast.copy_location(ast.Assign([node.target], node.value, type_comment=None), node)

    def visit_If(self, node):
        if getattr(node.test, "id", None) == "TYPE_CHECKING" and not node.orelse:
            return self.nothing(node)
        return self.generic_visit(node)


def outline(tree):
    """The whole tree, and in which line each statement begins."""
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    return ast.dump(tree, annotate_fields=False), lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_but_comments_docstrings_and_hints_is_stripped(path):
    source = path.read_text("utf-8")
    text = dist.stripped(source)
    expected = WithoutHints().visit(ast.parse(source))
    assert outline(ast.parse(text)) == outline(expected)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    assert not any(token.type == tokenize.COMMENT for token in tokens)


STRIPPED = {
    "comment": ('x = 1  # one\n# two\ny = "# é"  # three\n', 'x = 1\n\ny = "# é"\n'),
    "docstring": ('"""Of a\n\nmodule."""\nx = 1\n', "\n\n\nx = 1\n"),
    "only a docstring": ('class A:\n    """It\n    is A."""\n', "class A:\n    pass\n"),
    "string": ('x = """a\n    # b"""  # c\n', 'x = """a\n    # b"""\n'),
    "arguments": (
        'def f(é: "str", *a: int, b: dict[str, int] = {}, **c: x) -> None: return é\n',
        "def f(é, *a, b = {}, **c): return é\n",
    ),
    "arguments in lines": (
        "def f(\n    a: int,  # one\n    b=2,\n) -> int:  # two\n    pass\n",
        "def f(\n    a,\n    b=2,\n):\n    pass\n",
    ),
    "variables": ("x: int = 1\nclass A:\n    y: int\n", "x = 1\nclass A:\n    pass\n"),
    "for type checkers": ("if TYPE_CHECKING:  # é\n    import x  # y\n", "pass\n"),
}


@pytest.mark.parametrize("source, expected", STRIPPED.values(), ids=STRIPPED)
def test_stripping(source, expected):
    assert dist.stripped(source) == expected


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_but_blanks_is_squeezed_out(path):
    source = dist.stripped(path.read_text("utf-8"))
    text = dist.squeezed(source)
    assert outline(ast.parse(text)) == outline(ast.parse(source))
    assert len(text) < len(source) or len(source) < 100


SQUEEZED = {
    "indentation": (
        "if a:\n    if b:\n        c\n\n    d\ne\n",
        "if a:\n if b:\n  c\n\n d\ne\n",
    ),
    "lines that go on": (
        "    if a(\n        b,\n    ):\n        c = d \\\n            + e\n",
        " if a(\nb,\n):\n  c=d \\\n+e\n",
    ),
    "words": ('a if 1 else "b" in c, not (d)\n', 'a if 1 else "b" in c,not(d)\n'),
    "operators": ("a = b * -c[d : e], *f\n", "a=b*-c[d:e],*f\n"),
    "strings": ('a = """b\n    c  = d""" + e\n', 'a="""b\n    c  = d"""+e\n'),
    "strings side by side": ('("a" "b"\n    "c")\n', '("a" "b"\n"c")\n'),
    "formatted": (
        'a = f\'b  {c + d = } {{ e\' + f"""\n    {g [h]}\n    """ + i\n',
        'a=f\'b  {c + d = } {{ e\'+f"""\n    {g [h]}\n    """+i\n',
    ),
}


@pytest.mark.parametrize("source, expected", SQUEEZED.values(), ids=SQUEEZED)
def test_squeezing(source, expected):
    indented = source.startswith(" ")
    source, expected = (
        f"if x:\n{source}" if indented else source,
        f"if x:\n{expected}" if indented else expected,
    )
    assert dist.squeezed(source) == expected
    assert ast.dump(ast.parse(expected)) == ast.dump(ast.parse(source))


def test_modules_are_in_the_order_of_their_imports():
    sources = {
        "a": "from . import b",
        "aio": "import c",
        "b": "from .c import x\nfrom z import y",
        "c": "def f():\n    from .lazy import g",
        "cli": "from .c import x\nfrom . import version",
        "lazy": "from .later import x",
        "later": "",
        "version": "",
        "__init__": "from .b import x",
        "__main__": "from .cli import main",
    }
    in_order = "__init__ b c __main__ cli version lazy later a aio"
    assert dist.in_order(sources) == in_order.split()


# -- the program in one file --


@pytest.fixture(scope="module")
def pyz(tmp_path_factory):
    path = tmp_path_factory.mktemp("pyz") / "wsmini.pyz"
    dist.write_pyz(path, ROOT / "wsmini", 1_500_000_000)
    return path


def run(*command, **options):
    """The exit status, the standard output and the standard error of that command."""
    status, output, errors = completed(command, **options)
    return status, output.decode(), errors.decode()


def isolated(program, path, *arguments):
    """Run *program* with *path* where modules are looked for first."""
    program = f"import sys; sys.path.insert(0, sys.argv[1])\n{program}"
    return run(sys.executable, "-I", "-c", program, path, *arguments)


def test_the_program_in_one_file_is_small_and_always_the_same(pyz, tmp_path):
    first = pyz.read_bytes()
    assert len(first) < 100_000
    assert first.startswith(b"#!/usr/bin/env python3\n")
    dist.write_pyz(tmp_path / "again", ROOT / "wsmini", 1_500_000_000)
    assert (tmp_path / "again").read_bytes() == first


def test_the_program_talks_to_itself(pyz):
    status, output, errors = run(sys.executable, "-I", pyz, "--demo")
    assert (status, errors) == (0, "")
    assert "That works" in output


STARTS = {
    "with python": ("{python}", "{pyz}"),
    "by its name": ("{pyz}",),
    "as a module": ("{python}", "-m", "wsmini"),
    "optimized": ("{python}", "-OO", "{pyz}"),
    "bare": ("{python}", "-I", "-S", "{pyz}"),
}


@pytest.mark.parametrize("command", STARTS.values(), ids=STARTS)
def test_ways_to_start_it(command, pyz, tmp_path):
    if command == ("{pyz}",) and os.name != "posix":
        pytest.skip("needs an association with Python")
    command = [part.format(python=sys.executable, pyz=pyz) for part in command]
    (tmp_path / "python3").symlink_to(sys.executable)
    places = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    environment = {**os.environ, "PATH": places, "PYTHONPATH": str(pyz)}
    expected = run(sys.executable, "-m", "wsmini", "--version", cwd=str(ROOT))
    assert run(*command, "--version", env=environment, cwd=str(tmp_path)) == expected


FROM_WITHIN = """
import wsmini
assert wsmini.__file__.startswith(sys.argv[1]), wsmini.__file__
"""

# What a program does with the package, wherever that is. Each ends with nothing to say.
USES = {
    "names": """
assert {*wsmini.__all__} <= {*dir(wsmini)}
for name in wsmini.__all__:
    assert getattr(wsmini, name).__class__
assert not hasattr(wsmini, "nonesuch")
""",
    "submodules": """
import wsmini.aio, os
from wsmini.testing import echo_server
with echo_server() as server, wsmini.connect(server.url) as ws:
    ws.send("a")
    assert ws.recv(timeout=30) == "a"
for name, module in sorted(sys.modules.items()):
    if name.startswith("wsmini.") and name != "wsmini.bundled":
        path = os.path.join(os.path.dirname(wsmini.__file__), name[7:] + ".py")
        assert module.__name__ == name and module.__package__ == "wsmini"
        assert module.__file__ == module.__spec__.origin == path
        assert module.__spec__.name == name and module.__spec__.loader is module.__loader__
        assert not hasattr(module, "__path__")
""",
    "no such module": """
try:
    import wsmini.nonesuch
except ModuleNotFoundError as exc:
    assert exc.name == "wsmini.nonesuch"
else:
    raise AssertionError
""",
    "once more": """
import importlib, wsmini.uri
connect, parse_uri = wsmini.connect, wsmini.uri.parse_uri
importlib.reload(wsmini.uri)
assert importlib.reload(wsmini) is wsmini
assert wsmini.connect is connect and wsmini.uri.parse_uri is not parse_uri
for name in [name for name in sys.modules if name.partition(".")[0] == "wsmini"]:
    del sys.modules[name]
import wsmini.aio
assert wsmini.connect is not connect and wsmini.aio.connect
""",
    "caches": """
import importlib, os
importlib.invalidate_caches()
import wsmini.aio
sys.path_importer_cache.clear()
from wsmini import Client, testing
""",
    "what there is": """
import pkgutil
names = {name for _, name, is_package in pkgutil.iter_modules(wsmini.__path__, "wsmini.")}
assert {"wsmini." + name for name in sys.argv[2:] if name != "__init__"} <= names
""",
    "specs": """
import importlib.util
for name in sys.argv[2:]:
    spec = importlib.util.find_spec("wsmini." + name)
    assert spec.loader.get_code(spec.name).co_filename == spec.origin
    assert spec.loader.get_source(spec.name) == spec.loader.get_data(spec.origin).decode()
    assert not spec.loader.is_package(spec.name)
assert wsmini.__spec__.loader.is_package("wsmini")
try:
    spec.loader.get_data(spec.origin + "c")
except OSError:
    pass
else:
    raise AssertionError
""",
    "sources": """
import inspect
assert inspect.getsource(wsmini.unverified_context).startswith("def unverified_context(")
assert "__all__" in inspect.getsource(wsmini)
lines, first = inspect.getsourcelines(wsmini.connect)
assert lines[0].startswith("def connect(") and first == wsmini.connect.__code__.co_firstlineno
""",
    "others": """
import os, tempfile, zipfile
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "other.zip")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other/__init__.py", "")
        file.writestr("other/uri.py", "x = 1")
    sys.path.insert(0, path)
    from other import uri
assert uri.x == 1
""",
    "many threads": """
import importlib, threading
start, failed = threading.Barrier(8), []
def load(names):
    start.wait(30)
    try:
        for name in names:
            importlib.import_module("wsmini." + name)
    except BaseException as exc:
        failed.append(exc)
names = [name for name in sys.argv[2:] if name[0] != "_"]
threads = [threading.Thread(target=load, args=(names[i:] + names[:i],)) for i in range(0, 48, 6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
""",
    "while somebody else reads it": """
bundle = sys.modules["wsmini.bundled"].bundle
stream = bundle.streams.pop()
from wsmini import testing
bundle.streams.append(stream)
import wsmini.aio
assert not bundle.streams[1:]
""",
}


@pytest.mark.parametrize("program", USES.values(), ids=USES)
def test_uses_of_the_package_in_it(program, pyz):
    names = [path.stem for path in SOURCES]
    assert isolated(FROM_WITHIN + program, pyz, *names) == (0, "", "")


def test_its_tracebacks_have_the_lines_of_the_sources(pyz):
    program = """
import traceback, wsmini
try:
    wsmini.connect("http://nowhere")
except wsmini.InvalidURI as exc:
    for line in traceback.extract_tb(exc.__traceback__)[1:]:
        print(line.name, line.lineno, "".join(line.line.split()))
"""
    shown = isolated(program, ROOT)
    assert shown[1].count("\n") == 4
    assert isolated(program, pyz) == shown


IN_PROCESSES = """
import multiprocessing, pickle, sys
sys.path.insert(0, {path!r})
import wsmini
from wsmini.frames import Close

def fail(code):
    raise wsmini.ConnectionClosedError(Close(code, "a"), None, None)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            pool.apply(fail, (1011,))
        except wsmini.ConnectionClosedError as exc:
            print(exc.code, type(pickle.loads(pickle.dumps(exc))) is type(exc))
"""


def test_its_exceptions_go_from_one_process_to_another(pyz, tmp_path):
    (tmp_path / "program.py").write_text(IN_PROCESSES.format(path=str(pyz)))
    assert run(sys.executable, tmp_path / "program.py") == (0, "1011 True\n", "")


def test_a_running_program_no_longer_needs_it(pyz, tmp_path):
    (tmp_path / "wsmini.pyz").write_bytes(pyz.read_bytes())
    program = """
import importlib, os, wsmini
os.remove("wsmini.pyz")
os.chdir(os.pardir)
importlib.invalidate_caches()
import traceback, wsmini.testing
try:
    wsmini.connect("http://nowhere")
except wsmini.InvalidURI:
    assert "parse_uri(url)" in traceback.format_exc()
"""
    program = f"import sys; sys.path.insert(0, 'wsmini.pyz')\n{program}"
    assert run(sys.executable, "-I", "-c", program, cwd=str(tmp_path)) == (0, "", "")


def test_importing_from_it_keeps_few_sources_and_loads_nothing_large(pyz):
    program = """
import os; loaded = set(sys.modules); import wsmini
ours = {name for name in sys.modules if name.partition(".")[0] == "wsmini"}
print(*sorted(set(sys.modules) - loaded - ours))
bundled = sys.modules.get("wsmini.bundled")
import wsmini.cli
assert not bundled or sum(map(len, bundled.bundle.passed.values())) < 20000
"""
    from_folder, from_pyz = isolated(program, ROOT), isolated(program, pyz)
    assert (from_folder[::2], from_pyz[::2]) == ((0, ""), (0, ""))
    more = {*from_pyz[1].split()} - {*from_folder[1].split()}
    needed = "importlib importlib._bootstrap importlib._bootstrap_external importlib.machinery"
    assert more <= {"zlib", "warnings", "struct", "_struct", *needed.split()}


NO_ZLIB = "import sys; sys.modules['zlib'] = None; sys.path.insert(0, sys.argv[1])\n"


def test_it_says_that_it_needs_zlib(pyz):
    program = f"{NO_ZLIB}import runpy; runpy.run_path(sys.argv[1], run_name='__main__')"
    status, output, errors = run(sys.executable, "-I", "-c", program, pyz, "--version")
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert "wsmini.pyz needs zlib" in errors
    status, output, errors = run(sys.executable, "-I", "-c", f"{NO_ZLIB}import wsmini", pyz)
    assert (status, output) == (1, "")
    assert "ImportError: can't decompress data; zlib not available" in errors.splitlines()[-1]


def archives(folder, mode, mtime):
    """A wheel and a source distribution as tools may leave them."""
    wheel, sdist = folder / "a.whl", folder / "a.tar.gz"
    with zipfile.ZipFile(str(wheel), "w") as archive:
        for name in ("b", "a") if mtime % 2 else ("a", "b"):
            info = zipfile.ZipInfo(name, (1980 + mtime % 40, 1, 1, 0, 0, 0))
            info.external_attr = mode << 16
            archive.writestr(info, name * 1000)
    with tarfile.open(str(sdist), "w:gz") as archive:
        for name in ("b", "a") if mtime % 2 else ("a", "b"):
            info = tarfile.TarInfo(name)
            info.mode, info.mtime, info.size = mode, mtime + 0.5, 3
            info.uid, info.uname = mtime, "x"
            archive.addfile(info, io.BytesIO(name.encode() * 3))
    return wheel, sdist


def test_archives_are_the_same_whoever_makes_them(tmp_path):
    made = []
    for mode, mtime in ((0o644, 1), (0o600, 1_600_000_000)):
        folder = tmp_path / str(mtime)
        folder.mkdir()
        wheel, sdist = archives(folder, mode, mtime)
        before = wheel.read_bytes(), sdist.read_bytes()
        dist.repack_wheel(wheel, 1_500_000_000)
        dist.repack_sdist(sdist, 1_500_000_000)
        made.append((before, (wheel.read_bytes(), sdist.read_bytes())))
        with zipfile.ZipFile(str(wheel)) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == {
                "a": b"a" * 1000,
                "b": b"b" * 1000,
            }
        with tarfile.open(str(sdist)) as archive:
            assert [(m.name, m.mode, m.mtime, m.uid, m.uname) for m in archive] == [
                ("a", 0o644, 1_500_000_000, 0, ""), ("b", 0o644, 1_500_000_000, 0, ""),
            ]  # fmt: skip
            assert archive.extractfile("b").read() == b"bbb"
    assert made[0][0][0] != made[1][0][0] and made[0][0][1] != made[1][0][1]
    assert made[0][1] == made[1][1]


def test_the_time_is_given_or_that_of_the_commit(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    assert dist.commit_time() == 1234567890
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert dist.commit_time() >= dist.FIRST
