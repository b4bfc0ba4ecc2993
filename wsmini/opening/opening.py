"""The opening: everything between a URL and an open connection, in one generator.

``Opening(options).steps()`` never blocks. It yields what it waits for (``steps.Wait``), under one
deadline for all of it, and is resumed with the sockets that are ready. Every front end drives this
generator; none has a second copy of what it does::

    ┌─▶ dns ──▶ tcp ──▶ (proxy) ──▶ (tls) ──▶ upgrade ──▶ Opened
    └──── another round: a redirect, 401, or 407 of the proxy ┘

A round opens a connection of its own; that always works, where keeping the last one would depend
on how the server framed its refusal. What belongs to the user (credentials, cookies, additional
headers) goes to the URL's own origin only.

Closing the generator at any point closes the socket, ``sock=`` too, which belongs to the opening
from the first step on. One thread drives it, and is alone with the socket until it is done.
"""

from __future__ import annotations

import errno
import socket
import time
from itertools import chain

from ..exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidRedirect,
    InvalidStatus,
    InvalidURI,
    TooManyRedirects,
    failure_context,
)
from ..info import address_of
from ..interrupts import MarkFailures, is_from_handler, mark_failure
from ..options import Options, ssl_problem
from ..sansio.handshake import build_request, check_response, make_key
from ..sansio.redaction import redacted_header, redacted_uri
from ..sansio.response import ResponseParser
from ..sansio.uri import URI, DestinationRefused, Proxy, join, shown_address
from .exchange import ask, receive_body
from .proxy import asks_system, choose_proxy, connect_http, connect_socks, proxy_variable
from .resolver import in_thread, resolve
from .steps import Expired, Wait
from .streams import SocketStream, Stream
from .tcp import configure, connect_tcp, interleaved

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any, Iterable, Sequence, TypeVar

    from ..sansio.auth import Authenticator, Credentials
    from ..sansio.extensions import Extension
    from ..sansio.http11 import Headers, Request, Response
    from .hints import Situation
    from .resolver import Address
    from .steps import Steps
    from .tls import TLSStream

    T = TypeVar("T")
    Pair = tuple[str, str | None]

REDIRECTS = (301, 302, 303, 307, 308)
MAX_PROXY_ATTEMPTS = 4  # addresses that a SOCKS proxy is asked for, if we look the name up


class Opened:
    """The result of an opening: an open connection.

    Attributes:
        stream: the ``streams.SocketStream`` or ``tls.TLSStream``, which the connection owns now.
        rest: the bytes that came behind the response's head.
        request, response: of the handshake.
        extensions: those negotiated, in the order of the response.
        subprotocol: the one that the server chose, or ``None``.
        timings: seconds that each phase took, by its name.
        ssl_object: of TLS with the server, not of that with a proxy; ``None`` if there is none.
    """

    __slots__ = (
        "_phases", "extensions", "request", "response", "rest", "ssl_object", "stream",
        "subprotocol",
    )  # fmt: skip

    def __init__(
        self,
        stream: Stream,
        rest: bytes,
        request: Request,
        response: Response,
        extensions: Sequence[Extension],
        subprotocol: str | None,
        timings: dict[str, float],
        ssl_object: ssl.SSLObject | None = None,
    ) -> None:
        self.stream, self.rest = stream, rest
        self.request, self.response = request, response
        self.extensions, self.subprotocol = extensions or (), subprotocol
        # A dictionary would take twice the memory, of each idle connection.
        self._phases: Sequence[Any] = tuple(chain(*timings.items()))
        self.ssl_object = ssl_object

    @property
    def timings(self) -> dict[str, float]:
        return dict(zip(self._phases[::2], self._phases[1::2]))


