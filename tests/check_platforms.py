"""Run the tests with Pythons, C libraries and processors that this machine hasn't, out of Debian.

    python tests/check_platforms.py [NAME[:core]...]

Names are those of PLATFORMS; without any, all of them. ``:core`` is what takes a minute. It takes
Linux, root, and an archive of Debian: the one that apt uses here, or ``WSMINI_DEBIAN=URL``. Each
system is a folder, made once under ``WSMINI_ROOTS`` (by default ``~/.cache/wsmini-roots``, 4 GB for
all); other processors are qemu's. Mounts and binfmt_misc are those of a namespace: nothing of the
machine is changed.

Exit status: 0 if all have passed, 1 if tests have failed, 2 if none has and something couldn't be
had: the last lines say what, and why. That has not passed.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple

from check_pythons import MODES, UNDER_CORE

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROOTS = pathlib.Path(os.environ.get("WSMINI_ROOTS") or "~/.cache/wsmini-roots").expanduser()
LEFT_OUT = (".git", ".venv", ".venvs", "build", "dist", "__pycache__")  # of the sources
LONGEST = 3600.0  # seconds for one command
TAIL = 15  # lines to show of a command that failed

PLATFORMS = """
    3.14 forky amd64 python3.14
    3.15 forky amd64 python3.15
    trixie trixie amd64 python3
    i386 trixie i386 python3
    3.13t trixie amd64 /build/3.13t/python
    3.14t forky amd64 /build/3.14t/python
    3.15t forky amd64 /build/3.15t/python
    musl trixie amd64 /build/musl/python
    armhf trixie armhf python3
    arm64 trixie arm64 python3
    riscv64 trixie riscv64 python3
    mipsel bookworm mipsel python3
    s390x bookworm s390x python3
"""
Platform = namedtuple("Platform", "name suite arch python")
PLATFORMS = {line.split()[0]: Platform(*line.split()) for line in PLATFORMS.strip().splitlines()}

PACKAGES = {
    "forky": "python3.14,python3.14-venv,python3.15,python3.15-venv,python3-pytest,"
    "python3-coverage,ca-certificates,openssl,procps",
    "trixie": "python3,python3-venv,python3-pytest,python3-coverage,ca-certificates,openssl,procps",
}
FOREIGN = "python3,python3-pytest,openssl"

# CPython out of Debian's source packages, for which its archive has no binary one.
COMPILER = (
    "gcc libc6-dev linux-libc-dev make pkg-config xz-utils libssl-dev zlib1g-dev libffi-dev"
    " musl-tools"
)
FREE_THREADED = "$source/configure -q --disable-gil"
# Debian has no OpenSSL and no zlib for musl; the kernel's headers are among glibc's. musl-gcc is
# gcc, and would tell configure that this is a system with glibc.
MUSL = r"""
    printf '%s\n' '#!/bin/sh' \
        '[ "$1" != --print-multiarch ] || exec echo x86_64-linux-musl' \
        'exec musl-gcc "$@"' > cc
    chmod +x cc
    export PKG_CONFIG=/bin/false  # which knows the libraries for glibc
    CC=$PWD/cc CFLAGS="-idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu" \
        $source/configure -q --without-ensurepip --disable-test-modules
"""
# The source package, and what makes a Makefile of it.
BUILDS = {
    "3.13t": ("python3.13", FREE_THREADED),
    "3.14t": ("python3.14", FREE_THREADED),
    "3.15t": ("python3.15", FREE_THREADED),
    "musl": ("python3.13", MUSL),
}

# Of each processor that is emulated: qemu's name, and how its ELF files differ.
QEMU = {
    "armhf": ("arm", 32, "little", 40),
    "arm64": ("aarch64", 64, "little", 183),
    "mipsel": ("mipsel", 32, "little", 8),
    "riscv64": ("riscv64", 64, "little", 243),
    "s390x": ("s390x", 64, "big", 22),
}

# What to run where: under qemu everything takes some twenty times as long, and without OpenSSL,
# zlib and libffi, test modules that import what is made of them can't be collected.
EMULATED = ["tests/sansio", "tests/opening/test_tls.py"]
NOT_UNDER_MUSL = re.compile(r"^(import|from) (ssl|zlib|ctypes|certificates)\b", re.M)
PARTS = ("sansio", "opening", "blocking", "events", "callbacks")

# 8 MiB there and back over wss, compressed.
ECHO = """
import os, sys
sys.path[:0] = [".", "tests"]
import wsmini
from certificates import client_context, server_context
from wsmini.testing import echo_server
data = (os.urandom(4096) + bytes(4096)) * 1024
with echo_server(ssl=server_context("server"), compression=True) as server:
    url = f"wss://localhost:{server.port}"
    patience = {"open_timeout": 600, "ping_timeout": 600}  # an emulated server is slow to answer
    with wsmini.connect(url, ssl=client_context(), max_size=None, **patience) as ws:
        assert [each.name for each in ws.extensions] == ["permessage-deflate"]
        ws.send(data)
        assert ws.recv(timeout=600) == data
