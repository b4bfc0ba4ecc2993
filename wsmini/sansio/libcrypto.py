"""Masking large payloads by OpenSSL's libcrypto, which Python's ``hashlib`` is linked with.

Nothing in the standard library XORs two buffers at the speed of memory, and a mask is just that
(RFC 6455, 5.3). Output feedback mode (NIST SP 800-38A, 6.4) is that too: it encrypts a block again
and again, and XORs the data with what comes out. With a cipher that changes nothing, each time the
same block comes out: the masking key, four times. libcrypto exports the mode for ciphers of the
caller's, and as the cipher it gets a function that only reads: ``CRYPTO_memcmp`` of no bytes.

It is called with ``ctypes``, and has to prove itself before it is used. Where anything is missing
(another interpreter or system, a libcrypto within Python that exports nothing, no ``ctypes``, an
audit hook that refuses it), there is no harm: payloads are translated as ever, see frames.py.
``WSMINI_NO_CTYPES=1`` in the environment keeps to that too.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    Mask = Callable[[bytearray, int, bytes], None]


def load(proven: Mask) -> Mask | None:
    """A function that masks in place what is behind a position; None if there can't be one.

    Args:
        proven: a function that does the same, to compare with.

    Raises:
        Exception: what a signal handler raises meanwhile.
    """
    if not _may_have_it() or os.environ.get("WSMINI_NO_CTYPES"):
        return None
    # What ctypes, the loader or an audit hook has against it, it has again; a signal handler's
    # exception, which is the program's, comes once: of three attempts, it is in one.
    failures: list[Exception] = []
    try:
        for _ in range(3):
            try:
                found = _proved(proven)
            except Exception as exc:
                again = [each for each in failures if type(each) is type(exc)]
                if again:  # the refusal; another failure is a handler's
                    failures.remove(again.pop())
                    break
                failures.append(exc)
            else:
                if not failures:
                    return found
                break
        if failures:
            raise failures[0]
        return None
    finally:
        del failures  # whose tracebacks have this frame, and those of whoever sends


def _may_have_it() -> bool:
    """Whether a call with the wrong type of function would do no harm, as far as can be told.

    WebAssembly checks types when it calls; of what is left, this was tried on POSIX only.
    """
    return (
        sys.implementation.name == "cpython"
        and os.name == "posix"
        and sys.platform not in ("emscripten", "wasi")
    )


def _masking() -> Mask:
    import _hashlib
    import ctypes

    # The symbols of what the module was linked with are found through it: the very libcrypto that
    # this process has. PyDLL keeps the GIL: a piece takes less time than giving it away does.
    library = ctypes.PyDLL(_hashlib.__file__)
    output_feedback = library.CRYPTO_ofb128_encrypt
    no_cipher = ctypes.cast(library.CRYPTO_memcmp, ctypes.c_void_p)
    output_feedback.restype = None
    pointer = ctypes.c_void_p
    output_feedback.argtypes = (
        pointer, pointer, ctypes.c_size_t, pointer, ctypes.c_char_p, pointer, pointer,
    )  # fmt: skip
    position, reference = ctypes.c_char.from_buffer, ctypes.byref
    integer = ctypes.c_int

    def mask_in_place(data: bytearray, start: int, key: bytes) -> None:
        n = len(data) - start
        if n <= 0:
            return
        # The reference holds the buffer until the call returns: no other thread can resize it.
        where = reference(position(data, start))
        # For memcmp, the cipher's key is the number of bytes to read: None, which is 0. The integer
        # is where in the block to begin.
        output_feedback(where, where, n, None, key * 4, reference(integer(0)), no_cipher)

    return mask_in_place


def _proved(proven: Mask) -> Mask | None:
    found = _masking()
    agreed = all(_agree(found, proven, n) for n in (0, 1, 7, 15, 16, 17, 100, 4099))
    return found if agreed else None


def _agree(found: Mask, proven: Mask, n: int) -> bool:
    """Whether both do the same with *n* bytes, and neither touches those in front of them."""
    results = []
    for mask in (found, proven):
        data = bytearray(b"header" + bytes(range(256)) * (n // 256 + 1))[: 6 + n]
        mask(data, 6, b"\x01\x80\x7f\xff")
        results.append(data)
    return results[0] == results[1]