class Journal:
    """The phases of an opening: the present one, how long each took; told to trace and logger."""

    def __init__(self, options: Options) -> None:
        self._trace, self._logger = options.trace, options.logger
        # Without one of them, no note needs to be made up.
        self.wants_notes = self._trace is not None or self._logger is not None
        self.started = self._phase_started = time.monotonic()
        self.phase, self.address = "dns", options.uri.authority
        self.timings: dict[str, float] = {}

    def enter(self, phase: str, address: str | None = None) -> None:
        """End the present phase and begin *phase*; *address* is where to, if that changes."""
        now = time.monotonic()
        self.timings[self.phase] = self.timings.get(self.phase, 0.0) + now - self._phase_started
        self.phase, self._phase_started = phase, now
        if address is not None:
            self.address = address

    def note(self, event: str, **data: object) -> None:
        """Tell ``trace`` and ``logger``, if there are any, of *event*; secrets are the caller's."""
        if not self.wants_notes:
            return
        elapsed = time.monotonic() - self.started
        record = {"time": elapsed, "phase": self.phase, "event": event, **data}
        with MarkFailures():
            if self._logger is not None:
                self._logger.debug("%.3f s, %s: %s %r", elapsed, self.phase, event, data)
            if self._trace is not None:
                self._trace(record)

    def explain(self, exc: OSError | InvalidHandshake, situation: Situation) -> None:
        """Make *exc* say where and when it happened, and what to try in this *situation*."""
        from .hints import hint  # needed on failure only

        elapsed = time.monotonic() - self.started
        facts = (self.phase, self.address, elapsed, hint(exc, self.phase, situation))
        exc.phase, exc.address, exc.elapsed, exc.hint = facts  # type: ignore[union-attr]
        if isinstance(exc, OSError):
            if exc.strerror is not None:
                exc.strerror = f"{exc.strerror}{failure_context(*facts)}"
            else:
                text = exc.args[0] if exc.args else type(exc).__name__
                exc.args = (f"{text}{failure_context(*facts)}", *exc.args[1:])
        self.note("failed", error=type(exc).__name__, message=str(exc), hint=facts[3])


