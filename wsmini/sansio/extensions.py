"""Extensions: the base classes, the header, and the negotiation (RFC 6455, 9).

An extension is written as two small classes. The ``ExtensionOffer`` is what a program passes in
``extensions=``: it may serve any number of connections and keeps no state of them. When the server
has chosen it, ``accept()`` makes the ``Extension``, which belongs to one connection and sees each
data frame of it. Control frames are left as they are.

The order is that of the server's response: what is sent goes through the first extension first,
what is received through the last one first (RFC 6455, 9.1).
"""

from __future__ import annotations

from ..exceptions import InvalidHeader, NegotiationError
from .http11 import is_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

    from .frames import Frame

    Params = list[tuple[str, str | None]]

HEADER = "Sec-WebSocket-Extensions"

_SPACE = " \t"


class Extension:
    """One extension on one connection, as negotiated. Subclasses override what they change.

    Attributes:
        name: its registered name.
        rsv1, rsv2, rsv3: whether it claims that bit of the frame header (RFC 6455, 5.2). No two
            extensions of a connection can claim the same one.
        optional: whether a message may go out without it: ``send(compress=False)`` then skips
            ``encode`` for all frames of that message. Frames to ``decode`` come either way.
    """

    __slots__ = ()

    name = ""
    rsv1 = False
    rsv2 = False
    rsv3 = False
    optional = False

    def encode(self, frame: Frame) -> Frame:
        """The frame to send for the data frame *frame*; sets the bits it claims."""
        return frame

    def decode(self, frame: Frame, max_size: int | None = None) -> Frame:
        """The data frame that the peer encoded as *frame*; clears the bits it claims.

        Frames come whole and in order.

        Args:
            frame: as received, or as the extension behind this one decoded it.
            max_size: how many bytes the result may have, ``None`` for no limit. Stop before
                producing more, rather than checking afterwards.

        Raises:
            ProtocolError: if the frame can't be decoded. Anything else isn't taken for the peer's
                fault: it ends the connection, and the call that received raises it.
            PayloadTooBig: if the result exceeds *max_size*.
        """
        return frame


class ExtensionOffer:
    """An extension that a program offers to servers. Subclasses define all three names.

    Attributes:
        name: the registered name of the extension.
    """

    __slots__ = ()

    name = ""

    def offer(self) -> Params:
        """The parameters to offer: pairs of a name and a value, ``None`` for no value."""
        return []

    def accept(self, params: Params, accepted: list[Extension]) -> Extension:
        """The extension for one connection, as the server's response wants it.

        Args:
            params: the parameters of the response, in order, as sent; names may be repeated.
            accepted: the extensions in front of this one in the response.

        Raises:
            NegotiationError: if the response doesn't answer this offer; ``refusal()`` makes it.
        """
        raise NotImplementedError(f"{type(self).__name__} doesn't define accept()")

    def refusal(self, params: Params, problem: str) -> NegotiationError:
        """The exception for a response with *params* that has this *problem*."""
        return NegotiationError(HEADER, _format(self.name, params), problem)


def parse_extensions(value: str) -> list[tuple[str, Params]]:
    """The extensions in a ``Sec-WebSocket-Extensions`` header: names with their parameters.

    Quoted values come without the quotes, which mean nothing (RFC 6455, 9.1). There may be white
    space between tokens and empty elements, as lists in HTTP/1.1 have them.

    Raises:
        InvalidHeader: if *value* breaks the grammar.
    """
    extensions: list[tuple[str, Params]] = []
    # Quoted values are tokens too, so commas and semicolons always separate.
    for element in value.split(","):
        name, *parts = element.split(";")
        name = name.strip(_SPACE)
        if name or parts:
            params = [_parse_param(part) for part in parts]
            # A name may be missing, and what _parse_param() refuses is empty: neither is a token.
            texts = [name, *(text for param in params for text in param if text is not None)]
            if not all(map(is_token, texts)):
                raise InvalidHeader(HEADER, value)
            extensions.append((name, params))
    return extensions


def _parse_param(text: str) -> tuple[str, str | None]:
    """The name and the value of a parameter; what is malformed in them makes no token of it."""
    name, equals, value = text.partition("=")
    value = value.strip(_SPACE)
    if value[:1] == value[-1:] == '"':
        # An empty part is a backslash that escapes nothing, or another one, which no token has.
        first, *escaped = value[1:-1].split("\\")
        value = first + "".join(escaped) if all(escaped) else ""
    return name.strip(_SPACE), value if equals else None


def _format(name: str, params: Params) -> str:
    return "; ".join([name, *(key if value is None else f"{key}={value}" for key, value in params)])


def format_extensions(extensions: Sequence[tuple[str, Params]]) -> str:
    """The value of a ``Sec-WebSocket-Extensions`` header, the inverse of ``parse_extensions``.

    Raises:
        ValueError: if a name or a value isn't a token (RFC 6455, 9.1).
    """
    for name, params in extensions:
        for key, value in [(name, None), *params]:
            if not is_token(key):
                raise ValueError(f"the name of an extension or parameter is a token, not {key!r}")
            if value is not None and not is_token(value):
                raise ValueError(f"the value of {key} is a token, not {value!r}")
    return ", ".join(_format(name, params) for name, params in extensions)


def negotiate(header_values: Sequence[str], offers: Sequence[ExtensionOffer]) -> list[Extension]:
    """The extensions that the server chose, in the order of its response (RFC 6455, 9.1).

    An extension may be offered more than once, with different parameters: the first offer that
    the response answers counts.

    Args:
        header_values: of the ``Sec-WebSocket-Extensions`` headers in the response, if any.
        offers: what was offered, in that order.

    Raises:
        InvalidHeader: if a header breaks the grammar.
        NegotiationError: if the server chose what wasn't offered, or chose it wrongly.
    """
    accepted: list[Extension] = []
    for header_value in header_values:
        for name, params in parse_extensions(header_value):
            extension = _accept(name, params, offers, accepted)
            # Here for all of them: accept() need not look at the others.
            problem = _conflict(extension, accepted)
            if problem:
                raise NegotiationError(HEADER, _format(name, params), problem)
            accepted.append(extension)
    return accepted


def _accept(
    name: str, params: Params, offers: Sequence[ExtensionOffer], accepted: list[Extension]
) -> Extension:
    """The extension of the first offer that accepts; else what the first one had against it."""
    # Offers of one name are alternatives, the preferred one first: its refusal tells most.
    refusals = []
    for offer in offers:
        if offer.name == name:
            try:
                return offer.accept(params, accepted)
            except NegotiationError as exc:
                refusals.append(exc)
    unknown = NegotiationError(HEADER, _format(name, params), "this extension wasn't offered")
    raise refusals[0] if refusals else unknown


def _conflict(extension: Extension, accepted: list[Extension]) -> str:
    """Why *extension* can't be used behind those *accepted*, or an empty string."""
    for other in accepted:
        if other.name == extension.name:
            return "the server chose this extension twice"
        for bit in ("rsv1", "rsv2", "rsv3"):
            if getattr(other, bit) and getattr(extension, bit):
                return f"{bit.upper()} is already in use by {other.name}"
    return ""
