"""Cookies of the handshake, with an ``http.cookiejar.CookieJar`` of the user's.

A cookie jar was made for ``urllib.request``. These two classes have of its requests and responses
what a jar asks for, so that ``urllib`` itself isn't needed; the jar's policy decides the rest.

Jars keep whatever a server sets, without a limit. Here are those of browsers (RFC 6265, 6.1).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from http.cookiejar import Cookie, CookieJar

    from ..sansio.http11 import Headers
    from ..sansio.uri import URI


MAX_COOKIE = 4096  # bytes of a Set-Cookie header
MAX_COOKIES = 180  # kept of a domain
MAX_SENT = 16384  # bytes of a Cookie header


class _Request:
    """A request as a jar sees it: that of an HTTP URL, after a redirect from *home* maybe."""

    def __init__(self, uri: URI, home: URI) -> None:
        self.type = "https" if uri.secure else "http"
        self.host = uri.authority
        # RFC 2965, 1 and 3.3.6: a policy may refuse the cookies of a host that isn't the URL's.
        self.origin_req_host = home.host
        self.unverifiable = uri.host != home.host
        self._url = f"{self.type}://{uri.authority}{uri.resource_name}"
        self.cookie: str | None = None

    def get_full_url(self) -> str:
        return self._url

    def has_header(self, name: str) -> bool:
        return False

    def get_header(self, name: str, default: str | None = None) -> str | None:
        return default

    def add_unredirected_header(self, name: str, value: str) -> None:
        if name.lower() == "cookie":  # the other one, Cookie2, has been obsolete since RFC 6265
            self.cookie = value


class _Response:
    """A response as a jar sees it, and its ``info()``: without cookies that break the rules."""

    def __init__(self, headers: Headers, host: str) -> None:
        self._headers, self._host = headers, host

    def info(self) -> _Response:
        return self

    def get_all(self, name: str, default: list[str] | None = None) -> list[str] | None:
        values = self._headers.get_all(name)
        return [value for value in values if _is_acceptable(value, self._host)] or default


def _is_acceptable(value: str, host: str) -> bool:
    """Whether *host* may set the cookie *value*, with its attributes."""
    if len(value.encode()) > MAX_COOKIE or "\t" in value:  # it separates the columns of jars' files
        return False
    if ":" in host or not host.rpartition(".")[2].isdigit():
        return True
    # An address is in no domain but itself, whatever it ends with (RFC 6265, 5.1.3).
    attributes = [part.partition("=") for part in value.split(";")[1:]]
    domains = [text.strip() for name, _, text in attributes if name.strip().lower() == "domain"]
    return all(domain.lstrip(".") in ("", host) for domain in domains)


def cookie_header(jar: CookieJar, uri: URI, home: URI) -> str | None:
    """The value of the ``Cookie`` header for a request of *uri*, ``None`` if there are none.

    *home* is the URL that the user asked for, from which redirects led to *uri*.
    """
    request = _Request(uri, home)
    jar.add_cookie_header(request)  # type: ignore[arg-type]  # it has all that is used
    data = (request.cookie or "").encode()
    if len(data) <= MAX_SENT:
        return request.cookie
    # Whole ones, those for the longest paths, which come first.
    return data[: max(0, data.rfind(b"; ", 0, MAX_SENT + 2))].decode() or None


def store_cookies(jar: CookieJar, uri: URI, home: URI, headers: Headers) -> None:
    """Put the cookies that a response to a request of *uri* sets into *jar*.

    Of a domain that has too many then, earlier ones go.
    """
    response = _Response(headers, uri.host)
    # Other connections may share the jar, which iterates without its own lock.
    with jar._cookies_lock:  # type: ignore[attr-defined]
        before = _by_domain(jar)
        jar.extract_cookies(response, _Request(uri, home))  # type: ignore[arg-type]
        for domain, cookies in _by_domain(jar).items():
            earlier = set(map(id, before.get(domain, ())))
            # Only a domain that has got a cookie now can have too many now.
            if len(cookies) > len(earlier):
                # Stable: the earlier ones come first, in their order, and so are the first to go.
                cookies.sort(key=lambda cookie: id(cookie) not in earlier)
                for cookie in cookies[:-MAX_COOKIES]:
                    jar.clear(domain, cookie.path, cookie.name)


def _by_domain(jar: CookieJar) -> dict[str, list[Cookie]]:
    found: dict[str, list[Cookie]] = {}
    for cookie in jar:
        found.setdefault(cookie.domain, []).append(cookie)
    return found
