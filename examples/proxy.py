"""Questions for a server behind an HTTP proxy that wants a user and a password.

    PROXY_USER=me PROXY_PASSWORD=secret \\
        python3 examples/proxy.py http://proxy.example:3128 wss://example.com/ask QUESTION...

Sends each question when the one before is answered, and prints the answers. Shows ``proxy=``, how
its failures are told from those of the server, and how to ask again what a lost connection has left
without an answer. The password comes from the environment, because everybody on the machine sees
command lines. Without ``proxy=``, wsmini does what ``https_proxy`` and the like say.

Exit status: 0 when all are answered; 1 when that can't be, and standard error says whether it is
because of the proxy. Ctrl-C and SIGTERM close with 1001, and then the program dies of them.
"""

from __future__ import annotations

import os
import sys
from urllib.parse import quote

import wsmini

ATTEMPTS = 5  # in a row, to connect again
PING = 20.0  # seconds: many proxies forget connections in which nothing happens for a minute


def note(text: str) -> None:
    print(f"proxy: {text}", file=sys.stderr, flush=True)


class Asker(wsmini.Client):
    def __init__(self, url: str, proxy: str, questions: list[str]) -> None:
        policy = wsmini.Backoff(attempts=ATTEMPTS)
        super().__init__(url, proxy=proxy, reconnect=policy, ping_interval=PING)
        self.questions = questions  # without an answer

    def on_open(self) -> None:
        self.send(self.questions[0])

    def on_message(self, message: str | bytes) -> None:
        if not self.questions:
            return  # nobody has asked for that
        print(message, flush=True)
        del self.questions[0]
        if self.questions:
            self.send(self.questions[0])
        else:
            self.close()

    def on_reconnect(self, attempt: int, delay: float, exception: Exception) -> None:
        note(f"connecting again in {delay:.1f} s: {exception}")


def with_credentials(proxy: str) -> str:
    """The proxy's URL with the user and the password of the environment."""
    user, password = os.environ.get("PROXY_USER"), os.environ.get("PROXY_PASSWORD", "")
    if user is None:
        return proxy
    scheme, _, host = proxy.rpartition("://")
    return f"{scheme or 'http'}://{quote(user, safe='')}:{quote(password, safe='')}@{host}"


def reason(exc: Exception) -> str:
    """What has failed, for people."""
    if isinstance(exc, wsmini.InvalidProxyStatus) and exc.response.status_code == 407:
        return f"the proxy wants another PROXY_USER or PROXY_PASSWORD: {exc}"
    if getattr(exc, "phase", "") == "proxy":
        return f"the proxy doesn't let us through: {exc}"
    return str(exc)


def main() -> int:
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        client = Asker(sys.argv[2], with_credentials(sys.argv[1]), sys.argv[3:])
        return client.run_forever()
    except (OSError, ValueError, wsmini.WebSocketException) as exc:
        note(reason(exc))
        return 1


if __name__ == "__main__":
    wsmini.exit_with(main())
