"""What the documentation says of names, tables and other pages is so; ``test_docs`` runs it."""

from __future__ import annotations

import ast
import asyncio
import builtins
import compileall
import inspect
import re
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading

import check_platforms
import check_pythons
import pytest
from helpers import PATIENCE, ROOT, offenders, tree_of
from tables import each_row
from test_layers import MAY_IMPORT

import wsmini
import wsmini.aio
from wsmini import exceptions
from wsmini.options import TABLE
from wsmini.testing import Opcode, echo_server, frame, scripted_server

README = ROOT / "README.md"
USERS = [ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*sorted(ROOT.glob("*.md")), *USERS[1:], *sorted((ROOT / "tests").glob("*/README.md"))]


def read(path):
    return path.read_text(encoding="utf-8")


def prose(path):
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", read(path), flags=re.S | re.M)


# -- links --


def anchors(path):
    """The anchors that code hosts make of the headings."""
    found, times = set(), {}
    for heading in re.findall(r"^#+ (.*)$", prose(path), re.M):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = times[anchor] = times.get(anchor, -1) + 1
        found.add(f"{anchor}-{count}" if count else anchor)
    return found


def links(path):
    """(file, anchor) of each link to a file of ours."""
    text = re.sub(r"`[^`]*`", "", prose(path))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            yield (path.parent / file).resolve() if file else path, anchor


@each_row("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    for file, anchor in links(page):
        assert file.exists(), file
        if anchor:
            assert anchor in anchors(file), f"{file.name}#{anchor}"


def test_every_page_is_reached_from_the_readme():
    reached, new = set(), {README}
    while new:
        reached |= new
        found = {file for page in new for file, _ in links(page) if file.suffix == ".md"}
        new = found - reached
    assert reached >= {*USERS, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"}


def test_the_readme_lists_every_page():
    listed = {file for file, _ in links(README)}
    assert listed >= set(USERS)


# -- tables --


def cells(line):
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(page):
    """(heading above it, rows) of each table of a page in ``docs``."""
    heading, lines = "", iter([*prose(ROOT / "docs" / page).splitlines(), ""])
    for line in lines:
        if line.startswith("#"):
            heading = line.lstrip("# ")
        rows = []
        while line.startswith("|"):
            rows.append(cells(line))
            line = next(lines)
        if rows:
            yield heading, rows[2:]


def table(page, heading):
    return next(rows for found, rows in tables(page) if found == heading)


def spans(text):
    return re.findall(r"`([^`]+)`", text)


# -- all of it --


def test_everything_public_is_mentioned():
    text = "".join(read(page) for page in [README, *USERS] if page.stem != "migrating")
    names = {*TABLE, *wsmini.__all__} - {"__version__"}
    for kind in (wsmini.Connection, wsmini.Client, wsmini.Loop, wsmini.Ping):
        names |= {name for name in vars(kind) if not name.startswith("_")}
    assert len(names) > 100
    assert sorted(names - set(re.findall(r"\w+", text))) == []


def test_each_question_is_answered_for_each_api():
    questions = re.split(r"^## ", read(ROOT / "docs" / "faq.md"), flags=re.M)[1:-1]
    assert len(questions) == 9
    for question in questions:
        blocks = re.findall(r"```python\n(.*?)```", question, re.S)
        for api in (r"wsmini\.(re)?connect\(", r"wsmini\.Client\(", r"from wsmini\.aio import"):
            assert any(re.search(api, block) for block in blocks), (question[:60], api)


# -- errors.md --

EXCEPTIONS = {
    name: value
    for name, value in vars(wsmini).items()
    if name in wsmini.__all__ and isinstance(value, type) and issubclass(value, Exception)
}
EXPLAINED = {spans(row[0])[0]: spans(row[2]) for row in table("errors.md", "All of them")}

# The arguments of those that take more than a text.
ARGUMENTS = {
    "ConnectionClosed": (exceptions.Close(1000, ""), None, None),
    "ConnectionClosedError": (exceptions.Close(1000, ""), None, None),
    "ConnectionClosedOK": (exceptions.Close(1000, ""), None, None),
    "InvalidHeader": ("Upgrade", None),
    "InvalidProxy": ("http:", "no host"),
    "InvalidProxyStatus": (None,),
    "InvalidRedirect": ("/", "none"),
    "InvalidStatus": (None,),
    "InvalidURI": ("http:", "no host"),
    "InvalidUpgrade": ("Upgrade", None),
    "NegotiationError": ("Upgrade", None, "none"),
    "PayloadTooBig": (2, 1),
    "TooManyRedirects": (["ws://example.com"],),
}
# Those that the table explains behind a colon, as what an attribute has.
OF_RESPONSES = {"status_code", "reason_phrase", "headers", "body"}


def test_the_tree_of_exceptions_is_the_real_one():
    block = re.search(r"```text\n(.*?)```", read(ROOT / "docs" / "errors.md"), re.S)[1]
    above, found = [], {}
    for line in block.splitlines():
        name, _, rest = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth:] = [name]
        parents = [above[depth - 1] if depth else "Exception"]
        parents += re.findall(r"\(also (\w+)\)", rest)
        found[name] = parents
    assert found == {
        name: [base.__name__ for base in value.__bases__] for name, value in EXCEPTIONS.items()
    }


def test_every_exception_is_explained():
    assert set(EXPLAINED) == set(EXCEPTIONS)


@each_row("name", EXPLAINED)
def test_the_attributes_of_an_exception_are_what_the_table_says(name):
    exc = EXCEPTIONS[name](*ARGUMENTS.get(name, ()))
    attributes = set(EXPLAINED[name]) - OF_RESPONSES
    for base in EXCEPTIONS[name].__mro__[1:]:
        attributes |= set(EXPLAINED.get(base.__name__, ())) - OF_RESPONSES
    assert [attribute for attribute in attributes if not hasattr(exc, attribute)] == []
    assert set(vars(exc)) <= attributes


def test_every_close_code_is_explained_and_whether_it_is_retried():
    rows = table("errors.md", "Close codes")
    explained = {int(row[0]): row for row in rows if row[0].isdigit()}
    assert {code: row[1] for code, row in explained.items()} == exceptions.CLOSE_CODES
    for row in rows:
        code = int(row[0].partition("–")[0])
        close = None if code == 1006 else exceptions.Close(code, "")
        failure = exceptions.connection_closed(close, close, None if close is None else True)
        assert failure.code == code
        assert row[3] == ("yes" if wsmini.retryable(failure) else "no"), code


def test_what_a_failure_to_connect_knows_is_explained():
    heading = "When a connection can't be opened"
    _, rows = [rows for found, rows in tables("errors.md") if found == heading]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError) as failure:
        wsmini.connect(f"ws://127.0.0.1:{port}", proxy=None)
    assert {spans(row[0])[0] for row in rows} == set(vars(failure.value))


