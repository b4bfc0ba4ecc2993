"""What `wsmini` exports: few names, listed literally, each with its documentation."""

from __future__ import annotations

import ast
import builtins
import enum
import inspect
import pathlib
import re

import pytest
from helpers import offenders

import wsmini
import wsmini.aio
import wsmini.testing

TREE = ast.parse(pathlib.Path(wsmini.__file__).read_text(encoding="utf-8"))
MOST_NAMES = 42  # half of them exceptions

# The sections of a docstring, in their order. A section has items such as "name: text" or "one,
# another: text"; that of "Returns" is a text.
SECTIONS = ("Args", "Attributes", "Returns", "Raises")
LISTS = ("Yes", "No")  # which are none

MODULES = {
    wsmini: wsmini.__all__,
    wsmini.aio: wsmini.aio.__all__,
    wsmini.testing: wsmini.testing.__all__,
}

# Classes whose constructors aren't for programs.
GIVEN = {
    "wsmini.Connection", "wsmini.Ping", "wsmini.aio.Connection", "wsmini.aio.Ping",
    "wsmini.testing.Peer", "wsmini.testing.Server",
}  # fmt: skip


def literal_all():
    """``__all__`` as it is written."""
    values = [
        node.value
        for node in TREE.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__"
    ]
    return ast.literal_eval(values[0])


def documented():
    """(name, value) of what needs a docstring: functions, classes, their methods, properties."""
    for module, names in MODULES.items():
        for name in names:
            value, name = getattr(module, name), f"{module.__name__}.{name}"
            if inspect.isclass(value):
                yield name, value
                for attribute, member in vars(value).items():
                    member = getattr(member, "__func__", member)
                    if not member.__doc__ and inspect.getdoc(getattr(value, attribute)):
                        continue  # it does what a base class says
                    if attribute[0] != "_" and (
                        inspect.isfunction(member) or isinstance(member, property)
                    ):
                        yield f"{name}.{attribute}", member
            elif callable(value):
                yield name, value


def test_all_is_literal_sorted_and_short():
    names = literal_all()
    assert names == sorted(set(names))
    assert names == list(wsmini.__all__)
    assert len(names) <= MOST_NAMES


def test_all_lists_exactly_what_the_package_imports_and_defines():
    names = set()
    for node in TREE.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            names.add(node.name)
    folders = {"aio", "options", "testing"}  # for programs that import the package only
    assert names | set(wsmini._LATER) - folders == set(wsmini.__all__)


def test_a_listed_name_is_there():
    assert [name for name in wsmini.__all__ if not hasattr(wsmini, name)] == []


DOCUMENTED = {name: (name, value) for name, value in documented()}


# What a connection has besides the attributes that its own docstring tells.
OF_A_CONNECTION = """
    close close_code close_reason extensions fileno id latency ping pong recv recv_into
    recv_streaming request_headers response_headers send state
""".split()
NAMES = {
    wsmini.aio: ["Connection", "Ping", "connect"],
    wsmini.aio.connect: [],
    wsmini.aio.Ping: ["wait"],
    wsmini.Ping: ["wait"],
    wsmini.Connection: OF_A_CONNECTION,
    wsmini.aio.Connection: sorted([*OF_A_CONNECTION, "wait_closed"]),  # see docs/design.md
}


def public(value):
    return getattr(value, "__all__", None) or [name for name in dir(value) if name[0] != "_"]


@pytest.mark.parametrize("value", NAMES, ids=lambda value: f"{value.__module__}.{value.__name__}"
                         if inspect.isclass(value) else value.__name__)  # fmt: skip
def test_the_names_of_both_connections_are_these_and_documented(value):
    assert public(value) == NAMES[value]
    assert [name for name in NAMES[value] if not inspect.getdoc(getattr(value, name))] == []


def test_what_is_public_is_documented():
    assert len(DOCUMENTED) > 150
    assert [name for name, value in DOCUMENTED.values() if not docstring(value)] == []


def docstring(value):
    """The docstring of *value*, without indentation."""
    return inspect.cleandoc(value.__doc__ or "")


def parameters(name, value):
    """The names of the parameters that a program may pass to *value*."""
    if isinstance(value, property) or name in GIVEN:
        return []
    if inspect.isclass(value) and issubclass(value, (enum.Enum, BaseException)):
        return []
    return [each for each in inspect.signature(value).parameters if each != "self"]


def test_a_docstring_names_the_parameters():
    assert offenders(check_parameters, DOCUMENTED) == {}


def check_parameters(name, value):
    text = docstring(value)
    assert [p for p in parameters(name, value) if not re.search(rf"\b{p}\b", text)] == []


def sections(text):
    """The sections of a docstring, each as (title, lines)."""
    found = []
    inside = False
    for line in text.split("\n"):
        title = re.match(r"([A-Z]\w+):$", line)
        if title and title[1] not in LISTS:
            found.append((title[1], []))
            inside = True
        elif inside and line.startswith("    "):
            found[-1][1].append(line[4:])
        elif line:
            assert not re.match(rf"({'|'.join(SECTIONS)}):", line), "it has lines of its own"
            inside = False
    return found


def items(lines):
    """The items of a section, each as (names, text)."""
    found = []
    for line in lines:
        if line.startswith("    "):
            found[-1][1] += f" {line.strip()}"
        else:
            names, colon, text = line.partition(": ")
            assert colon, f"neither an item nor the continuation of one: {line}"
            found.append([names.split(", "), text])
    return found


def is_exception(name):
    value = getattr(wsmini, name, None) or getattr(builtins, name, None)
    return inspect.isclass(value) and issubclass(value, BaseException)


def test_the_sections_of_a_docstring_follow_one_format():
    assert offenders(check_sections, DOCUMENTED) == {}


def check_sections(name, value):
    found = sections(docstring(value))
    titles = [title for title, _ in found]
    assert titles == [title for title in SECTIONS if title in titles]
    for title, lines in found:
        if title == "Returns":
            assert lines[-1].endswith(".")
            continue
        listed = items(lines)
        names = [each for group, _ in listed for each in group]
        assert names and all(text.endswith(".") for _, text in listed)
        assert len(set(names)) == len(names) or title == "Raises"
        if title == "Args":
            assert [each for each in names if each not in parameters(name, value)] == []
        if title == "Raises":
            assert [each for each in names if not is_exception(each)] == []


WRONG = {
    "an item without a name": "Text.\n\nArgs:\n    nothing",
    "a section in a line": "Text.\n\nRaises: as ``other``.",
    "a section with another name": "Text.\n\nParameters:\n    a: b.",
    "another order": "Text.\n\nRaises:\n    OSError: a.\n\nArgs:\n    name: b.",
    "an unknown argument": "Text.\n\nArgs:\n    other: b.",
    "an unknown exception": "Text.\n\nRaises:\n    NoSuchError: b.",
    "no period": "Text.\n\nArgs:\n    name: b",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_another_format_is_found(text):
    def function(name):
        pass

    function.__doc__ = text
    with pytest.raises(AssertionError):
        check_sections("function", function)


def test_a_missing_parameter_is_found():
    def function(name, other):
        """With *name*."""

    with pytest.raises(AssertionError, match="other"):
        check_parameters("function", function)
