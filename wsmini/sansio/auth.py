"""HTTP authentication, sans I/O: challenges, Basic and Digest (RFC 9110, 11; RFC 7617; RFC 7616).

Servers (401) and proxies (407) differ in the names of their headers only. An ``Authenticator``
answers for one of them: a program's credentials never go to another origin, because the
opening that follows a redirect there makes another ``Authenticator`` or none.

What is sent when:

* A pair of user and password waits for a challenge, and takes the strongest one: Digest with
  SHA-512-256, SHA-256, MD5, and only then Basic, which shows the password to the server, and to any
  eavesdropper where there is no TLS.
  When the answer is refused, no weaker one follows.
* The userinfo of a URL (``preemptive``) goes out as Basic with the first request, since servers
  that hand out such URLs expect that, and often answer with 403 or 404 where it is missing.
* A callable sees each challenge and makes up the header itself: Bearer, Negotiate...
"""

from __future__ import annotations

import binascii
import os
from collections import namedtuple
from itertools import chain, islice

from .http11 import TOKEN, Headers, is_value
from .uri import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, Sequence

    Credentials = tuple[str, str] | Callable[[list["Challenge"], str, str], str | None]

MAX_ROUNDS = 5  # answers to challenges for one request; Negotiate takes two or three
MAX_CHALLENGES = 16
MAX_PARAMS = 32

# The grammar of challenges (RFC 9110, 11.2 and 11.3): a list, each of whose elements may itself
# have a list. There is one way to read each part, so that trying others takes linear time, too.
_NAME = f"[{TOKEN.replace('-', '')}-]+"
# The name of the next scheme, or the end.
_SCHEME = rf"[ \t,]*(?:({_NAME})(?![^ \t,])[ \t]*|\Z)"
# A token68 is told from a parameter by what follows it and its padding: the end of the challenge.
_TOKEN68 = r"([A-Za-z0-9._~+/-]+=*)[ \t]*(?:,|\Z)"
_QUOTED = r'"([^"\\]*(?:\\.[^"\\]*)*)"[ \t]*'
_UNQUOTED = r'((?:[^ \t",][^",]*)?)'  # some servers forget the quotes around a realm with spaces
_PARAM = rf"(?s)[ \t,]*({_NAME})[ \t]*=[ \t]*(?:{_QUOTED}|{_UNQUOTED})(?:,|\Z)"

# Algorithm (RFC 7616, 6.1) -> its name in hashlib, the stronger ones last.
_HASHES = {"md5": "md5", "sha-256": "sha256", "sha-512-256": "sha512_256"}
_STRENGTHS = ["", "basic", *_HASHES]
_BASIC = _STRENGTHS.index("basic")


class Challenge(namedtuple("Challenge", "scheme params token68")):
    """One way to authenticate that a server or a proxy offers (RFC 9110, 11.3).

    ``scheme`` is in lower case, and so are the names in ``params``, whose values come without
    quotes. A challenge has parameters, or a ``token68``, or neither (then it is ``None``).
    """

    __slots__ = ()

    scheme: str
    params: dict[str, str]
    token68: str | None


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """The challenges in ``WWW-Authenticate`` or ``Proxy-Authenticate`` headers, in order.

    A challenge that breaks the grammar or repeats a parameter is left out, and so is what follows
    it in its header: the status says more than a complaint would.

    Args:
        values: of each of the headers.
    """
    return list(islice(chain.from_iterable(map(_challenges_in, values)), MAX_CHALLENGES))


def _challenges_in(value: str) -> Iterator[Challenge]:
    """The challenges in one header, up to where it breaks the grammar."""
    import re  # only where there are challenges

    scheme, token68, param = map(re.compile, (_SCHEME, _TOKEN68, _PARAM))
    unquote = re.compile(r"(?s)\\(.)").sub
    head = scheme.match(value)
    while head is not None and head[1]:
        params: dict[str, str] = {}
        at = head.end()
        lone = token68.match(value, at)
        field = None if lone else param.match(value, at)
        while field is not None:
            name, quoted, text = field.groups()
            if name.lower() in params or len(params) >= MAX_PARAMS:
                return
            params[name.lower()] = text.rstrip(" \t") if quoted is None else unquote(r"\1", quoted)
            at = field.end()
            field = param.match(value, at)
        following = scheme.match(value, lone.end() if lone else at)
        # If what follows parameters is neither the next challenge nor the end, one was cut off.
        complete = lone or (following if params else value[at : at + 1] in ("", ","))
        if not complete:
            return
        yield Challenge(head[1].lower(), params, lone[1] if lone else None)
        head = following


def basic(user: str, password: str) -> str:
    """The value of an ``Authorization`` header for Basic authentication (RFC 7617), in UTF-8.

    Raises:
        ValueError: if the user has a colon.
    """
    if ":" in user:
        raise ValueError("a user name for Basic authentication has no colon")
    pair = f"{user}:{password}".encode()
    return "Basic " + binascii.b2a_base64(pair, newline=False).decode()