def cut(peer):
    peer.accept()


def closes(code):
    def script(peer):
        peer.accept()
        peer.close(code)

    return script


def sends(data):
    def script(peer):
        peer.accept()
        peer.send_raw(data)
        peer.recv_message()

    return script


def is_silent(peer):
    peer.accept()
    leave.wait(PATIENCE)


leave = threading.Event()

# What the rows about the end of a connection say -> a server, options, and what the client does.
ENDS = {
    "the server closed, with 1008 say": (closes(1008), {}, lambda ws: ws.recv(PATIENCE)),
    "`close()`, and the server answered": (
        sends(b""), {}, lambda ws: (ws.close(), ws.recv(PATIENCE)),
    ),
    "`close()`, and it didn't answer in `close_timeout`": (
        is_silent, {"close_timeout": 0.05}, lambda ws: (ws.close(), ws.recv(PATIENCE)),
    ),
    "the connection was cut or reset": (cut, {}, lambda ws: ws.recv(PATIENCE)),
    "nothing came for `ping_interval + ping_timeout`": (
        is_silent, {"ping_interval": 0.05, "ping_timeout": 0.05}, lambda ws: ws.recv(PATIENCE),
    ),
    "a message exceeds `max_size`": (
        sends(frame(Opcode.TEXT, "too long")), {"max_size": 4}, lambda ws: ws.recv(PATIENCE),
    ),
    "the server broke the protocol": (
        sends(frame(Opcode.TEXT, "hi", masked=True)), {}, lambda ws: ws.recv(PATIENCE),
    ),
    "a text isn't UTF-8": (
        sends(frame(Opcode.TEXT, b"\xff")), {}, lambda ws: ws.recv(PATIENCE),
    ),
    "`send(..., timeout=)` passes in the middle of a message": (
        is_silent, {"close_timeout": 0.05}, lambda ws: ws.send(bytes(1 << 25), timeout=0.1),
    ),
}  # fmt: skip


