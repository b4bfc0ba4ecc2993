"""Make the wheel, the source distribution and wsmini.pyz in dist/, always of the same bytes.

    python tools/dist.py [--check]

The times in the archives are that of SOURCE_DATE_EPOCH, or of the last commit; files are sorted,
and have the same owner and modes everywhere. What isn't in git stays out. ``--check`` makes all of
them a second time, from files with other times and modes, and compares. The package ``build`` has
to be there.

wsmini.pyz is meant to be small: comments, docstrings, type hints and blanks are left out of it, and
nothing else. What is left stays in its line, so that a traceback means the same lines as one of the
wheel. All modules are compressed together, for bundled.py to import them.
"""

from __future__ import annotations

import ast
import gzip
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tokenize
import zipfile
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
MADE = {".venv", ".venvs", "build", "dist", "__pycache__"}
FIRST = 315532800  # 1980-01-01, before which there are no times in zip files

INTERPRETER = b"#!/usr/bin/env python3\n"
MAIN = """\
import sys
try:
    import zlib
except ImportError:
    sys.stderr.write("wsmini.pyz needs zlib, which this Python lacks: take the folder wsmini\\n")
    sys.exit(2)
from wsmini.cli import main
sys.exit(main())
"""
# In line 1, where the package's own __init__ has nothing: a traceback shows that one's lines.
START = "from . import bundled; bundled.start(globals())\n"
BUNDLED = pathlib.Path(__file__).with_name("bundled.py")
FILE = "modules.zlib"
BREAK = "\f"
MOST_MEMORY = 9  # which zlib may take, to compress better

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


# -- stripping --


def stripped(source):
    """*source* without comments, docstrings and type hints; every statement stays in its line."""
    lines = source.splitlines()
    for start, end, instead in sorted(cuts(source), reverse=True):
        cut(lines, start, end, instead)
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def cut(lines, start, end, instead):
    """Replace what is between two positions, of ``(line, column)``."""
    (first, column), (last, behind) = start, end
    rest = lines[last - 1].encode()[behind:].decode()  # columns count bytes
    head = lines[first - 1].encode()[:column].decode() + instead
    if first == last:
        lines[first - 1] = head + rest
    else:
        lines[first - 1] = head
        lines[first : last - 1] = [""] * (last - 1 - first)
        lines[last - 1] = rest


def cuts(source):
    """What to leave out: (start, end, what to put there)."""
    tree = ast.parse(source)
    unused = [node for node in ast.walk(tree) if is_type_checking(node)]
    found = list(comments(source))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            found.append((start(text), end(text), "pass" if len(node.body) == 1 else ""))
        if isinstance(node, ast.arg) and node.annotation is not None:
            name = (node.lineno, node.col_offset + len(node.arg.encode()))
            found.append((name, end(node.annotation), ""))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
            found.append((arrow(source, node), end(node.returns), ""))
        if isinstance(node, ast.AnnAssign):
            if node.value is None:
                found.append((start(node), end(node), "pass"))
            else:
                found.append((end(node.target), end(node.annotation), ""))
    whole = [(start(node), end(node), "pass") for node in unused]
    return whole + [each for each in found if not any(w[0] <= each[0] < w[1] for w in whole)]


def comments(source):
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    for token in tokens:
        if token.type == tokenize.COMMENT:
            line = token.line.encode()
            column = len(token.line[: token.start[1]].encode())
            yield (token.start[0], column), (token.end[0], len(line.rstrip())), ""


def arrow(source, function):
    """The position of what is in front of the hint, which the tree doesn't have."""
    hint = function.returns
    lines = source.splitlines()
    line, column = hint.lineno, hint.col_offset
    while True:
        column = lines[line - 1].encode().rfind(b"->", 0, column)
        if column >= 0:
            return line, len(lines[line - 1].encode()[:column].rstrip())
        line -= 1
        column = len(lines[line - 1].encode())


def is_type_checking(node):
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        and not node.orelse
    )


def start(node):
    return node.lineno, node.col_offset


def end(node):
    return node.end_lineno, node.end_col_offset


# -- all modules in one --


def squeezed(source):
    """*source* with a space for each level of indentation, and no other where none is needed."""
    lines = source.splitlines()
    for row, start, end, instead in reversed(list(blanks(source))):
        lines[row - 1] = lines[row - 1][:start] + instead + lines[row - 1][end:]
    return "\n".join(lines) + "\n"


def blanks(source):
    """What is between the tokens of a line, or in front: (row, start, end, what to put there)."""
    level, depth, begins, (row, column), last = 0, 0, True, (0, 0), ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, text = tokenize.tok_name[token.type], token.string
        level += (kind == "INDENT") - (kind == "DEDENT")
        if text.strip() and not depth:
            if token.start[0] > row:
                yield token.start[0], 0, token.start[1], " " * level if begins else ""
            elif token.start[1] > column:
                yield row, column, token.start[1], " " if is_word(last) and is_word(text[0]) else ""
        if kind == "NEWLINE":
            begins = True
        elif text.strip():
            begins, (row, column), last = False, token.end, text[-1]
        depth += (kind == "FSTRING_START") - (kind == "FSTRING_END")  # since 3.12


