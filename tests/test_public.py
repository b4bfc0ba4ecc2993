"""What `wsmini` exports: few names, listed literally, each with its documentation."""

from __future__ import annotations

import ast
import inspect
import pathlib

import pytest

import wsmini

TREE = ast.parse(pathlib.Path(wsmini.__file__).read_text(encoding="utf-8"))
MOST_NAMES = 41  # half of them exceptions


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
    for name in wsmini.__all__:
        value = getattr(wsmini, name)
        if inspect.isclass(value):
            yield name, value
            for attribute, member in vars(value).items():
                member = getattr(member, "__func__", member)
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
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
    assert names == set(wsmini.__all__)


@pytest.mark.parametrize("name", wsmini.__all__)
def test_a_listed_name_is_there(name):
    assert hasattr(wsmini, name)


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in documented()])
def test_what_is_public_is_documented(value):
    assert (value.__doc__ or "").strip()