def test_how_a_connection_ended_is_told_as_the_table_says():
    rows = table("errors.md", "When a connection ends")
    assert {row[0] for row in rows} == set(ENDS)
    for what, rcvd, sent, cause in rows:
        script, options, act = ENDS[what]
        leave.clear()
        with scripted_server(script) as server:
            with wsmini.connect(server.url, proxy=None, **options) as ws:
                with pytest.raises(wsmini.ConnectionClosed) as closed:
                    act(ws)
            leave.set()
        exc = closed.value
        assert str(exc.rcvd and exc.rcvd.code) == rcvd.strip("`"), what
        assert str(exc.sent and exc.sent.code) == sent.strip("`"), what
        assert type(exc.__cause__).__name__ in (spans(cause) or ["NoneType"]), what


# -- migrating.md --


class Checker(ast.NodeVisitor):
    """Fails for what a piece of code names and *known* doesn't have."""

    def __init__(self, known):
        self.known = known
        self.functions = 0

    def value(self, node):
        """What *node* stands for; ``None`` if one had to run it to know."""
        if isinstance(node, ast.Name):
            assert node.id in self.known or hasattr(builtins, node.id), f"what is {node.id}?"
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.value(node.value)
            if owner is not None:
                assert hasattr(owner, node.attr), f"{owner!r} has no {node.attr}"
                return getattr(owner, node.attr)
        elif isinstance(node, ast.expr):
            self.visit(node)
        return None

    def visit_Attribute(self, node):
        self.value(node)

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            self.value(node)

    def visit_Call(self, node):
        function = self.value(node.func)
        if function is not None:
            self.functions += 1
            parameters = inspect.signature(function).parameters
            accepted = {*parameters}
            if "options" in parameters:  # **options of connect()
                accepted |= set(TABLE)
            unknown = [keyword.arg for keyword in node.keywords if keyword.arg not in accepted]
            assert not unknown, f"{ast.dump(node.func)} doesn't take {unknown}"
        for child in (*node.args, *node.keywords):
            self.visit(child)