def is_word(character):
    return character.isalnum() or character in "_\"'"


def imported(tree, everywhere):
    """The modules of the package that *tree* imports; if not *everywhere*, those it always does."""
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from [node.module] if node.module else [alias.name for alias in node.names]


def in_order(sources):
    """The names of *sources* as programs import them: what they all need, and then the others."""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    found = []

    def add(name):
        if name in trees and name not in found:
            found.append(name)
            for each in imported(trees[name], False):
                add(each)

    add("__init__")
    add("__main__")
    for name in found:  # and in what it adds
        for each in imported(trees[name], True):
            add(each)
    for name in sorted(sources):
        add(name)
    return found


def bundle(package):
    """All modules of the folder *package*, as bundled.py reads them."""
    paths = package.glob("*.py")
    sources = {path.stem: squeezed(stripped(path.read_text("utf-8"))) for path in paths}
    names = in_order(sources)
    parts = ["\n" + " ".join(names), *(f"{name}\n{sources[name]}" for name in names)]
    assert BREAK not in "".join(parts)
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, MOST_MEMORY)
    text = "".join(part + BREAK for part in parts)
    return packer.compress(text.encode()) + packer.flush()


# -- archives, the same each time --


def write_zip(file, entries, epoch, stored=()):
    """A zip file out of ``{name: (executable, data)}``; not compressed: the names *stored*."""
    date = time.gmtime(max(epoch, FIRST))[:6]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, (executable, data) in sorted(entries.items()):
            info = zipfile.ZipInfo(name, date)
            info.create_system = 3  # Unix, wherever this runs
            info.external_attr = (0o100755 if executable else 0o100644) << 16
            info.compress_type = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            archive.writestr(info, data, compresslevel=9)


def repack_wheel(path, epoch):
    with zipfile.ZipFile(str(path)) as archive:
        entries = {name: (False, archive.read(name)) for name in archive.namelist()}
    with open(path, "wb") as file:
        write_zip(file, entries, epoch)


def repack_sdist(path, epoch):
    with tarfile.open(str(path)) as archive:
        members = [
            (member, archive.extractfile(member).read() if member.isfile() else b"")
            for member in archive.getmembers()
        ]
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, epoch) as packed, tarfile.open(
        fileobj=packed, mode="w", format=tarfile.PAX_FORMAT
    ) as archive:
        for member, data in sorted(members, key=lambda each: each[0].name):
            info = tarfile.TarInfo(member.name)
            info.type, info.size, info.mtime = member.type, len(data), epoch
            info.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            archive.addfile(info, io.BytesIO(data))


def write_pyz(path, package, epoch):
    """The package as a program in one file."""
    stored = {
        "__main__.py": MAIN,  # which says so if it can't decompress the others
        "wsmini/__init__.py": START,
        f"wsmini/{FILE}": bundle(package),
    }
    entries = {name: (False, data) for name, data in stored.items()}
    entries["wsmini/bundled.py"] = False, stripped(BUNDLED.read_text("utf-8"))
    with open(path, "wb") as file:
        file.write(INTERPRETER)
        write_zip(file, entries, epoch, stored)
    os.chmod(path, 0o755)


# -- all of it --


def commit_time():
    """When what is built was last changed, in seconds."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return FIRST  # out of a source distribution


def copy_sources(folder, private):
    """What is in git, or all if there is none; if *private*, with other times and modes."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    names = [name for name in listed.decode().split("\0") if name] or [
        str(path.relative_to(ROOT)) for path in ROOT.rglob("*")
        if path.is_file() and not MADE & set(path.relative_to(ROOT).parts)
    ]  # fmt: skip
    for name in names:
        if (ROOT / name).exists():
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(ROOT / name), str(copy))
            if private:
                copy.chmod(copy.stat().st_mode & 0o700)
                os.utime(str(copy), (FIRST, FIRST))


def build(target, epoch, private=False):
    """Make the three files in the folder *target*."""
    with tempfile.TemporaryDirectory() as name:
        sources = pathlib.Path(name)
        copy_sources(sources, private)
        command = [sys.executable, "-m", "build", "--outdir", str(target), name]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if done.returncode:
            sys.exit(done.stdout.decode())
        for path in target.iterdir():
            (repack_wheel if path.suffix == ".whl" else repack_sdist)(path, epoch)
        write_pyz(target / "wsmini.pyz", sources / "wsmini", epoch)


def main(argv):
    epoch, target = commit_time(), ROOT / "dist"
    shutil.rmtree(str(target), ignore_errors=True)
    build(target, epoch)
    for path in sorted(target.iterdir()):
        print(f"{path.stat().st_size:8} {path.name}")
    if "--check" not in argv:
        return 0
    with tempfile.TemporaryDirectory() as name:
        build(pathlib.Path(name), epoch, private=True)
        first, second = (
            {path.name: path.read_bytes() for path in folder.iterdir()}
            for folder in (target, pathlib.Path(name))
        )
    different = sorted(n for n in {*first, *second} if first.get(n) != second.get(n))
    print(f"not the same twice: {', '.join(different)}" if different else "the same bytes twice")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
