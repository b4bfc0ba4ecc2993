"""Cookies of the handshake, with an ``http.cookiejar.CookieJar`` of the user's.

A cookie jar was made for ``urllib.request``. These two classes have of its requests and responses
what a jar asks for, so that ``urllib`` itself isn't needed; the jar's policy decides the rest.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from http.cookiejar import CookieJar

    from ..sansio.http11 import Headers
    from ..sansio.uri import URI


class _Request:
    """A request as a jar sees it: that of an HTTP URL, after a redirect from *home* maybe."""

    def __init__(self, uri: URI, home: URI) -> None:
        self.type = "https" if uri.secure else "http"
        self.host = uri.authority
        # RFC 2965, 1 and 3.3.6: a policy may refuse the cookies of hosts that nobody asked for.
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
    """A response as a jar sees it, and its ``info()``."""

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def info(self) -> _Response:
        return self

    def get_all(self, name: str, default: list[str] | None = None) -> list[str] | None:
        return self._headers.get_all(name) or default


def cookie_header(jar: CookieJar, uri: URI, home: URI) -> str | None:
    """The value of the ``Cookie`` header for a request of *uri*, ``None`` if there are none.

    *home* is the URL that the user asked for, from which redirects led to *uri*.
    """
    request = _Request(uri, home)
    jar.add_cookie_header(request)  # type: ignore[arg-type]  # it has all that is used
    return request.cookie


def store_cookies(jar: CookieJar, uri: URI, home: URI, headers: Headers) -> None:
    """Put the cookies that a response to a request of *uri* sets into *jar*."""
    jar.extract_cookies(_Response(headers), _Request(uri, home))  # type: ignore[arg-type]
