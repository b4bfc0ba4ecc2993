"""Redaction: what may be shown of URLs, headers and other texts, so that no secret gets into a log.

All that is meant for people goes through here: ``repr``, ``str``, exceptions, traces, logs, ``-v``
and ``--record``. Credentials are replaced by ``***``. The values of a query and of a fragment,
whatever their names, become tags, which tell feeds apart: ``/feed?symbol=…a3f2``. Paths are shown.
"""

from __future__ import annotations

import os

MAX_SHOWN = 120  # characters

# What makes a header secret: a word of its name, or a part of it.
_SECRET_WORDS = frozenset(
    "auth authentication authorization cookie cookie2 cookies jwt otp pin pwd sid sig".split()
)
_SECRET_PARTS = "token secret passw credential session signature".split()
_NO_SECRET = "sec-websocket-key"  # RFC 6455, 10.3
_WITH_URLS = frozenset("location content-location referer refresh link".split())

_SCHEME = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ+.-"
# An IPv6 address, perhaps with its zone, or a name; and a port.
_HOST = r"(?:\[[0-9A-Fa-f:.]+(?:%[\w%.-]*)?\]|[\w%.-]+)(?::[0-9]*)?"

_tag_key = ""


def shown(value: object) -> str:
    """``repr(value)``, cut to ``MAX_SHOWN``: what a peer sent must not flood a message."""
    text = repr(value if not isinstance(value, (str, bytes)) else value[: MAX_SHOWN + 1])
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def tag(value: str) -> str:
    """A short stand-in for a secret *value*: the same for the same value, within this process.

    It depends on a key that only the process knows, so nothing can be learned from it elsewhere.
    """
    global _tag_key
    _tag_key = _tag_key or os.urandom(16).hex()
    return f"…{hash(_tag_key + value) & 0xFFFF:04x}"


def redacted_header(name: str, value: str) -> str:
    """*value* of the header *name* as it may be shown: ``***`` for credentials and the like."""
    name = name.lower()
    if name in _WITH_URLS:
        return redacted_uri(value)
    is_secret = (
        not _SECRET_WORDS.isdisjoint(name.split("-"))
        or name.startswith("x-auth")
        or (name.endswith("key") and name != _NO_SECRET)
        or any(part in name for part in _SECRET_PARTS)
    )
    return "***" if is_secret else value


def redacted_uri(text: str) -> str:
    """*text*, a URL or the end of one, good or bad, as it may be shown.

    In a password, ``/``, ``?`` and ``#`` are easily left unescaped. So where a text with an ``@``
    doesn't read as a URL, all up to the last ``@`` may be secret.
    """
    front, sharp, fragment = text.partition("#")
    path, mark, query = front.partition("?")
    # An @ may end a userinfo, and whatever is in front of it may be a password. Without one, only
    # values have to be hidden.
    if "@" in text:
        scheme, slashes, rest = path.partition("//")
        is_absolute = slashes and (not scheme or scheme[-1] == ":" and is_scheme(scheme[:-1]))
        start = scheme + slashes if is_absolute else ""
        authority, slash, rest = rest.partition("/")
        _, at, host = authority.rpartition("@")
        if start and _is_host(host):
            path = start + ("***@" if at else "") + host + slash + rest
        elif path and (path[0] != "/" or path[1:2] in ("/", "\\")):
            hidden, _, rest = text.rpartition("@")
            # Behind a ? it may be the end of a value, as well as a host.
            is_value = "?" in hidden or "#" in hidden
            return start + ("***" if is_value else f"***@{redacted_uri(rest)}")
    return path + mark + redacted_query(query) + sharp + redacted_query(fragment)


def redacted_query(text: str) -> str:
    """A query or a fragment with a tag for each value, and for each item that is no pair."""
    return "&".join(";".join(map(_redacted_item, part.split(";"))) for part in text.split("&"))


def _redacted_item(text: str) -> str:
    name, equals, value = text.partition("=")
    if value.strip("="):
        return name + equals + tag(value)
    # What is alone, perhaps with the padding of base64, is a value itself.
    return text and tag(text)


def is_scheme(text: str) -> bool:
    """Whether *text* can stand before the colon of a URL (RFC 3986, 3.1)."""
    return text[:1].isalpha() and not text.strip(_SCHEME)


def _is_host(text: str) -> bool:
    """Whether *text* reads as a host, perhaps with a port, and as nothing else."""
    import re  # only where there is an @

    return re.fullmatch(_HOST, text) is not None
