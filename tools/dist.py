"""Make the wheel, the source distribution and wsmini.pyz in dist/, always of the same bytes.

    python tools/dist.py [--check]

The times in the archives are that of SOURCE_DATE_EPOCH, or of the last commit; files are sorted,
and have the same owner and modes everywhere. What isn't in git stays out. ``--check`` makes all of
them a second time, from files with other times and modes, and compares. The package ``build`` has
to be there.

wsmini.pyz is a zip file, which Python can run and import from. Comments, docstrings and type hints,
which would be two fifths of it, are left out, and nothing else is. What is left stays in its line,
so that a traceback means the same lines as one of the wheel.
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

ROOT = pathlib.Path(__file__).resolve().parent.parent
MADE = {".venv", ".venvs", "build", "dist", "__pycache__"}
FIRST = 315532800  # 1980-01-01, before which there are no times in zip files

INTERPRETER = b"#!/usr/bin/env python3\n"
MAIN = """\
from wsmini.__main__ import run
run()
"""

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


# -- archives, the same each time --


def write_zip(file, entries, epoch):
    """A zip file out of ``{name: data}``."""
    date = time.gmtime(max(epoch, FIRST))[:6]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(entries.items()):
            info = zipfile.ZipInfo(name, date)
            info.create_system = 3  # Unix, wherever this runs
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data, compresslevel=9)


def repack_wheel(path, epoch):
    with zipfile.ZipFile(str(path)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
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
    """The folder *package* as a program in one file."""
    entries = {"__main__.py": MAIN}
    for module in package.rglob("*.py"):
        name = module.relative_to(package).as_posix()
        entries[f"wsmini/{name}"] = stripped(module.read_text("utf-8"))
    with open(path, "wb") as file:
        file.write(INTERPRETER)
        write_zip(file, entries, epoch)
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