class Opening:
    """One attempt to open a connection, with all the rounds that the server asks for.

    Args:
        given: the pairs of ``additional_headers``, where *options* shan't be asked for them.
    """

    def __init__(self, options: Options, given: Sequence[Pair] | None = None) -> None:
        self.options, self._user_headers = options, given
        self._home = options.uri.origin
        self._visited = [options.uri]
        # Where in _visited the last credentials came: a URL from before is another request now.
        self._since = 0
        self._authenticators: dict[object, Authenticator] = {}
        self._stream: Stream | None = None  # of this round, closed unless it opens a connection
        self._tls: list[TLSStream] = []  # of this round
        self._authorization: str | None = None  # what a challenge has led to
        # steps() begins another one, which counts the time from the first step.
        self._journal = Journal(options)

    def steps(self) -> Steps[Opened]:
        """The opening, step by step.

        Raises:
            OSError: if the network or TLS fails.
            TimeoutError: if ``open_timeout`` is over; it names the phase.
            InvalidHandshake: if the answer of the server or the proxy can't be accepted.
            Exception: what a callable raises that was passed as ``additional_headers``.
        """
        if self._user_headers is None:
            with MarkFailures():
                self._user_headers = self.options.headers()
        self._journal = Journal(self.options)
        try:
            opened = yield from self._in_time(self._open())
        # Whatever ends it, the closing of this generator, too.
        except BaseException as exc:
            self._close()
            if isinstance(exc, (OSError, InvalidHandshake)) and not is_from_handler(exc):
                self._journal.explain(exc, self._situation())
            raise
        self._stream = None  # which the caller owns now
        return opened

    def _owned(self, stream: Stream) -> Stream:
        """*stream*, which ``_close`` closes from here on, in the place of one below it."""
        self._stream = stream
        return stream

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _situation(self) -> Situation:
        """The evidence for hints, beside the exception."""
        from .hints import Situation  # needed on failure only

        uri = self._visited[-1]
        dropped: list[str] = []
        if uri.origin != self._home:
            dropped += [name for name, value in self._user_headers or () if value is not None]
            if self.options.auth is not None or self._visited[0].username is not None:
                dropped.append("Authorization")
        through_proxy = self._journal.address.startswith("proxy ")
        from_environment = self.options.proxy is True and through_proxy
        return Situation(
            uri.secure,
            uri.authority if len(self._visited) > 1 else "",
            dropped,
            proxy_variable(uri)[0] if from_environment else "",
        )

    def _in_time(self, steps: Steps[T]) -> Steps[T]:
        """*steps*, with every wait bounded by the deadline of the whole."""
        timeout = self.options.open_timeout
        deadline = None if timeout is None else self._journal.started + timeout
        # Every wait passes through here on its way to the driver, so that one deadline holds for
        # name resolution, proxies, TLS and redirects alike, whatever they ask for themselves.
        try:
            wanted = next(steps)
            while True:
                until = wanted.deadline
                if until is None or (deadline is not None and deadline < until):
                    until = deadline
                ready = yield Wait(wanted.sockets, until)
                if deadline is None or time.monotonic() < deadline:
                    wanted = steps.send(ready)
                # Even if there is something to read: a server may send without end. receive_body()
                # catches this, and makes do with what it has.
                else:
                    wanted = steps.throw(Expired())
        except StopIteration as stop:
            result: T = stop.value
        except Expired:
            raise mark_failure(TimeoutError(f"not open after {timeout} s")) from None
        finally:
            steps.close()
        return result

    def _open(self) -> Steps[Opened]:
        """Round after round, until one opens the connection."""
        while True:
            uri = self._visited[-1]
            self._close()
            self._tls.clear()
            try:
                stream = yield from self._connect(uri)
                opened = yield from self._upgrade(stream, uri)
            except (OSError, InvalidMessage) as exc:
                if self._goes_without_resumption(exc):
                    continue
                raise
            if opened is not None:
                self._journal.note("open", timings=opened.timings)
                return opened
            self._journal.enter("dns")

    def _goes_without_resumption(self, exc: OSError | InvalidMessage) -> bool:
        """Whether *exc* may come of resuming a TLS session, and another round will not do that."""
        # A signal handler's exception has no number; behind a timeout there is no time left.
        if isinstance(exc, OSError):
            may_be = exc.errno is not None and not isinstance(exc, TimeoutError)
        else:
            may_be = exc.hung_up
        if not may_be or self.options.sock is not None:
            return False
        # All streams of the round: an https proxy may be at fault as well as the server. Where no
        # session was resumed, the failure is a real one.
        refused = [stream.refuse_resumption() for stream in self._tls]
        if any(refused):
            self._journal.note("resumption failed", error=type(exc).__name__, message=str(exc))
            self._journal.enter("dns")
        return any(refused)

    # -- to the server --

    def _connect(self, uri: URI) -> Steps[Stream]:
        """A stream to the server of *uri*."""
        options = self.options
        # host=, port=, unix_path= and server_hostname= say how to reach the server of our own URL.
        # Another origin, where a redirect leads, is reached as its URL says.
        is_home = uri.origin == self._home
        if options.sock is not None:
            stream = self._adopt(options.sock, uri)
        elif is_home and options.unix_path is not None:
            stream = yield from self._connect_unix(options.unix_path)
        elif is_home:
            stream = yield from self._reach(uri, options.host or uri.host, options.port or uri.port)
        else:
            stream = yield from self._reach(uri, uri.host, uri.port)
        if uri.secure:
            self._journal.enter("tls")
            name = options.server_hostname if is_home else None
            stream = yield from self._start_tls(stream, options.ssl, name or uri.host, uri.port)
        return stream

    def _adopt(self, sock: socket.socket, uri: URI) -> Stream:
        self._journal.enter("tcp", f"{uri.authority} over sock=")
        stream = self._owned(SocketStream(sock))
        sock.setblocking(False)
        configure(sock, self.options.socket_options)
        return stream

    def _reach(self, uri: URI, host: str, port: int) -> Steps[Stream]:
        """A stream to *host*, directly or through a proxy."""
        shown = shown_address((host, port))
        proxy = yield from self._proxy_for(uri._replace(host=host, port=port))
        if proxy is None:
            return (yield from self._connect_tcp(host, port, shown))
        self._journal.note("proxy", proxy=str(proxy))
        if proxy.scheme in ("http", "https"):
            stream = yield from self._connect_http(proxy, host, port)
        else:
            stream = yield from self._connect_socks(proxy, host, port)
        self._journal.address = shown
        return stream

    def _connect_tcp(self, host: str, port: int, shown: str) -> Steps[Stream]:
        """A stream to *host*, which is called *shown* if that fails."""
        options, journal = self.options, self._journal
        addresses = yield from self._resolve(host, port, shown)
        journal.enter("tcp")
        sock = yield from connect_tcp(
            addresses, options.happy_eyeballs_delay, options.source_address, options.socket_options
        )
        stream = self._owned(SocketStream(sock))
        if journal.wants_notes:
            address = address_of(sock.getpeername)
            journal.note("connected", address=shown_address(address) if address else "")
        return stream

    def _connect_unix(self, path: str) -> Steps[Stream]:
        self._journal.enter("tcp", path)
        family = getattr(socket, "AF_UNIX", None)
        if family is None:
            raise OSError(errno.EAFNOSUPPORT, "this platform has no Unix sockets")
        address = (family, socket.SOCK_STREAM, 0, "", path)
        sock = yield from connect_tcp([address], options=self.options.socket_options)
        return self._owned(SocketStream(sock))

    def _resolve(self, host: str, port: int, shown: str) -> Steps[Sequence[Address]]:
        self._journal.enter("dns", shown)
        addresses = yield from resolve(host, port, self.options.family)
        if self._journal.wants_notes:
            self._journal.note("resolved", addresses=[shown_address(a[4]) for a in addresses])
        return addresses

    def _start_tls(
        self, stream: Stream, context: ssl.SSLContext | None, name: str, port: int
    ) -> Steps[Stream]:
        """TLS over *stream*."""
        # ssl is large, and ws:// doesn't need it.
        from .tls import TLSStream
        from .tls_context import default_context

        context = context or default_context()
        resumption = self.options.tls_resumption
        # The zone of an IPv6 address is in no certificate.
        secure = TLSStream(stream, context, name.partition("%")[0], port, resumption)
        self._tls.append(secure)
        yield from secure.handshake()
        if secure.ssl_object.selected_alpn_protocol() == "h2":
            raise InvalidMessage(
                "the server has chosen HTTP/2, which the context offers by ALPN: leave h2 out"
            )
        if self._journal.wants_notes:
            self._journal.note("secured", server_hostname=name, **secure.details())
        return self._owned(secure)

    # -- through a proxy --

    def _proxy_for(self, uri: URI) -> Steps[Proxy | None]:
        proxy = self.options.fixed_proxy
        if self.options.proxy is True and asks_system():
            # Which may look names up, to see whether they are excepted.
            proxy = yield from in_thread(lambda: choose_proxy(uri))
        elif self.options.proxy is True:
            proxy = choose_proxy(uri)
        problem = ssl_problem() if proxy is not None and proxy.scheme == "https" else ""
        if problem:
            raise InvalidProxy(str(proxy), problem)
        return proxy

    def _connect_socks(self, proxy: Proxy, host: str, port: int) -> Steps[Stream]:
        """A stream to *host* through a SOCKS proxy; a connection to that for each attempt."""
        destinations = yield from self._destinations(proxy, host, port)
        while True:
            destination = destinations.pop(0)
            stream = yield from self._connect_to_proxy(proxy)
            try:
                yield from connect_socks(stream, proxy, host, port, destination)
                return stream
            except DestinationRefused:
                if not destinations:
                    raise

    def _destinations(self, proxy: Proxy, host: str, port: int) -> Steps[list[Address | None]]:
        """The addresses to ask a SOCKS proxy for, in turn; ``None`` asks for the name."""
        if proxy.resolves_names:
            return [None]
        found = interleaved((yield from self._resolve(host, port, shown_address((host, port)))))
        # If it has IPv6 addresses only, connect_socks4() says so.
        if proxy.scheme == "socks4":
            found = [a for a in found if a[0] == socket.AF_INET] or found
        return list(found[:MAX_PROXY_ATTEMPTS])

    def _connect_to_proxy(self, proxy: Proxy) -> Steps[Stream]:
        options = self.options
        # After a refusal, the last one is of no use: SOCKS has one destination for each connection,
        # and an HTTP proxy may close it behind its 407, or send a body of unknown length.
        self._close()
        # From here on until the tunnel stands, the journal's address begins with "proxy": a failure
        # in between is the proxy's, see _situation.
        stream = yield from self._connect_tcp(proxy.host, proxy.port, f"proxy {proxy}")
        self._journal.enter("proxy")
        if proxy.scheme == "https":
            name = options.proxy_server_hostname or proxy.host
            stream = yield from self._start_tls(stream, options.proxy_ssl, name, proxy.port)
        return stream

    def _connect_http(self, proxy: Proxy, host: str, port: int) -> Steps[Stream]:
        target = shown_address((host, port))
        authenticator = self._authenticator(proxy, _user(proxy), proxy=True, preemptive=True)
        agent = self.options.user_agent_header
        authorization = authenticator.first("CONNECT", target) if authenticator else None
        while True:
            given = ("User-Agent", agent), ("Proxy-Authorization", authorization)
            headers = [(name, value) for name, value in given if value is not None]
            stream = yield from self._connect_to_proxy(proxy)
            parser = ResponseParser(method="CONNECT")
            response = yield from connect_http(stream, parser, target, headers)
            if 200 <= response.status_code < 300:
                return stream
            self._note_response(response)
            authorization = _answer(authenticator, response, "CONNECT", target)
            if authorization is None:
                yield from receive_body(stream, parser)
                raise InvalidProxyStatus(response)

    # -- the upgrade --

    def _upgrade(self, stream: Stream, uri: URI) -> Steps[Opened | None]:
        """Ask for the upgrade; ``None`` if the answer asks for another round."""
        options, journal = self.options, self._journal
        journal.enter("upgrade")
        key = make_key()
        request = build_request(
            uri,
            key,
            origin=options.origin,
            user_agent=options.user_agent_header,
            subprotocols=options.subprotocols,
            offers=options.offers,
            additional=self._headers(uri),
        )
        if journal.wants_notes:
            target = redacted_uri(request.target)
            journal.note("request", target=target, headers=_shown(request.headers))
        parser = ResponseParser()
        response = yield from ask(stream, request.serialize(), parser)
        self._note_response(response)
        # Of a refusal, too: a redirect often sets the cookie that the next request needs.
        if options.cookies is not None:
            from .cookies import store_cookies  # only users of the option need it

            with MarkFailures():
                store_cookies(options.cookies, uri, self._visited[0], response.headers)
        if response.status_code != 101:
            if self._prepares_another_round(uri, response):
                return None  # without its body, which may never end
            yield from receive_body(stream, parser)
        extensions, subprotocol = check_response(
            response, key, options.offers, options.subprotocols
        )
        journal.enter("done")
        return Opened(
            stream, parser.rest, request, response, extensions, subprotocol, journal.timings,
            getattr(stream, "ssl_object", None) if uri.secure else None,
        )  # fmt: skip

    def _given(self, uri: URI) -> Sequence[Pair]:
        """The user's headers for the server of *uri*; what is removed is so everywhere."""
        given = self._user_headers or ()
        if uri.origin == self._home:
            return given
        return [(name, value) for name, value in given if value is None]

    def _headers(self, uri: URI) -> list[Pair]:
        """The user's headers, credentials and cookies, for a request of *uri*."""
        # A header of the user wins over one that is made up here: there is never a second one.
        headers = list(self._given(uri))
        if not _has(headers, "authorization"):
            # The answer to the challenge just received, else what can be known without one.
            authorization = self._authorization
            authenticator = self._server_authenticator(uri)
            if authorization is None and authenticator is not None:
                authorization = authenticator.first("GET", uri.resource_name)
            if authorization is not None:
                headers.append(("Authorization", authorization))
        if self.options.cookies is not None and not _has(headers, "cookie"):
            from .cookies import cookie_header

            with MarkFailures():
                cookie = cookie_header(self.options.cookies, uri, self._visited[0])
            if cookie is not None:
                headers.append(("Cookie", cookie))
        return headers

    def _server_authenticator(self, uri: URI) -> Authenticator | None:
        """The authenticator for the server of *uri*, if there are credentials for it."""
        if uri.origin == self._home:
            uri = self._visited[0]  # a redirect's user doesn't replace the one of our URL
            if self.options.auth is not None:
                return self._authenticator(uri.origin, self.options.auth)
        return self._authenticator(uri.origin, _user(uri), preemptive=True)

    def _authenticator(
        self, key: object, credentials: Credentials | None, **how: Any
    ) -> Authenticator | None:
        """The authenticator for *key*: one, made of the first *credentials* that there are."""
        made = self._authenticators
        if key not in made and credentials is not None:
            from ..sansio.auth import Authenticator  # only needed where there are credentials

            made[key] = Authenticator(credentials, **how)
        return made.get(key)

    def _prepares_another_round(self, uri: URI, response: Response) -> bool:
        """Whether the refusal asks for another round, which is prepared then."""
        # It was for this request: refused, it isn't sent again, nor to where a redirect leads.
        self._authorization = None
        # Another round needs another connection, which sock= doesn't give.
        if response.status_code == 401 and self.options.sock is None:
            given = _has(self._given(uri), "authorization")
            authenticator = None if given else self._server_authenticator(uri)
            self._authorization = _answer(authenticator, response, "GET", uri.resource_name)
            self._since = len(self._visited) - 1
            return self._authorization is not None
        if response.status_code in REDIRECTS and "Location" in response.headers:
            if self.options.max_redirects:
                self._redirect(uri, response)
                return True
        return False

    def _redirect(self, uri: URI, response: Response) -> None:
        target = self._target(uri, response)
        # The same request gets the same redirect again. But with cookies, which may have changed,
        # or with credentials since the last time, the same URL is another request.
        is_loop = target in self._visited[self._since :] and self.options.cookies is None
        self._visited.append(target)
        if is_loop or len(self._visited) > self.options.max_redirects + 1:
            visited = [str(uri) for uri in self._visited]
            raise TooManyRedirects(visited) from InvalidStatus(response)
        self._journal.note("redirect", location=str(target))

    def _target(self, uri: URI, response: Response) -> URI:
        """Where *response* redirects to."""
        location = response.headers["Location"]
        try:
            target = join(uri, location)
            self._server_authenticator(target)  # raises if its user can't be sent
        except InvalidURI as exc:
            problem = exc.problem
        except ValueError as exc:
            problem = str(exc)
        else:
            problem = self._obstacle(uri, target)
            if not problem:
                return target
        raise InvalidRedirect(redacted_uri(location), problem) from InvalidStatus(response)

    def _obstacle(self, uri: URI, target: URI) -> str:
        """Why a redirect to *target* isn't followed, if so."""
        if uri.secure and not target.secure:
            return "it leads from wss to ws, where nothing is encrypted"
        if self.options.sock is not None:
            return "it needs a connection of its own, and sock= gives just this one"
        return ssl_problem() if target.secure else ""

    def _note_response(self, response: Response) -> None:
        if self._journal.wants_notes:
            self._journal.note(
                "response",
                status_code=response.status_code,
                reason_phrase=response.reason_phrase,
                headers=_shown(response.headers),
            )


def _user(of: URI | Proxy) -> Credentials | None:
    """The user and the password in a URL."""
    return None if of.username is None else (of.username, of.password or "")


def _answer(
    authenticator: Authenticator | None, response: Response, method: str, target: str
) -> str | None:
    """The header for another attempt, if *response* is a challenge that can be answered."""
    if authenticator is None or response.status_code != authenticator.status:
        return None
    challenges = response.headers.get_all(authenticator.challenge_name)
    with MarkFailures():
        return authenticator.respond(challenges, method, target)


def _has(headers: Iterable[Pair], lower_name: str) -> bool:
    return any(name.lower() == lower_name for name, _ in headers)


def _shown(headers: Headers) -> list[tuple[str, str]]:
    return [(name, redacted_header(name, value)) for name, value in headers.items()]
