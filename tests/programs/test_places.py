"""Places where little is left of Python, of the disk or of memory: each client is a real process.

The servers are in this process, where nothing is missing.
"""

from __future__ import annotations

import compileall
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import time
import zipapp
import zipfile

import pytest
from certificates import server_context
from helpers import CERTS, PATIENCE, ROOT
from listeners import listener
from programs.terminals import completed

from wsmini.testing import Challenge, echo_server, fault_server

CPYTHON = platform.python_implementation() == "CPython"

# What a Linux for routers (OpenWrt) has in other packages than python3-light: python3-asyncio,
# -codecs, -ctypes, -email, -logging, -multiprocessing, -openssl, -urllib and so on.
ROUTER = """
    _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _ctypes _curses
    _curses_panel _dbm _decimal _elementtree _gdbm _hashlib _lzma _multiprocessing _sqlite3 _ssl
    _uuid asyncio cgi cgitb ctypes curses dbm decimal distutils doctest email ensurepip idlelib
    lib2to3 logging lzma multiprocessing pydoc pydoc_data pyexpat readline sqlite3 tkinter
    turtledemo unicodedata unittest urllib uuid venv webbrowser xml xmlrpc
""".split()

# What wsmini or what it imports could use, and a small Python may leave out: one at a time.
SMALL = """
    _hashlib _ssl argparse asyncio base64 dataclasses email fcntl http inspect json locale logging
    random readline ssl string termios traceback typing unicodedata urllib zlib
""".split()

# And these with all of the others.
MORE = """
    bz2 contextlib gettext getpass hmac ipaddress pickle platform pwd resource secrets shutil
    ssl statistics subprocess tempfile textwrap
""".split()

LACKING = """
import sys

lacking = sys.argv.pop(1).split()

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in lacking:
            raise ModuleNotFoundError("No module named %r" % name, name=name)

sys.meta_path.insert(0, Finder())
for name in list(sys.modules):
    if name.partition(".")[0] in lacking:
        del sys.modules[name]
for name in lacking:
    try:
        __import__(name)
    except ImportError:
        pass
    else:
        sys.exit("%s is still there" % name)
"""

IMPORT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import wsmini
"""

# No assertions: -O removes them.
TALK_BLOCKING = (
    f"PATIENCE = {PATIENCE}"
    + """
url = sys.argv[1]
with wsmini.connect(url) as ws:
    for message in ("hello", b"\\0\\xff", "\\u20ac" * 1000, bytes(70000)):
        ws.send(message)
        if ws.recv(timeout=PATIENCE) != message:
            sys.exit("this isn't the echo")
    compressed = any("deflate" in extension.name for extension in ws.extensions)
    round_trip = ws.ping().wait(PATIENCE)
print("blocking", ws.close_code, round_trip > 0, compressed)
"""
)

TALK = (
    TALK_BLOCKING
    + """
def on_message(client, message):
    print("callbacks", message)
    client.close()

client = wsmini.Client(url, on_open=lambda client: client.send("hi"), on_message=on_message)
client.run_forever()
"""
)

TALKED = "blocking 1000 True True\ncallbacks hi\n"
NOT_COMPRESSED = TALKED.replace("True\n", "False\n")


@pytest.fixture(scope="module")
def url():
    with echo_server(compression=True) as server:
        yield server.url


def secure_server(name="server"):
    return echo_server(ssl=server_context(name), compression=True)


def python(*argv, env=(), before=(), **options):
    """Run a Python with nothing of this one's environment; (status, output, errors)."""
    environment = {
        name: value for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith("PYTHON")
    }  # fmt: skip
    environment.update(env)
    status, output, errors = completed(
        [*before, sys.executable, *argv], env=environment, stdin=subprocess.DEVNULL, **options
    )
    return status, output.decode(), errors.decode()


def package(folder, name="wsmini"):
    """A copy of the package in *folder*, without what Python wrote there; its path."""
    return shutil.copytree(
        str(ROOT / "wsmini"), str(folder / name), ignore=shutil.ignore_patterns("__pycache__")
    )


# -- less of Python --

blocking = pytest.mark.skipif(not CPYTHON, reason="PyPy starts with some of them, warns of others")


@blocking
@pytest.mark.parametrize("name", SMALL)
def test_without_a_module(name, url):
    done = python("-c", LACKING + IMPORT + TALK, name, ROOT, url)
    assert done == (0, NOT_COMPRESSED if name == "zlib" else TALKED, "")


