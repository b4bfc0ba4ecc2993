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
    3.13t trixie amd64 /build/3.13t/python
    musl trixie amd64 /build/musl/python
    armhf trixie armhf python3
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

# CPython out of Debian's source package, for which its archive has no binary one.
COMPILER = (
    "gcc libc6-dev linux-libc-dev make pkg-config xz-utils libssl-dev zlib1g-dev libffi-dev"
    " musl-tools"
)
BUILDS = {
    "3.13t": "/src/Python-3*/configure -q --disable-gil",
    # Debian has no OpenSSL and no zlib for musl; the kernel's headers are among glibc's. musl-gcc
    # is gcc, and would tell configure that this is a system with glibc.
    "musl": r"""
        printf '%s\n' '#!/bin/sh' \
            '[ "$1" != --print-multiarch ] || exec echo x86_64-linux-musl' \
            'exec musl-gcc "$@"' > cc
        chmod +x cc
        export PKG_CONFIG=/bin/false  # which knows the libraries for glibc
        CC=$PWD/cc CFLAGS="-idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu" \
            /src/Python-3*/configure -q --without-ensurepip --disable-test-modules
    """,
}

# qemu's name, and how ELF files of that processor begin, with the bits that count.
QEMU = {
    "armhf": (
        "arm",
        r"\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00",
        r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
    ),
    "s390x": (
        "s390x",
        r"\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16",
        r"\xff\xff\xff\xff\xff\xff\xff\xfc\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff",
    ),
}

# What to run where: under qemu everything takes some twenty times as long, and without OpenSSL and
# zlib, test modules that import them can't be collected.
EMULATED = ["tests/sansio", "tests/opening/test_tls.py"]
TLS_OR_DEFLATE = re.compile(r"^(import|from) (ssl|zlib|certificates)\b", re.M)
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
    with wsmini.connect(url, ssl=client_context(), max_size=None, open_timeout=120) as ws:
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
    foreign = platform.arch not in (own, "amd64")
    if not foreign and own != "amd64":
        raise Unavailable(f"this is for amd64, and here is {own}")
    target = ROOTS / f"{platform.suite}-{platform.arch}"
    if not target.exists():
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(str(part), ignore_errors=True)
        bootstrap(platform, part, foreign)
        part.rename(target)
    return target


def bootstrap(platform, target, foreign):
    debootstrap = tool("usr/sbin/debootstrap", "debootstrap")
    scripts = ROOTS / "tools" / "usr" / "share" / "debootstrap"
    packages = FOREIGN if foreign else PACKAGES[platform.suite]
    options = ["--variant=minbase", f"--arch={platform.arch}", f"--include={packages}"]
    script = scripts / "scripts" / platform.suite
    run(
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


def inside(platform, target, *command):
    """A command that runs *command* in that system, in the folder of the sources."""
    script = ["set -e"]
    namespaces = ["--mount", "--pid", "--fork", "--kill-child"]
    if platform.arch in QEMU:
        namespaces += ["--user", "--map-root-user"]
        name, magic, mask = QEMU[platform.arch]
        qemu = tool(f"usr/bin/qemu-{name}-static", "qemu-user-static")
        register = f":wsmini:M::{magic}:{mask}:{qemu}:OCF"
        script += [
            "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc",  # from Linux 6.7 on
            f"printf %s '{register}' > /proc/sys/fs/binfmt_misc/register",
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
    script = f"""
        set -e
        echo 'deb-src {archive()} {platform.suite} main' > /etc/apt/sources.list.d/source.list
        apt-get -q update
        DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends {COMPILER}
        mkdir -p /src /build/{platform.name}
        cd /src
        ls Python-3* > /dev/null 2>&1 || {{
            apt-get -qy source --download-only python3.13
            tar -xf python3.13_*.orig.tar.?z
        }}
        cd /build/{platform.name}
        {BUILDS[platform.name]}
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
        without = [path for path in modules if not TLS_OR_DEFLATE.search(path.read_text("utf-8"))]
        return [[*pytest, *(str(path.relative_to(ROOT)) for path in without)]]
    if core:
        return [[*pytest, *(f"tests/{name}" for name in UNDER_CORE)]]
    return [[*pytest, whole[-1]] for whole in MODES["plain"]]


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
