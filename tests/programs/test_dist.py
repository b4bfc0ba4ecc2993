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

PACKAGE = ROOT / "wsmini"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


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


@pytest.mark.parametrize("path", SOURCES.values(), ids=SOURCES)
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


# -- the program in one file --


@pytest.fixture(scope="module")
def pyz(tmp_path_factory):
    path = tmp_path_factory.mktemp("pyz") / "wsmini.pyz"
    dist.write_pyz(path, PACKAGE, 1_500_000_000)
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
    assert len(first) < 160_000
    assert first.startswith(b"#!/usr/bin/env python3\n")
    dist.write_pyz(tmp_path / "again", PACKAGE, 1_500_000_000)
    assert (tmp_path / "again").read_bytes() == first


def test_it_has_all_modules_and_nothing_else(pyz):
    with zipfile.ZipFile(str(pyz)) as archive:
        assert archive.namelist() == sorted(["__main__.py", *(f"wsmini/{n}" for n in SOURCES)])


def test_it_has_the_folders_within_the_package(tmp_path):
    sources = {
        "wsmini/__init__.py": "",
        "wsmini/__main__.py": "from .a.b.c import main as run\n",
        "wsmini/a/__init__.py": "",
        "wsmini/a/b/__init__.py": "# a comment\n",
        "wsmini/a/b/c.py": "def main(): print(__name__, __file__)\n",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    archive = tmp_path / "wsmini.pyz"
    dist.write_pyz(archive, tmp_path / "wsmini", 1_500_000_000)
    shown = f"wsmini.a.b.c {archive / 'wsmini' / 'a' / 'b' / 'c.py'}\n"
    assert run(sys.executable, "-I", archive) == (0, shown, "")


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


def test_programs_import_from_it(pyz):
    program = """
import wsmini, wsmini.aio
from wsmini.testing import echo_server
for name in wsmini.__all__:
    getattr(wsmini, name)
with echo_server() as server, wsmini.connect(server.url) as ws:
    ws.send("a")
    assert ws.recv(timeout=30) == "a"
for name, module in sys.modules.items():
    if name.partition(".")[0] == "wsmini":
        assert module.__file__.startswith(sys.argv[1]), module.__file__
"""
    assert isolated(program, pyz) == (0, "", "")


def test_its_tracebacks_have_the_lines_of_the_sources(pyz):
    program = """
import traceback, wsmini
try:
    wsmini.connect("http://nowhere")
except wsmini.InvalidURI as exc:
    for line in traceback.extract_tb(exc.__traceback__)[1:]:
        print(line.name, line.lineno, line.line)
"""
    shown = isolated(program, ROOT)
    assert shown[1].count("\n") == 3
    assert isolated(program, pyz) == shown


def test_without_zlib_it_ends_as_documented(pyz, tmp_path):
    program = """
sys.modules["zlib"] = None
import runpy
runpy.run_path(sys.argv[1], run_name="__main__")
"""
    for each in (program, "sys.modules['zlib'] = None; import wsmini"):
        status, output, errors = isolated(each, pyz)
        assert (status, output) == (1, "")
        assert errors.endswith("ImportError: can't decompress data; zlib not available\n")


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