def digest(
    challenge: Challenge, pair: tuple[str, str], method: str, target: str, cnonce: str, nc: int
) -> str:
    """The value of an ``Authorization`` header for Digest authentication (RFC 7616, 3.4).

    Args:
        challenge: with a ``strength()`` above 0.
        pair: user and password.
        method: of the request.
        target: of the request, as in its first line.
        cnonce: fresh for each nonce of the server; then kept, as "-sess" needs it.
        nc: how many requests used this nonce, including this one.
    """
    params = challenge.params
    user, password = (_normalized(text, params) for text in pair)
    algorithm, is_session = _algorithm(params)
    realm, nonce = params.get("realm", ""), params["nonce"]
    # RFC 7616, 3.4.2 and 3.4.3: A1 is key, A2 is request.
    key = _hash(algorithm, user, realm, password)
    if is_session:
        key = _hash(algorithm, key, nonce, cnonce)
    request = _hash(algorithm, method, target)
    # Quotes are as RFC 7616, 3.4, has them: nc, qop and algorithm have none.
    fields = [_username(user, realm, algorithm, params), f"realm={_quoted(realm)}"]
    fields += [f"uri={_quoted(target)}", f"nonce={_quoted(nonce)}"]
    if _tokens(params.get("qop", "")):
        response = _hash(algorithm, key, nonce, f"{nc:08x}", cnonce, "auth", request)
        fields += [f"nc={nc:08x}", f"cnonce={_quoted(cnonce)}", "qop=auth"]
    else:  # RFC 2069
        response = _hash(algorithm, key, nonce, request)
    fields.append(f'response="{response}"')
    if "algorithm" in params:
        fields.append(f"algorithm={params['algorithm']}")
    if "opaque" in params:
        fields.append(f"opaque={_quoted(params['opaque'])}")
    if _says(params, "userhash", "true"):
        fields.append("userhash=true")
    return "Digest " + ", ".join(fields)


def strength(challenge: Challenge) -> int:
    """How well answering *challenge* protects the password; 0 if it can't be answered here."""
    if challenge.scheme == "basic":
        return _BASIC
    params = challenge.params
    if challenge.scheme != "digest" or "nonce" not in params:
        return 0
    algorithm, is_session = _algorithm(params)
    qop = _tokens(params.get("qop", ""))
    # auth-int protects a body, which these requests don't have. A session without a qop would
    # depend on a cnonce that isn't sent.
    if (qop and "auth" not in qop) or (is_session and not qop) or not _has_hash(algorithm):
        return 0
    return _STRENGTHS.index(algorithm)


def _algorithm(params: dict[str, str]) -> tuple[str, bool]:
    """The algorithm in lower case, and whether it is the ``-sess`` variant."""
    name = params.get("algorithm", "md5").lower()
    is_session = name.endswith("-sess")
    return (name[:-5] if is_session else name), is_session


def _has_hash(algorithm: str) -> bool:
    """Whether there is *algorithm*: OpenSSL may lack SHA-512-256, or forbid MD5."""
    if algorithm not in _HASHES:
        return False
    try:
        _hash(algorithm)
    except ValueError:
        return False
    return True


def _hash(algorithm: str, *parts: str) -> str:
    import hashlib  # takes OpenSSL with it: only when it is needed

    return hashlib.new(_HASHES[algorithm], ":".join(parts).encode()).hexdigest()


def _normalized(text: str, params: dict[str, str]) -> str:
    """Normalize *text* for a server that says it reads UTF-8 (RFC 7617, 2.1)."""
    if not _says(params, "charset", "utf-8") or text.isascii():
        return text
    try:
        import unicodedata  # large, and not everywhere

        text = unicodedata.normalize("NFC", text)
    except ImportError:
        pass
    return text


def _username(user: str, realm: str, algorithm: str, params: dict[str, str]) -> str:
    if _says(params, "userhash", "true"):  # RFC 7616, 3.4.4
        return f'username="{_hash(algorithm, user, realm)}"'
    if user.isascii() or not _says(params, "charset", "utf-8"):
        return f"username={_quoted(user)}"
    # RFC 7616, 3.4, for servers that know it: the others expect plain UTF-8, as most clients send.
    return f"username*=UTF-8''{quote(user)}"


def _says(params: dict[str, str], name: str, value: str) -> bool:
    """Whether the parameter *name* is *value*, in any case."""
    return params.get(name, "").lower() == value


