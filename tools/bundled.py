"""How wsmini.pyz imports its modules, which are all in one compressed file.

They resemble each other: together they take a fifth less than each on its own. But Python can't
import from such a file. So ``wsmini/__init__.py`` is just a line there, which calls ``start``: it
appends the file to ``wsmini.__path__``, and then runs the package's own ``__init__``.

Modules are in the file as programs import them. What is kept in memory is the compressed file and
some 40 KB of zlib's; what is imported later is imported whatever has become of the archive.
"""

from __future__ import annotations

import os
import sys
import zlib
from importlib.machinery import ModuleSpec, SourceFileLoader

FILE = "modules.zlib"
BREAK = b"\f"  # behind each module, which has its name in front, as a line
PIECE = 2048  # compressed bytes at once, of 100 KB

FOLDER = os.path.dirname(os.path.abspath(__file__))
PLACE = os.path.join(FOLDER, FILE)


class Bundle:
    """The sources of all modules, decompressed as far as somebody has asked for them.

    Threads import at the same time, and signal handlers in between: who comes while another one is
    reading on begins anew. Nobody waits.
    """

    def __init__(self, data):
        self.data = data
        stream = self.unpacked()
        self.names = next(stream)[1].decode().split()
        self.streams = [stream]  # none while somebody reads on
        self.ahead = set(self.names)
        self.passed = {}  # what was read, and not yet asked for

    def unpacked(self):
        """The name and the source of each module, after an empty one with all names."""
        unpack, text = zlib.decompressobj().decompress, b""
        for start in range(0, len(self.data), PIECE):
            text += unpack(self.data[start : start + PIECE])
            *parts, text = text.split(BREAK)
            for part in parts:
                name, _, source = part.partition(b"\n")
                yield name.decode(), source

    def source(self, name):
        return next(source for found, source in self.unpacked() if found == name)

    def take(self, name):
        """The same for who imports it, at a lower cost the first time."""
        if name in self.ahead:
            self.read_on(name)
        return self.passed.pop(name, None) or self.source(name)

    def read_on(self, name):
        """Read as far as that module, if nobody else is reading."""
        try:
            stream = self.streams.pop()
        except IndexError:
            return
        for found, source in stream:
            self.passed[found] = source
            self.ahead.discard(found)
            if found == name:
                break
        self.streams.append(stream)


class Loader(SourceFileLoader):
    """Python's own, whose files are those of the bundle."""

    def get_code(self, fullname):
        return self.source_to_code(bundle.take(name_of(self.path)), self.path)

    def get_data(self, path):
        name = name_of(path)
        return bundle.source(name) if name else super().get_data(path)


class Finder:
    """What looks for modules in PLACE: a hook of ``sys.path_hooks``."""

    def __init__(self, path):
        if path != PLACE:
            raise ImportError(f"only for {PLACE}", path=path)

    def find_spec(self, fullname, target=None):
        name = fullname.rpartition(".")[2]
        if name not in bundle.names:
            return None
        path = path_of(name)
        spec = ModuleSpec(fullname, Loader(fullname, path), origin=path)
        spec.has_location = True
        return spec

    def iter_modules(self, prefix=""):
        """For pkgutil."""
        return [(prefix + name, False) for name in bundle.names if name != "__init__"]


def path_of(name):
    return os.path.join(FOLDER, f"{name}.py")


def name_of(path):
    """The module of that path, or None."""
    name = os.path.basename(path)[: -len(".py")]
    return name if name in bundle.names and path == path_of(name) else None


def start(package):
    """Run the package's ``__init__`` in *package*, its namespace."""
    spec = package["__spec__"]
    loader = Loader(spec.name, path_of("__init__"))
    package["__file__"] = spec.origin = loader.path
    package["__loader__"] = spec.loader = loader  # has the source, for tracebacks
    package["__path__"].append(PLACE)
    exec(loader.get_code(spec.name), package)


bundle = Bundle(__loader__.get_data(os.path.join(os.path.dirname(__file__), FILE)))
sys.path_hooks.insert(0, Finder)  # zipimport would take the path for a folder of the archive