@blocking
@pytest.mark.parametrize("names", [ROUTER, sorted({*ROUTER, *SMALL, *MORE})], ids=["router", "all"])
@pytest.mark.parametrize("flags", [[], ["-I", "-S"]], ids=["", "-I -S"])
def test_without_many_modules(names, flags, url):
    done = python(*flags, "-c", LACKING + IMPORT + TALK, " ".join(names), ROOT, url)
    assert done == (0, NOT_COMPRESSED if "zlib" in names else TALKED, "")


@blocking
def test_what_takes_long_to_load_is_not_needed(url):
    url = url.replace("ws://", "ws://user:password@") + "/\u00e9?%20"
    done = python("-I", "-S", "-c", LACKING + IMPORT + TALK, "re hashlib", ROOT, url)
    assert done == (0, TALKED, "")


@blocking
def test_the_command_line_on_a_router(url):
    program = f"{LACKING}{IMPORT}\nfrom wsmini.cli import main\nsys.exit(main())"
    argv = ["-m", "a", "--count=1", url]
    assert python("-c", program, " ".join(ROUTER), ROOT, *argv) == (0, "a\n", "")
    assert python("-c", program, " ".join(ROUTER), ROOT, "--demo")[0::2] == (0, "")


# The words for a module of the standard library that is missing differ from Python to Python.
NEEDS = {
    "TLS": ("_ssl", 'wsmini.connect("wss://localhost:9")', "Python has no ssl module"),
    "a client with TLS": ("_ssl", 'wsmini.Client("wss://localhost:9")', "Python has no ssl module"),
    "a proxy with TLS": (
        "_ssl",
        'wsmini.connect("ws://localhost:9", proxy="https://localhost:9")',
        "Python has no ssl module",
    ),
    "no verification": ("_ssl", "wsmini.unverified_context()", "'_ssl'"),
    "compression": (
        "zlib",
        'wsmini.connect("ws://localhost:9", extensions=[wsmini.Deflate()])',
        "Deflate() needs the zlib module",
    ),
    "international names": (
        "unicodedata", 'wsmini.connect("ws://b\\u00fccher.example")', "has no idna codec",
    ),
    "asyncio": ("asyncio", "import wsmini.aio", "'asyncio'"),
}  # fmt: skip

COMMANDS = {
    "any": ("argparse", ["ws://localhost:9"], "wsmini: this Python has no argparse module"),
    "TLS": ("_ssl", ["wss://localhost:9"], "Python has no ssl module"),
    "TLS unverified": ("_ssl", ["--insecure", "wss://localhost:9"], "Python has no ssl module"),
    "JSON lines": ("json", ["--ndjson", "ws://localhost:9"], "--ndjson needs the json module"),
    "pretty JSON": ("json", ["--json", "ws://localhost:9"], "--json needs the json module"),
    "recording": ("json", ["--record=x", "ws://localhost:9"], "--record needs the json module"),
}


@pytest.mark.parametrize("lacking, code, words", NEEDS.values(), ids=NEEDS)
def test_what_needs_a_module_says_so(lacking, code, words):
    status, _, errors = python("-c", LACKING + IMPORT + code, lacking, ROOT)
    assert status == 1 and words in errors.splitlines()[-1]


@pytest.mark.parametrize("lacking, argv, words", COMMANDS.values(), ids=COMMANDS)
def test_an_option_that_needs_a_module_says_so(lacking, argv, words, tmp_path):
    program = f"{LACKING}{IMPORT}\nfrom wsmini.cli import main\nsys.exit(main())"
    status, output, errors = python("-c", program, lacking, ROOT, *argv, cwd=str(tmp_path))
    assert status in (2, 3) and output == "" and words in errors.splitlines()[-1]


@blocking
def test_digest_authentication_without_openssl():
    program = (
        f"PATIENCE = {PATIENCE}"
        + """
with wsmini.connect(sys.argv[1], auth=("user", "secret")) as ws:
    ws.send("hi")
    print(ws.recv(timeout=PATIENCE))
"""
    )
    with fault_server(Challenge("user", "secret", scheme="digest")) as server:
        done = python("-c", LACKING + IMPORT + program, "_hashlib _ssl", ROOT, server.url)
    assert done == (0, "hi\n", "")


