"""A feed into a file, with asyncio: one task receives, another one stores.

    python3 examples/asyncio_feed.py wss://example.com/feed FILE

Shows ``wsmini.aio`` with ``async for`` over connections. Between the tasks is a queue with a limit:
when the disk is slower than the server, the queue is full, reading stops, and the server has to
wait. At the end, all that was received is stored.

Exit status: 1 when it is of no use to connect again, or the file can't be written, and standard
error says why. Ctrl-C and SIGTERM close with 1001, and then the program dies of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from typing import IO

import wsmini
from wsmini.aio import connect

WAITING = 1000  # messages between the tasks
CLOSE = 0.5  # seconds for the server to answer when we close: who sends SIGTERM won't wait long

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Queue = asyncio.Queue[Union[str, bytes, None]]  # None is the end


def note(text: str) -> None:
    print(f"asyncio_feed: {text}", file=sys.stderr, flush=True)


def report(attempt: int, delay: float, failure: Exception) -> None:
    note(f"connecting again in {delay:.1f} s: {failure}")


async def receive(url: str, queue: Queue) -> None:
    async for ws in connect(url, on_reconnect=report, close_timeout=CLOSE):
        try:
            async with ws:  # closes with 1001 when the task is cancelled
                async for message in ws:
                    await queue.put(message)
        except wsmini.ConnectionClosed:
            pass


async def store(queue: Queue, file: IO[str]) -> None:
    """Write what has come, as much as there is at a time, in a thread."""
    loop = asyncio.get_running_loop()
    over = False
    while not over:
        batch = [await queue.get()]
        while not queue.empty():
            batch.append(queue.get_nowait())
        over = batch[-1] is None
        lines = "".join(line(message) for message in batch if message is not None)
        await loop.run_in_executor(None, write, file, lines)


def line(message: str | bytes) -> str:
    """A message as a line of JSON: text as it is, bytes in hex."""
    return json.dumps(message if isinstance(message, str) else {"hex": message.hex()}) + "\n"


def write(file: IO[str], lines: str) -> None:
    file.write(lines)
    file.flush()


async def run(url: str, file: IO[str]) -> int:
    status = 0

    def stop(number: int) -> None:
        nonlocal status
        status = 128 + number
        receiver.cancel()

    queue: Queue = asyncio.Queue(WAITING)
    receiver = asyncio.ensure_future(receive(url, queue))
    writer = asyncio.ensure_future(store(queue, file))
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows
            asyncio.get_running_loop().add_signal_handler(number, stop, number)

    await asyncio.wait({receiver, writer}, return_when=asyncio.FIRST_COMPLETED)
    receiver.cancel()  # if the writer has failed
    await asyncio.wait({receiver})
    end = asyncio.ensure_future(queue.put(None))
    await asyncio.wait({end, writer}, return_when=asyncio.FIRST_COMPLETED)
    end.cancel()  # if the writer has failed, and the queue is full
    await writer
    if not receiver.cancelled():
        receiver.result()  # raises what it has given up for
    return status


def main() -> int:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        with open(sys.argv[2], "a", encoding="utf-8") as file:
            return asyncio.run(run(sys.argv[1], file))
    except (OSError, ValueError, wsmini.WebSocketException) as exc:
        note(str(exc))
        return 1


if __name__ == "__main__":
    wsmini.exit_with(main())
