"""The file of ``--record``: what went through the connections, as lines of JSON."""

from __future__ import annotations

from ..sansio.redaction import redacted_header
from .formats import as_json, record
from .output import open_private, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator

    from ..blocking.connection import Connection


class Recorder:
    """The file of ``--record``: a line of JSON for each event; nothing without a file.

    Each line is written at once, by whichever thread has it: appending keeps lines whole.
    """

    def __init__(self, path: str | None) -> None:
        self.file = None if path is None else open_private(path, truncate=True)

    def end(self) -> None:
        """Close the file; what comes later isn't recorded."""
        file, self.file = self.file, None
        if file is not None:
            file.close()

    def write(self, fields: dict[str, object]) -> None:
        """Write *fields* as one line; end() may come meanwhile, in another thread."""
        file = self.file  # looked at once: None would mean standard output to write()
        if file is None:
            return
        try:
            write(as_json(fields) + b"\n", file)
        except ValueError:
            if not file.closed:
                raise

    def open(self, ws: Connection) -> None:
        """Record the handshake, without its secrets."""
        if self.file is not None:
            headers = ws.response_headers.items()
            shown = [[name, redacted_header(name, value)] for name, value in headers]
            # Not the URL: tokens are in queries, and paths hold names.
            self.write({"type": "open", "subprotocol": ws.subprotocol, "headers": shown})

    def message(self, direction: str, message: str | bytes) -> None:
        if self.file is not None:
            self.write(record(direction, message))

    def parts(self, parts: Iterable[str | bytes]) -> Iterator[str | bytes]:
        """Pass on the *parts* of a message to send; to be recorded, it has to fit into memory."""
        kept = []
        for part in parts:
            if self.file is not None:
                kept.append(part)
            yield part
        # One record for the whole message: behind what was received while it was sent.
        if kept:
            first = kept[0]
            whole = "".join(kept) if isinstance(first, str) else b"".join(kept)  # type: ignore
            self.message("sent", whole)