def test_a_slow_callback_without_logging(url):
    program = """
import time

def on_message(client, message):
    time.sleep(0.05)
    client.close()

client = wsmini.Client(sys.argv[1], ping_timeout=0.01, on_message=on_message)
client.on_open = lambda client: client.send("hi")
client.run_forever()
print("done")
"""
    status, output, errors = python("-c", LACKING + IMPORT + program, "logging", ROOT, url)
    assert (status, output) == (0, "done\n")
    assert re.search(r"on_message of ws://.* took \d", errors)


@pytest.mark.parametrize(
    "flags", ["-O", "-OO", "-bb -W error", "-I -S", "-X dev -W error", "-X utf8=0"]
)
def test_under_flags(flags, url):
    assert python(*flags.split(), "-c", IMPORT + TALK, ROOT, url) == (0, TALKED, "")


# -- less of the package --

# What may be deleted, and what says so then: a program, and the last line of its errors.
CLI = "import runpy, sys; sys.argv[1:] = {!r}; runpy.run_module('wsmini', run_name='__main__')"
MISSING = {
    "aio": (["aio"], "from wsmini import aio", "this copy of wsmini has no aio"),
    "import aio": (["aio"], "import wsmini.aio", "No module named 'wsmini.aio'"),
    "callbacks": (["callbacks", "events"], "wsmini.Client", "this copy of wsmini has no callbacks"),
    "a name of callbacks": (
        ["callbacks", "events"], "from wsmini import Loop", "this copy of wsmini has no callbacks",
    ),
    "cli": (["cli"], CLI.format([]), "wsmini: this copy of wsmini has no cli"),
    "testing": (["testing"], "wsmini.testing", "this copy of wsmini has no testing"),
}  # fmt: skip
TOGETHER = ["aio", "callbacks", "events", "cli", "testing"]
FILES = ["opening/tls.py", "opening/cookies.py", "sansio/libcrypto.py", "__main__.py", "py.typed"]


def smaller_package(folder, parts):
    copy = pathlib.Path(package(folder))
    for name in parts:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("parts, code, words", MISSING.values(), ids=MISSING)
def test_a_copy_says_what_it_lacks(parts, code, words, tmp_path, url):
    for missing in (parts, {*parts, *TOGETHER}):
        folder = tmp_path / str(len(missing))
        smaller_package(folder, missing)
        done = python("-c", IMPORT + TALK_BLOCKING, folder, url)
        assert done == (0, TALKED.partition("callbacks")[0], "")
        status, output, errors = python("-c", IMPORT + code, folder, cwd=str(tmp_path))
        assert (status, output) == (1, "")
        assert words in errors.splitlines()[-1]


@pytest.mark.parametrize(
    "part, arguments", [("testing", ["--demo"]), ("opening/tls.py", ["wss://127.0.0.1:{}"])]
)
def test_the_command_line_says_what_its_copy_lacks(part, arguments, tmp_path):
    smaller_package(tmp_path, [part])
    with listener() as server:
        given = [argument.format(server.getsockname()[1]) for argument in arguments]
        done = python("-c", IMPORT + CLI.format(given), tmp_path)
    words = part.partition(".")[0].replace("/", ".")
    assert done == (2, "", f"wsmini: this copy of wsmini has no {words}\n")


def test_a_copy_lacks_nothing_else(tmp_path, url):
    smaller_package(tmp_path, [*TOGETHER, *FILES])
    program = f"""{IMPORT}
for name in ("Client", "aio", "testing"):
    try:
        getattr(wsmini, name)
    except ImportError as exc:
        pass
    else:
        sys.exit(name)
if hasattr(wsmini, "nonesuch"):
    sys.exit("nonesuch")
for name in set(wsmini.__all__) - {{"Client", "Loop"}}:
    getattr(wsmini, name)
{TALK_BLOCKING}"""
    done = python("-bb", "-W", "error", "-c", program, tmp_path, url)
    assert done == (0, TALKED.partition("callbacks")[0], "")