def known_names(section):
    """What the tables of a section of ``migrating.md`` may name."""
    stand_ins = "url path address host port high function headers context jar sock level option"
    stand_ins += " value data message pong code reason"
    names = dict.fromkeys(stand_ins.split())
    names.update(wsmini=wsmini, socket=socket, ssl=ssl)
    names["client"] = wsmini.Client("ws://example.com")
    names["loop"] = wsmini.Loop
    names["exc"] = wsmini.InvalidStatus(wsmini.Connection)
    names["context"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if section.endswith("asyncio"):
        names["connect"] = wsmini.aio.connect
    return names


NEW = {
    f"{heading}: {span}": (heading, span)
    for heading, rows in tables("migrating.md")
    for row in rows
    for span in spans(row[1])
}


@pytest.fixture
def connections():
    """An open connection, by the end of the heading under which it is called ``ws``."""

    async def opened(url):
        async with wsmini.aio.connect(url, proxy=None) as ws:
            return ws

    with echo_server() as server, wsmini.connect(server.url, proxy=None) as ws:
        yield {"asyncio": asyncio.run(opened(server.url)), "": ws}


def test_names_to_move_to_exist(connections):
    def check(heading, span):
        ws = connections["asyncio" if heading.endswith("asyncio") else ""]
        check_code(span, {**known_names(heading), "ws": ws})

    assert len(NEW) > 100
    assert offenders(check, NEW) == {}


def check_code(span, known):
    known["exc"].response = known["ws"].response
    if span in TABLE or span in ("Client", "str", "bytes", "__cause__"):
        return
    if span.startswith("python -m wsmini"):
        from wsmini.cli.arguments import make_parser

        make_parser().parse_args([*span.split()[3:], "ws://example.com"])
        return
    source = f"{span}: pass" if re.match(r"(async )?for ", span) else span
    tree = ast.parse("async def f():\n" + textwrap.indent(source, "    "))
    checker = Checker(known)
    for statement in tree.body[0].body:
        checker.visit(statement)


def test_what_is_checked_of_names_to_move_to_finds_mistakes():
    for source in ("wsmini.conect(url)", "wsmini.connect(url, header=headers)", "unknown"):
        with pytest.raises(AssertionError):
            Checker(known_names("")).visit(ast.parse(source))
    checker = Checker(known_names(""))
    checker.visit(ast.parse("wsmini.connect(url, origin=host)"))
    assert checker.functions == 1


# -- design.md --

CHANGES = table("design.md", "Where to change what")


def defined(path):
    """The names of the classes and functions of a module, with the class in front of methods."""
    names = set()
    for node in ast.walk(tree_of(path)):
        inner = node.body if isinstance(node, ast.ClassDef) else ()
        names |= {f"{node.name}.{each.name}" for each in inner if hasattr(each, "name")}
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
    return names


@each_row("question, where", CHANGES, ids=[row[0] for row in CHANGES])
def test_where_to_change_what_is_there(question, where):
    names = None
    for span in spans(where):
        if span.endswith(".py"):
            path = ROOT / span if span.startswith("tests/") else ROOT / "wsmini" / span
            names = defined(path)
        elif span[0].isalpha() and not span.endswith("="):
            assert span in names, f"{path}: {span}"
    assert names, "a file, and what to change in it"


def test_ten_questions_are_answered():
    assert len(CHANGES) >= 10


def test_the_map_is_the_table_of_folders():
    rows = {row[0].strip("`./"): row[1] for row in table("design.md", "The map")}
    assert set(rows) == set(MAY_IMPORT)
    above = set()
    for folder, holds in rows.items():
        assert set(MAY_IMPORT[folder]) <= above, f"{folder} may import what is below it"
        above.add(folder)
        for name in spans(holds):
            assert "wsmini" in name or (ROOT / "wsmini" / folder / f"{name}.py").exists(), name


def test_the_words_of_the_design_are_those_of_the_code():
    """But for the last section, which says where each is."""
    text = prose(ROOT / "docs" / "design.md").partition("## Where to change what")[0]
    known = set()
    for path in (ROOT / "wsmini").rglob("*.py"):
        known |= set(re.findall(r"\w+", read(path)))
    used = {word for span in spans(text) for word in re.findall(r"[A-Za-z_]\w{3,}", span)}
    assert sorted(used - known - {"python", "tests", "test_layers"}) == []


# -- embedding.md --

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
blocked = set({blocked!r})
class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(name)
sys.meta_path.insert(0, Blocker)
for name in list(sys.modules):
    if name.partition(".")[0] in blocked:
        del sys.modules[name]
import wsmini
with wsmini.connect({url!r}, proxy=None) as ws:
    ws.send("hello")
    assert ws.recv({patience}) == "hello"
"""
CALLBACKS = """
client = wsmini.Client({url!r}, proxy=None, on_open=lambda client: client.send("hello"))
client.on_message = lambda client, message: client.close()
assert client.run_forever() == 0
"""
LOADED = """
print(*[name for name in sys.modules if name.partition(".")[0] in blocked])
"""


def run_with_echo_server(folder, blocked=(), callbacks=CALLBACKS):
    with echo_server() as server:
        program = f"{PROGRAM}{callbacks}{LOADED}".format(
            folder=str(folder), blocked=blocked, url=server.url, patience=PATIENCE
        )
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", program], stdout=subprocess.PIPE, check=True
        ).stdout.split()


def test_files_that_may_be_left_out_may_be_left_out(tmp_path):
    rows = table("embedding.md", "Copy it, under any name")
    optional = {name for row in rows for name in spans(row[0])}
    shutil.copytree(ROOT / "wsmini", tmp_path / "wsmini")
    for name in optional:
        path = tmp_path / "wsmini" / name  # each of them exists
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(tmp_path / "wsmini" / "__pycache__", ignore_errors=True)
    assert run_with_echo_server(tmp_path, callbacks="") == []


def test_it_runs_from_compiled_files_alone(tmp_path):
    shutil.copytree(ROOT / "wsmini", tmp_path / "wsmini")
    assert compileall.compile_dir(tmp_path / "wsmini", quiet=1, legacy=True)
    for path in (tmp_path / "wsmini").rglob("*.py"):
        path.unlink()
    assert run_with_echo_server(tmp_path) == []


def test_modules_that_may_be_missing_may_be_missing():
    rows = table("embedding.md", "A Python that lacks things")
    missing = [name for row in rows for name in spans(row[0])]
    assert len(missing) >= 15
    assert run_with_echo_server(ROOT, missing) == []


def test_the_versions_of_python_are_the_same_everywhere():
    setup = (ROOT / "setup.cfg").read_text()
    versions = re.findall(r"Python :: (3\.\d+)$", setup, re.M)
    assert [*versions, check_pythons.PYPY] == check_pythons.VERSIONS
    assert f"python_requires = >={versions[0]}\n" in setup
    ruff = (ROOT / "ruff.toml").read_text()
    assert f'target-version = "py{versions[0].replace(".", "")}"' in ruff
    assert f"CPython {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text()


def test_the_page_about_platforms_has_each_of_them():
    named = re.findall(r"`make platforms PLATFORMS=([\w.]+)`", read(ROOT / "docs" / "platforms.md"))
    assert sorted(named) == sorted(check_platforms.PLATFORMS)
