"""How Sphinx makes the site of ``make docs``: README.md, the pages in docs/, and the reference.

Pages are found by themselves. Docstrings are as CONTRIBUTING.md has them, which isn't quite any of
the styles that Sphinx knows: ``convert`` makes reStructuredText of their sections, and links of the
public names in them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.util import logging
from sphinx.util.nodes import make_refnode

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import wsmini  # noqa: E402
import wsmini.aio  # noqa: E402
import wsmini.testing  # noqa: E402

project = "wsmini"
release = wsmini.__version__
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/reference/*.rst", "examples/README.md"]
exclude_patterns = [".*", "benchmarks", "build", "dist", "tests", "wsmini"]  # not to be searched
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"wsmini {release}"
html_show_copyright = False
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    "special-members": "__iter__, __aiter__, __exit__, __aexit__, __getitem__, __setitem__",
}
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
maximum_signature_line_length = 80
nitpicky = True
# Of the standard library, whose documentation is elsewhere.
nitpick_ignore_regex = [
    ("py:.*", r"(_?asyncio|collections|enum|http|logging|selectors|socket)\..*"),
    ("py:.*", r"(ssl|ssl_module|types|typing)\..*"),
    ("py:.*", r"CookieJar|Logger|SSLContext|TracebackType|Callable\[\[\]"),
]

CONTENTS = """

```{toctree}
:hidden:
:glob:

docs/*
docs/reference/index
examples/README
*
```
"""

# Where the reference has what signatures call otherwise.
OTHER_NAMES = {
    "BytesLike": "Data",
    "ConnectOptions": "Options",
    "HasFileno": "File",
    "Part": "Data",
    "PerMessageDeflate": "Extension",
}

# Classes whose objects programs get, and don't make.
NOT_MADE = {"Connection", "Handle", "Peer", "Ping", "Response", "Server", "Timer"}

MODULES = {
    "wsmini": set(wsmini.__all__) - {"__version__"},
    "wsmini.aio": set(wsmini.aio.__all__),
    "wsmini.testing": set(wsmini.testing.__all__),
}
NAMES = set().union(*MODULES.values())

SECTION = re.compile(r"(Args|Attributes|Raises|Returns):")
ITEM = re.compile(r"    (\S[^:]*): (.+)")
LITERAL = re.compile(r"``([A-Za-z]+)(\(\))?``")


def convert(app, what, name, obj, options, lines):
    """The sections of a docstring as field lists, with a definition list in them."""
    result, section = [], ""
    for line in lines:
        if SECTION.fullmatch(line):
            section = line[:-1]
            result += ["", f":{section}:"]
        elif section and line.startswith("    "):
            item = ITEM.fullmatch(line) if section != "Returns" else None
            if item:
                role = ":py:exc:`{}`" if section == "Raises" else "``{}``"
                names = ", ".join(role.format(name) for name in item[1].split(", "))
                result += ["", f"    {names}", f"        {linked(item[2])}"]
            else:
                result.append(linked(line))
        else:
            section = section if not line else ""
            result.append(linked(line))
    lines[:] = result


def linked(line):
    """*line* with links: ``Name`` and ``name()``, where that is public."""

    def link(match):
        name, call = match[1], match[2] or ""
        is_public = name in NAMES and (call or name[0].isupper())
        return f":py:obj:`{name}{call} <{name}>`" if is_public else match[0]

    return LITERAL.sub(link, line)


def sign(app, what, name, obj, options, signature, returned):
    """No signature where the constructor isn't for programs."""
    made = what != "class" or obj.__name__ not in NOT_MADE
    return None if made else ("", None)


def resolve(app, env, node, contnode):
    """Find by its last name what is in another module than the one that mentions it."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    name = OTHER_NAMES.get(name, name)
    found = [o for o in env.get_domain("py").get_objects() if o[0].rpartition(".")[2] == name]
    if not found:
        return None
    fullname, _, _, docname, anchor, _ = min(found, key=lambda o: len(o[0]))
    return make_refnode(app.builder, node["refdoc"], docname, anchor, contnode, fullname)


def add_contents(app, docname, source):
    """The contents, which are shown at the side, belong to the first page."""
    if docname == root_doc:
        source[0] += CONTENTS


def check_names(app, env):
    """Warn, which is an error, of public names that the reference hasn't."""
    documented = {o[0] for o in env.get_domain("py").get_objects()}
    for module, names in MODULES.items():
        for name in sorted(names):
            if f"{module}.{name}" not in documented:
                logging.getLogger(__name__).warning("%s.%s isn't in the reference", module, name)


def add_index(app, exc):
    """Where browsers begin."""
    if exc is None:
        Path(app.outdir, "index.html").write_text(
            '<!DOCTYPE html>\n<meta http-equiv="refresh" content="0; url=README.html">\n'
            '<title>wsmini</title>\n<a href="README.html">wsmini</a>\n'
        )


def setup(app):
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", convert)
    app.connect("autodoc-process-signature", sign)
    app.connect("missing-reference", resolve)
    app.connect("env-updated", check_names)
    app.connect("build-finished", add_index)