def test_the_blocking_api_passes_its_tests_alone(tmp_path):
    """With ``testing/``, whose servers these tests talk to."""
    smaller_package(tmp_path, [*TOGETHER[:-1], *FILES])
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("programs"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    status, output, errors = python(
        *"-bb -m pytest -q -p no:cacheprovider tests/blocking/test_connection.py".split(),
        cwd=str(tmp_path),
        timeout=3 * PATIENCE,
    )
    assert status == 0, f"{output}\n{errors}"
    assert re.search(r"^\d{2,} passed", output, re.M)


def test_a_module_that_python_lacks_is_not_taken_for_a_part_of_the_package():
    done = python("-c", LACKING + IMPORT + "wsmini.Loop", "heapq", ROOT)
    assert done[0] == 1 and "'heapq'" in done[2].splitlines()[-1]


# -- elsewhere on the disk --


def test_from_a_zip(tmp_path, url):
    package(tmp_path)
    with zipfile.ZipFile(str(tmp_path / "lib.zip"), "w") as file:
        for path in sorted((tmp_path / "wsmini").rglob("*")):
            file.write(str(path), f"vendor/{path.relative_to(tmp_path).as_posix()}")
    shutil.rmtree(str(tmp_path / "wsmini"))
    place = tmp_path / "lib.zip" / "vendor"
    shown = f"{IMPORT}\nprint(wsmini.__file__)\n{TALK}"
    expected = f"{place / 'wsmini' / '__init__.py'}\n{TALKED}"
    assert python("-I", "-c", shown, place, url) == (0, expected, "")


def test_from_a_zipapp(tmp_path, url):
    package(tmp_path / "app")
    target = tmp_path / "wsmini.pyz"
    zipapp.create_archive(str(tmp_path / "app"), str(target), main="wsmini.cli:main")
    shutil.rmtree(str(tmp_path / "app"))
    assert python("-I", target, "-m", "a", "--count=1", url) == (0, "a\n", "")


def test_without_sources(tmp_path, url):
    package(tmp_path)
    assert compileall.compile_dir(str(tmp_path / "wsmini"), quiet=1, legacy=True)
    for path in (tmp_path / "wsmini").rglob("*.py"):
        path.unlink()
    assert python("-I", "-c", IMPORT + TALK, tmp_path, url) == (0, TALKED, "")


# Permissions don't hold root back; nor would they elsewhere than in the package's folder.
READ_ONLY = """
import errno, os, sys

def refuse(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        mode, flags = args[1:]
        writes = set("wax+") & set(mode) if mode else flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.chmod", "os.link")
    if writes:
        refused.append(args[0])
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), args[0])

refused = []
sys.addaudithook(refuse)
"""


@pytest.mark.skipif(not CPYTHON, reason="PyPy's audit hooks don't hear of all that is written")
def test_on_a_read_only_disk(tmp_path, url):
    folder = package(tmp_path)
    program = f"""{READ_ONLY}{IMPORT}
if not refused:
    sys.exit("Python would have written its .pyc files")
del refused[:]
{TALK}
for name in refused:
    if not os.path.basename(os.path.dirname(name)) == "__pycache__" and "__pycache__" not in name:
        sys.exit("it would have written " + name)
"""
    assert python("-c", program, tmp_path, url) == (0, TALKED, "")
    assert sorted(os.listdir(folder)) == sorted(
        path.name for path in (ROOT / "wsmini").iterdir() if path.name != "__pycache__"
    )


def test_two_copies_under_other_names_in_one_process(tmp_path, url):
    for vendor, name in (("one", "_websocket"), ("two", "ws")):
        (tmp_path / vendor).mkdir()
        (tmp_path / vendor / "__init__.py").touch()
        package(tmp_path / vendor, name)
    program = (
        f"PATIENCE = {PATIENCE}"
        + """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from one import _websocket
from two import ws

def closed(module, connection):
    try:
        connection.recv(timeout=PATIENCE)
    except module.ConnectionClosed as exc:
        return exc

with _websocket.connect(sys.argv[2]) as first, ws.connect(sys.argv[2]) as second:
    for message in ("a", b"b"):
        first.send(message)
        second.send(message * 2)
        print(first.recv(timeout=PATIENCE), second.recv(timeout=PATIENCE))
    keepers = [sys.modules[m.__name__ + ".blocking.background"] for m in (_websocket, ws)]
    print([len(keeper._background.watched) for keeper in keepers])
    first.close()
    ours = closed(_websocket, first)
    print(isinstance(ours, _websocket.ConnectionClosedOK), isinstance(ours, ws.ConnectionClosed))
    second.send("on")
    print(second.recv(timeout=PATIENCE), isinstance(second, _websocket.Connection))

async def both():
    from one._websocket import aio
    from two.ws import aio as other
    async with aio.connect(sys.argv[2]) as first, other.connect(sys.argv[2]) as second:
        await first.send("c")
        await second.send("d")
        print(await first.recv(), await second.recv())

asyncio.run(both())
print(sorted(name for name in sys.modules if name.partition(".")[0] == "wsmini"))
"""
    )
    expected = (
        "a aa\nb'b' b'bb'\n[1, 1]\nTrue False\non False\nc d\n[]\n"
    )  # fmt: skip
    assert python("-I", "-W", "error", "-c", program, tmp_path, url) == (0, expected, "")


# -- little memory --

# MiB of address space beyond the 9 to 13 of a Python that does nothing. On x86-64, 6, 14 and 20 are
# enough, 31 with OpenSSL 3.6; a name takes a thread to look it up, 8 MiB of which may not be given
# back in time.
MEMORY = {
    "ws, an address": ("ws", "127.0.0.1", 10),
    "ws, a name": ("ws", "localhost", 24),
    "wss": ("wss", "localhost", 36),
}


@pytest.mark.skipif(not CPYTHON, reason="others reserve memory")
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the size of a process")
@pytest.mark.parametrize("scheme, host, mib", MEMORY.values(), ids=MEMORY)
def test_in_little_memory(scheme, host, mib):
    import resource

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    status, output, _ = python("-I", "-S", "-c", "print(open('/proc/self/status').read())")
    peak = next(line for line in output.splitlines() if line.startswith("VmPeak"))
    limit = (int(peak.split()[1]) << 10) + (mib << 20)
    with secure_server() if scheme == "wss" else echo_server(compression=True) as server:
        done = python(
            "-I", "-S", "-c", IMPORT + TALK, ROOT, f"{scheme}://{host}:{server.port}",
            env={"SSL_CERT_FILE": str(CERTS / "ca.pem")}, preexec_fn=limited,
        )  # fmt: skip
    assert done == (0, TALKED, "")


# -- a system without certificates, name servers or a clock --


CONNECT = """
try:
    wsmini.connect(sys.argv[1])
except OSError as exc:
    print(type(exc).__name__, "|", exc.phase, "|", exc.hint)
"""


def test_no_authorities(tmp_path):
    program = f"{IMPORT}{CONNECT}"
    missing, empty = "SSL_CERT_FILE names a file that isn't there", "no CAs are installed"
    for *names, advice in (("none", "nor.here", missing), (".", ".", empty)):
        env = dict(zip(("SSL_CERT_DIR", "SSL_CERT_FILE"), names))
        with secure_server() as server:
            wss = f"wss://localhost:{server.port}"
            status, output, _ = python("-c", program, ROOT, wss, env=env, cwd=str(tmp_path))
        assert status == 0
        assert output.startswith(f"SSLCertVerificationError | tls | {advice}")


def test_a_clock_that_was_never_set():
    # OpenSSL asks the system, so here the certificate is from the future instead.
    program = f"{IMPORT}import time\ntime.gmtime = lambda: struct_time\n{CONNECT}"
    program = program.replace("struct_time", repr(tuple(time.gmtime(0))))
    with secure_server("not-yet-valid") as server:
        status, output, _ = python(
            "-c", program, ROOT, f"wss://localhost:{server.port}",
            env={"SSL_CERT_FILE": str(CERTS / "ca.pem")},
        )  # fmt: skip
    assert (status, output) == (
        0,
        "SSLCertVerificationError | tls | check the clock of this device, which says 1970-01-01,"
        " then the certificate's dates\n",
    )


def in_a_namespace(*commands):
    """A command that hides files from what follows it, or None where that isn't allowed."""
    script = " && ".join([*commands, 'exec "$@"'])
    before = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh"]
    try:
        done = subprocess.run([*before, "true"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError:
        return None
    return None if done.returncode else before


def test_without_etc(url):
    """No name server, no hosts file, no certificates: addresses do, names say what is missing."""
    before = in_a_namespace("mount -t tmpfs none /etc")
    if before is None:
        pytest.skip("this system doesn't let us mount something over /etc")
    assert python("-c", IMPORT + TALK, ROOT, url, before=before) == (0, TALKED, "")
    status, output, _ = python("-c", IMPORT + CONNECT, ROOT, "ws://a.example", before=before)
    assert (status, output) == (
        0, "gaierror | dns | is the name spelt right, and does DNS work on this machine?\n",
    )  # fmt: skip
    with secure_server() as server:
        wss = f"wss://127.0.0.1:{server.port}"
        env = {"SSL_CERT_FILE": ""}
        status, output, _ = python("-c", IMPORT + CONNECT, ROOT, wss, before=before, env=env)
    assert output.startswith("SSLCertVerificationError | tls | no CAs are installed")