print("8 MiB over wss came back:", sys.version)
"""


class Unavailable(Exception):
    """Something can't be had on this machine, and why."""


def run(*command, **options):
    """Run a command; raises ``Unavailable`` with the end of what it has printed if it fails."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LONGEST,
            **options,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Unavailable(f"{command[0]}: {exc}") from None
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        end = "\n    ".join(output.splitlines()[-TAIL:])
        raise Unavailable(f"{command[0]} ended with status {done.returncode}:\n    {end}")
    return output


# -- systems in folders --


def archive():
    """The URL of Debian's archive."""
    given = os.environ.get("WSMINI_DEBIAN")
    if given:
        return given
    only = ["Origin: Debian", "Label: Debian"]
    known = run("apt-get", "indextargets", "--format", "$(REPO_URI)", *only).split()
    if not known:
        raise Unavailable("apt knows no archive of Debian here: say WSMINI_DEBIAN=URL")
    return known[0].rstrip("/")


def tool(name, package):
    """The path of a program of Debian's, out of its package; nothing is installed."""
    folder = ROOTS / "tools"
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        run("apt-get", "-q", "update")
        run("apt-get", "-q", "download", package, cwd=str(folder))
        for file in folder.glob(f"{package}_*.deb"):
            run("dpkg-deb", "-x", file, folder)
            file.unlink()
    return path


def system(platform):
    """The folder of the system that *platform* is in; made if it isn't there."""
    if os.name != "posix" or os.geteuid() != 0:
        raise Unavailable("only root can make a system in a folder")
    own = run("dpkg", "--print-architecture").strip()
    if platform.arch not in QEMU and own != "amd64":
        raise Unavailable(f"this is for amd64, and here is {own}")
    target = ROOTS / f"{platform.suite}-{platform.arch}"
    if not target.exists():
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(str(part), ignore_errors=True)
        bootstrap(platform, part)
        part.rename(target)
    return target


def bootstrap(platform, target):
    foreign = platform.arch in QEMU
    debootstrap = tool("usr/sbin/debootstrap", "debootstrap")
    scripts = ROOTS / "tools" / "usr" / "share" / "debootstrap"
    packages = FOREIGN if foreign else PACKAGES[platform.suite]
    options = ["--variant=minbase", f"--arch={platform.arch}", f"--include={packages}"]
    script = scripts / "scripts" / platform.suite
    run(
        "unshare", "--mount",  # an end in the middle must leave no /sys where files are removed
        debootstrap, *options, *(["--foreign"] if foreign else []), platform.suite, target,
        archive(), script if script.exists() else scripts / "scripts" / "sid",
        env={**os.environ, "DEBOOTSTRAP_DIR": str(scripts)},
    )  # fmt: skip
    if foreign:  # no script of a package has to run to have its files
        for package in sorted((target / "var" / "cache" / "apt" / "archives").glob("*.deb")):
            run("dpkg-deb", "-x", package, target)
    hosts = target / "etc" / "hosts"
    if not hosts.exists():
        hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")


