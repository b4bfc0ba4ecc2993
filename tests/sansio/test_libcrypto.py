"""Masking by libcrypto: the same as translating, and never used where that isn't proved."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import types
import weakref

import pytest
from helpers import ROOT, SEED
from sansio.test_frames import EMSCRIPTEN, loop, random_bytes

from wsmini.sansio import libcrypto
from wsmini.sansio.frames import translate_in_place

TRIED = sys.implementation.name == "cpython" and os.name == "posix" and not EMSCRIPTEN


def exported():
    """Whether Python was linked with a libcrypto whose functions can be found."""
    if not TRIED:
        return False
    try:
        import _hashlib
        import ctypes

        ctypes.CDLL(_hashlib.__file__).CRYPTO_ofb128_encrypt  # noqa: B018
    except (ImportError, AttributeError):
        return False
    return True


EXPORTED = exported()
needs_libcrypto = pytest.mark.skipif(not EXPORTED, reason="no libcrypto that exports its functions")


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.delenv("WSMINI_NO_CTYPES", raising=False)


def test_it_is_found_where_python_is_linked_with_it():
    assert (libcrypto.load(translate_in_place) is not None) is EXPORTED


@needs_libcrypto
def test_it_masks_as_the_loop_does_at_every_size_and_place():
    mask = libcrypto.load(translate_in_place)
    data = random_bytes(70000, SEED)
    for key in (b"\0\0\0\0", b"\x01\x02\x03\x04", b"\xff\x80\0\x7f"):
        for n in (*range(70), 4095, 4096, 4097, 65535, 65536, 69999):
            for start in (0, 1, 4, 6, 14):
                buffer = bytearray(data[: start + n])
                mask(buffer, start, key)
                assert buffer == data[:start] + loop(data[start : start + n], key), (n, start)


@needs_libcrypto
def test_a_buffer_is_free_again_afterwards():
    mask = libcrypto.load(translate_in_place)
    buffer = bytearray(5000)
    mask(buffer, 14, b"\x01\x02\x03\x04")
    buffer += b"more"  # not a BufferError
    mask(buffer, len(buffer) + 1, b"\x01\x02\x03\x04")
    assert buffer.endswith(b"more")


@needs_libcrypto
def test_one_that_masks_otherwise_is_not_used():
    def otherwise(data, start, key):
        translate_in_place(data, start, key[::-1])

    assert libcrypto.load(otherwise) is None


def test_the_environment_can_forbid_it(monkeypatch):
    monkeypatch.setenv("WSMINI_NO_CTYPES", "1")
    monkeypatch.setattr(libcrypto, "_masking", pytest.fail)
    assert libcrypto.load(translate_in_place) is None


@pytest.mark.parametrize(
    ("name", "system", "platform"),
    [
        ("pypy", "posix", "linux"),
        ("cpython", "nt", "win32"),
        ("cpython", "posix", "emscripten"),
        ("cpython", "posix", "wasi"),
    ],
)
def test_it_is_not_tried_where_it_could_do_harm(monkeypatch, name, system, platform):
    implementation = types.SimpleNamespace(name=name)
    python = types.SimpleNamespace(implementation=implementation, platform=platform)
    monkeypatch.setattr(libcrypto, "sys", python)
    monkeypatch.setattr(libcrypto, "os", types.SimpleNamespace(name=system, environ={}))
    monkeypatch.setattr(libcrypto, "_masking", pytest.fail)
    assert libcrypto.load(translate_in_place) is None


@pytest.mark.parametrize("missing", ["ctypes", "_hashlib"])
def test_without_what_it_needs_there_is_none(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert libcrypto.load(translate_in_place) is None


@needs_libcrypto
def test_an_audit_hook_may_refuse_it():
    program = """
import sys
def refuse(event, arguments):
    if event.startswith("ctypes."):
        raise RuntimeError("no foreign functions")
sys.addaudithook(refuse)
from wsmini.sansio import frames
from wsmini.sansio import libcrypto
assert libcrypto.load(frames.translate_in_place) is None
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@needs_libcrypto
@pytest.mark.parametrize("error", [TimeoutError, ImportError, RuntimeError])
@pytest.mark.parametrize("attempt, refused", [(1, False), (1, True), (2, True)])
def test_what_a_signal_handler_raises_reaches_the_program(monkeypatch, error, attempt, refused):
    """Also where it comes in front of, or behind, what is missing, which is of another kind."""
    attempts = []

    def interrupted(masking=libcrypto._masking):
        attempts.append(attempt)
        if len(attempts) == attempt:
            raise error("a handler's")
        if refused:
            raise AttributeError("CRYPTO_memcmp")
        return masking()

    monkeypatch.setattr(libcrypto, "_masking", interrupted)
    with pytest.raises(error, match="a handler's") as raised:
        libcrypto.load(translate_in_place)
    assert raised.value.__context__ is None
    assert (libcrypto.load(translate_in_place) is None) is refused


@pytest.mark.skipif(not TRIED, reason="it isn't tried here")
def test_failures_that_are_all_different_are_the_program_s(monkeypatch):
    failures = [TimeoutError("first"), KeyError("second"), RuntimeError("third")]

    def fail():
        raise failures.pop(0)

    monkeypatch.setattr(libcrypto, "_masking", fail)
    with pytest.raises(TimeoutError, match="first"):
        libcrypto.load(translate_in_place)
    assert not failures


def test_a_refusal_keeps_nothing_of_its_callers_alive(monkeypatch):
    class Message:
        pass

    def send(message):
        assert libcrypto.load(translate_in_place) is None

    def refuse():
        raise PermissionError("no foreign functions")

    monkeypatch.setattr(libcrypto, "_masking", refuse)
    message = Message()
    gone = weakref.ref(message)
    gc.disable()
    try:
        send(message)
        del message
        assert gone() is None or sys.implementation.name != "cpython"
    finally:
        gc.enable()


@pytest.mark.skipif(EMSCRIPTEN, reason="no processes")
def test_only_a_program_that_masks_megabytes_loads_it():
    program = f"""
import sys
from wsmini.sansio import frames
frames.masked(0x82, bytes(100000))
assert "ctypes" not in sys.modules
data = bytes(300000)
for _ in range(20):
    pieces = list(frames.masked_pieces(0x82, data))
    key = pieces[0][10:14]
    assert b"".join(pieces)[14:] == key * 75000
assert ("ctypes" in sys.modules) is {EXPORTED}
assert (frames._mask_in_place is frames.translate_in_place) is not {EXPORTED}
"""
    environment = {k: v for k, v in os.environ.items() if k != "WSMINI_NO_CTYPES"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, env=environment)
