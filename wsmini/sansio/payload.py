"""Between what a program sends or receives and the payloads of messages."""

from __future__ import annotations

from .frames import Opcode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .frames import Data
    from .messages import Message


def encode_message(message: object, text: bool | None) -> tuple[int, Data]:
    """The opcode and the payload for a message or a fragment."""
    if isinstance(message, str):
        return (Opcode.BINARY if text is False else Opcode.TEXT), message.encode()
    if not isinstance(message, (bytes, bytearray)):
        try:
            view = memoryview(message)  # type: ignore[arg-type]
        except TypeError:
            name = type(message).__name__
            raise TypeError(f"a fragment is str or bytes-like, not {name}") from None
        message = view.cast("B") if view.c_contiguous else view.tobytes()
    if text:
        bytes(message).decode()  # RFC 6455, 5.6; UnicodeDecodeError is a ValueError
    return (Opcode.TEXT if text else Opcode.BINARY), message


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