def register(arch):
    """What tells binfmt_misc that programs of that processor are qemu's to run."""
    name, bits, order, machine = QEMU[arch]
    qemu = tool(f"usr/bin/qemu-{name}-static", "qemu-user-static")
    executable, shared = (kind.to_bytes(2, order) for kind in (2, 3))
    either = bytes(255 - (a ^ b) for a, b in zip(executable, shared))
    magic = b"\x7fELF" + bytes([bits // 32, 1 if order == "little" else 2, 1]) + bytes(9)
    magic += executable + machine.to_bytes(2, order)
    mask = b"\xff" * 7 + b"\0" + b"\xff" * 8 + either + b"\xff" * 2  # whatever the ABI
    escaped = ["".join(f"\\x{byte:02x}" for byte in each) for each in (magic, mask)]
    return f":wsmini:M::{escaped[0]}:{escaped[1]}:{qemu}:OCF"


def inside(platform, target, *command):
    """A command that runs *command* in that system, in the folder of the sources."""
    script = ["set -e"]
    namespaces = ["--mount", "--pid", "--fork", "--kill-child"]
    if platform.arch in QEMU:
        namespaces += ["--user", "--map-root-user"]
        script += [
            "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc",  # from Linux 6.7 on
            f"printf %s '{register(platform.arch)}' > /proc/sys/fs/binfmt_misc/register",
        ]
    script += [
        "root=$1; shift",
        'mount -t proc proc "$root/proc"',
        'mount --rbind /dev "$root/dev"',
        'mount -t tmpfs tmpfs "$root/tmp"',
        'exec chroot "$root" "$@"',
    ]
    environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
    environment += [f"{name}={os.environ[name]}" for name in os.environ if "WSMINI_TEST" in name]
    if platform.arch in QEMU:
        environment.append("WSMINI_TEST_PATIENCE=20")
    return [
        "unshare", *namespaces, "sh", "-c", "\n".join(script), "sh", str(target),
        "env", "-i", *environment, "sh", "-c", 'cd /wsmini && exec "$@"', "sh", *command,
    ]  # fmt: skip


def copy_sources(target):
    place = target / "wsmini"
    shutil.rmtree(str(place), ignore_errors=True)
    shutil.copytree(str(ROOT), str(place), ignore=shutil.ignore_patterns(*LEFT_OUT))


def build(platform, target):
    """Compile the Python of *platform*, unless it is there."""
    if platform.name not in BUILDS or (target / platform.python[1:]).exists():
        return
    package, configure = BUILDS[platform.name]
    script = f"""
        set -e
        echo 'deb-src {archive()} {platform.suite} main' > /etc/apt/sources.list.d/source.list
        # The mirror of a release that isn't out yet may lag; debootstrap doesn't mind that either.
        apt-get -q -o Acquire::Check-Valid-Until=false update
        DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends {COMPILER}
        source=/src/{package}
        mkdir -p $source /build/{platform.name}
        cd $source
        test -e configure || {{
            apt-get -qy source --download-only {package}
            tar --strip-components=1 -xf {package}_*.orig.tar.?z
        }}
        cd /build/{platform.name}
        {configure}
        make -s -j{os.cpu_count()}
        packages=$(./python -m site --user-site)
        mkdir -p "$packages"
        echo /usr/lib/python3/dist-packages > "$packages/debian.pth"  # pytest is there
    """
    run(*inside(platform, target, "sh", "-c", script))


# -- the tests --


def commands(platform, core):
    """What to run: arguments of the Python."""
    pytest = ["-bb", "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if platform.arch in QEMU:
        return [[*pytest, *EMULATED], ["-c", ECHO]]
    if platform.name == "musl":
        modules = [path for name in PARTS for path in sorted((ROOT / "tests" / name).glob("*.py"))]
        without = [path for path in modules if not NOT_UNDER_MUSL.search(path.read_text("utf-8"))]
        tests = (str(path.relative_to(ROOT)) for path in without)
        return [[*pytest, "-k", "not deflated and not tls", *tests]]
    if core:
        return [[*pytest, *(f"tests/{name}" for name in UNDER_CORE)]]
    found = [[*pytest, whole[-1]] for whole in MODES["plain"]]
    if platform.name.endswith("t"):  # free-threaded
        found.append([*pytest, "tests/soak/test_threads.py"])
    return found


def check(platform, core):
    """Run the tests of a platform, and print what they print; whether they passed."""
    target = system(platform)
    copy_sources(target)
    build(platform, target)
    run(*inside(platform, target, platform.python, "-c", "import pytest"))  # or it isn't there
    passed = True
    for arguments in commands(platform, core):
        command = inside(platform, target, platform.python, *arguments)
        print(f"== {platform.name}: {' '.join(arguments)[:80]}", flush=True)
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
            passed = False
    return passed


def main(names):
    failed, missing = [], []
    for wanted in names or PLATFORMS:
        name, _, part = wanted.partition(":")
        started = time.monotonic()
        try:
            result = "passed" if check(PLATFORMS[name], part == "core") else "FAILED"
        except Unavailable as exc:
            result = "COULD NOT BE HAD"
            missing.append(f"{name}: {exc}")
        if result == "FAILED":
            failed.append(name)
        print(f"== {wanted}: {result}, {time.monotonic() - started:.0f} s", flush=True)
    for line in missing:
        print(f"== COULD NOT BE HAD, so it has not passed: {line}")
    if failed:
        print(f"== FAILED: {' '.join(failed)}")
    return 1 if failed else 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
