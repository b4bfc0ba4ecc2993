"""Tests of many rows, which together are one test."""

from __future__ import annotations

import functools
import inspect
import reprlib

import pytest

Param = type(pytest.param())


def each_row(names, rows, ids=()):
    """As ``pytest.mark.parametrize``, with all rows in one test, which names those that fail.

    For rows that take less time than the millisecond and a half that pytest takes for each test.
    All rows share the fixtures, and none may be skipped.
    """
    names, rows, ids = names.replace(" ", "").split(","), list(rows), list(ids)
    arguments = [_values(row, len(names)) for row in rows]
    assert rows, "a table without rows checks nothing"
    assert len(ids) in (0, len(rows)), ids

    def name(number):
        row = rows[number]
        given = row.id if isinstance(row, Param) else ids[number] if ids else None
        return f"{number}: {given or reprlib.repr(arguments[number])}"

    def decorate(test):
        @functools.wraps(test)
        def run(**fixtures):
            failed = {}
            for number, values in enumerate(arguments):
                try:
                    test(**fixtures, **dict(zip(names, values)))
                except (Exception, pytest.fail.Exception, pytest.skip.Exception) as exc:
                    failed[name(number)] = exc
            if failed:
                told = [f"{len(failed)} of {len(rows)}:"]
                told += [f"{row}: {exc!r}" for row, exc in failed.items()]
                first = next(iter(failed.values()))  # whose traceback is shown, too
                raise AssertionError("\n".join(told)) from first

        # Else pytest would ask for the names of the rows as fixtures.
        del run.__wrapped__
        signature = inspect.signature(test)
        left = [each for each in signature.parameters.values() if each.name not in names]
        assert len(left) + len(names) == len(signature.parameters), names
        run.__signature__ = signature.replace(parameters=left)
        return run

    return decorate


def _values(row, count):
    """Those of a row, which may be a ``pytest.param``."""
    if isinstance(row, Param):
        assert not row.marks, "a row has no marks of its own"
        row = row.values
    elif count == 1:
        row = (row,)
    assert len(row) == count, row
    return row
