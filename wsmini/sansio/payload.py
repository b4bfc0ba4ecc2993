"""Messages as programs have them, to and from the payloads of frames: the dispatch on their types.

``send()`` of each front end asks ``encode_whole`` first, and iterates with ``encode_message`` over
what that leaves: fragments, perhaps asynchronous ones.
"""

from __future__ import annotations

from .frames import Opcode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .frames import Data
    from .messages import Message


def encode_whole(message: object, text: bool | None) -> tuple[int, Data] | None:
    """The opcode and the payload for *message*; ``None`` if it is neither str nor bytes-like.

    Then it may be an iterable of fragments. The payload may be the caller's own buffer.

    Args:
        text: ``True`` or ``False`` to send as text or as binary whatever the type.

    Raises:
        ValueError: if ``text=True`` and the bytes aren't UTF-8, or a ``str`` has surrogates.
    """
    if isinstance(message, str):
        return (Opcode.BINARY if text is False else Opcode.TEXT), message.encode()
    if not isinstance(message, (bytes, bytearray)):
        try:
            view = memoryview(message)  # type: ignore[arg-type]  # of an array, say
        except TypeError:
            return None
        message = view.cast("B") if view.c_contiguous else view.tobytes()
    if text:
        bytes(message).decode()  # RFC 6455, 5.6; UnicodeDecodeError is a ValueError
    return (Opcode.TEXT if text else Opcode.BINARY), message


def encode_message(part: object, text: bool | None, first: int = 0) -> tuple[int, Data]:
    """The opcode and the payload for a fragment of a message.

    Args:
        part, text: as for ``encode_whole``.
        first: the opcode of the first fragment; 0 if this is it.

    Raises:
        TypeError: if *part* is neither str nor bytes-like, or isn't what the first one was.
        ValueError: as ``encode_whole``.
    """
    encoded = encode_whole(part, text)
    if encoded is None:
        raise TypeError(f"a fragment is str or bytes-like, not {type(part).__name__}")
    if first and encoded[0] != first:
        raise TypeError("the fragments of a message are all str or all bytes-like")
    return encoded


def decode_message(message: Message, decode: bool) -> Message:
    if decode:
        return message if isinstance(message, str) else message.decode()
    return message.encode() if isinstance(message, str) else message


def chunk_decoder(decode: bool | None) -> Callable[[Message, bool], Message]:
    """What turns the chunks of one message into the type that is asked for."""
    if not decode:
        return lambda chunk, fin: chunk if decode is None else decode_message(chunk, False)
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")()
    return lambda chunk, fin: chunk if isinstance(chunk, str) else decoder.decode(chunk, fin)