def _tokens(text: str) -> list[str]:
    return text.replace(",", " ").lower().split()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Authenticator:
    """Answers the challenges of one server, or of one proxy.

    ``first()`` comes before each request, ``respond()`` after each refusal of it.

    Args:
        credentials: ``(user, password)``, or a callable that takes the challenges, the method and
            the target of the request, and returns the value of the header, or ``None`` to give up.
            It isn't called before there is a challenge, and what it returned isn't sent again
            when it was refused.
        proxy: whether this is for a proxy.
        preemptive: whether the pair is sent as Basic with the first request.

    Attributes:
        status: of a response with challenges: 401, or 407 from a proxy.
        challenge_name: the header with the challenges, ``"WWW-Authenticate"`` or
            ``"Proxy-Authenticate"``.
        name: the header to answer with, ``"Authorization"`` or ``"Proxy-Authorization"``.

    Raises:
        TypeError: if *credentials* is neither.
        ValueError: if they have control characters, or the user has a colon and *preemptive* is
            set.
    """

    # No repr shows these, and so no password.
    __slots__ = (
        "_answered", "_cnonce", "_credentials", "_guessed", "_last", "_nc", "_pair", "_preemptive",
        "_retried", "_rounds", "_sent", "challenge_name", "name", "status",
    )  # fmt: skip

    def __init__(
        self, credentials: Credentials, proxy: bool = False, preemptive: bool = False
    ) -> None:
        self.status = 407 if proxy else 401
        self.challenge_name = "Proxy-Authenticate" if proxy else "WWW-Authenticate"
        self.name = "Proxy-Authorization" if proxy else "Authorization"
        self._credentials = credentials if callable(credentials) else None
        self._pair = ("", "") if callable(credentials) else _checked_pair(credentials)
        self._preemptive = basic(*self._pair) if preemptive and not callable(credentials) else ""
        self._answered: Challenge | None = None  # and not refused, as far as is known
        self._cnonce = ""
        self._nc = 0
        self._last: str | None = None
        self._start()

    def first(self, method: str, target: str) -> str | None:
        """The value of the header for a request that no challenge has come for yet, if any.

        A challenge that was answered before, such as in front of a redirect within the server,
        is answered again without waiting for it (RFC 7616, 3.6; RFC 7617, 2.2).
        """
        self._start()
        if self._answered is not None:
            self._guessed = True
            self._sent = strength(self._answered)
            return self._answer(self._answered, method, target)
        if self._preemptive:
            self._sent = _BASIC
            return self._preemptive
        return None

    def respond(self, values: Sequence[str], method: str, target: str) -> str | None:
        """The value of the header for the next attempt.

        Args:
            values: of the ``challenge_name`` headers.
            method: of the request.
            target: of the request, as in its first line.

        Returns:
            ``None`` if there is nothing more to try: the credentials are wrong, no challenge is
            known, or there were too many of them.

        Raises:
            TypeError, ValueError: if a callable returned what can't be sent.
        """
        self._rounds += 1
        if self._rounds > MAX_ROUNDS:
            return None
        challenges = parse_challenges(values)
        if self._credentials is None:
            return self._respond(challenges, method, target)
        value = self._credentials(challenges, method, target)
        # What was refused once would be refused again.
        if value is None or value == self._last:
            return None
        Headers([(self.name, value)])  # Its messages don't quote the value.
        self._last = value
        return value

    def _start(self) -> None:
        """Begin a request."""
        self._rounds = 0
        self._sent = 0  # strength of the last answer
        self._guessed = False  # whether that was to a challenge of an earlier request
        self._retried = False  # whether a nonce was too old
        self._last = None

    def _respond(self, challenges: list[Challenge], method: str, target: str) -> str | None:
        if ":" in self._pair[0]:  # Basic can't say that.
            challenges = [one for one in challenges if one.scheme != "basic"]
        # The strongest one that can be answered. One that is no stronger than what was refused
        # already is answered again only if its nonce was at fault.
        best = max(challenges, key=strength, default=None)
        level = 0 if best is None else strength(best)
        if best is None or level == 0 or (level <= self._sent and not self._is_stale(best)):
            self._answered = None
            return None
        self._sent, self._guessed = level, False
        return self._answer(best, method, target)

    def _is_stale(self, challenge: Challenge) -> bool:
        """Whether only the nonce was refused, not the credentials (RFC 7616, 3.3); once."""
        if self._retried or self._answered is None or strength(challenge) < self._sent:
            return False
        # Basic has no nonce that could count.
        nonce = challenge.params.get("nonce") if challenge.scheme == "digest" else None
        # A guess, by an earlier request's nonce, may be out of date whatever the server calls it.
        self._retried = nonce is not None and nonce != self._answered.params.get("nonce")
        return self._retried and (self._guessed or _says(challenge.params, "stale", "true"))

    def _answer(self, challenge: Challenge, method: str, target: str) -> str:
        params, answered = challenge.params, self._answered
        self._answered = challenge
        if challenge.scheme == "basic":
            return basic(*(_normalized(text, params) for text in self._pair))
        # Each nonce is counted by itself, and a session (-sess) keeps its cnonce (RFC 7616, 3.4).
        if answered is None or answered.params.get("nonce") != params["nonce"]:
            self._cnonce, self._nc = os.urandom(16).hex(), 0
        self._nc += 1
        return digest(challenge, self._pair, method, target, self._cnonce, self._nc)


def _checked_pair(credentials: object) -> tuple[str, str]:
    # Nothing of them may be quoted.
    if isinstance(credentials, (tuple, list)) and len(credentials) == 2:
        user, password = credentials
        if isinstance(user, str) and isinstance(password, str):
            # Before encoding: what that raises would carry the password.
            if "\t" in user + password or not is_value(user + password):
                raise ValueError(
                    "a user name and a password have no control characters or surrogates"
                )
            return user, password
    raise TypeError("auth is a pair of strings (user, password), or a callable")
