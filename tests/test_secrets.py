"""One secret in every place where there can be one, and no output that shows it.

Places are rows of a table, outputs what ``everything`` gathers: ``repr`` and ``str`` of all objects
that a program gets, exceptions with their causes, traces, logs, ``-v``, ``-vv`` and ``--record``.
"""

from __future__ import annotations

import asyncio
import base64
import http.cookiejar
import io
import logging
import traceback

import pytest
from tables import each_row

import wsmini
from wsmini import cli
from wsmini.aio import connect as aio_connect
from wsmini.exceptions import InvalidProxy, InvalidStatus, InvalidURI
from wsmini.options import Options
from wsmini.sansio.redaction import tag
from wsmini.testing import scripted_server

S = "hunter2"
# As it is, and as Basic credentials have it, wherever their base64 begins.
FORMS = [S, *(base64.b64encode(b"u:" + b"x" * n + S.encode()).decode()[4:-4] for n in range(3))]
CHALLENGES = {
    "Basic": 'Basic realm="r"',
    "Digest": 'Digest realm="r", nonce="n", qop="auth"',
    "Bearer": 'Bearer realm="r"',
}


class Site:
    """A server and a proxy that redirect, challenge, set cookies, and accept or refuse."""

    def __init__(self, location="", challenge="", proxy="", headers=(), accept=True):
        self.location, self.challenge, self.proxy = location, challenge, proxy
        self.headers, self.accept = dict(headers), accept

    def __call__(self, peer):
        request = peer.request()
        if request.method == "CONNECT":
            if self.proxy and "Proxy-Authorization" not in request.headers:
                peer.respond(407, "Who?", {"Proxy-Authenticate": CHALLENGES[self.proxy]})
                return
            peer.respond(200, "OK")
            request = peer.request()
        if self.challenge and "Authorization" not in request.headers:
            peer.respond(401, "Who?", {"WWW-Authenticate": CHALLENGES[self.challenge]})
        elif self.location and not request.target.startswith("/there"):
            peer.respond(302, "Found", {"Location": self.location, **self.headers})
        elif self.accept:
            peer.accept(headers=self.headers)
            peer.close(1000)
        else:
            peer.respond(403, "No", self.headers)


def jar():
    found = http.cookiejar.CookieJar()
    value = http.cookiejar.Cookie(
        0, "c", S, None, False, "127.0.0.1", False, False, "/", True, False, None, True, None,
        None, {},
    )  # fmt: skip
    found.set_cookie(value)
    return found


PLACES = {
    # name -> the URL's userinfo and end, options, what the site does
    "userinfo": (f"u:{S}@", "/", {}, {}),
    "user": (f"{S}@", "/", {}, {}),
    "a query": ("", f"/?token={S}", {}, {}),
    "a query, named otherwise": ("", f"/?q={S}&x=1;jwt={S}", {}, {}),
    "a query that is no pair": ("", f"/?{S}", {}, {}),
    "a query with an @": ("", f"/?mail=a@b&sig={S}", {}, {}),
    "both": (f"u:{S}@", f"/?pwd={S}@", {}, {}),
    "headers": (
        "", "/",
        {"additional_headers": {name: S for name in ("Authorization", "X-Api-Key", "X-JWT")}}, {},
    ),
    "a Cookie header": ("", "/", {"additional_headers": {"Cookie": f"c={S}"}}, {}),
    "a jar": ("", "/", {"cookies": jar}, {}),
    "Set-Cookie": ("", "/", {}, {"headers": {"Set-Cookie": f"c={S}"}}),
    "a token of the server's": ("", "/", {}, {"headers": {"X-Auth-Token": S}}),
    "Basic": ("", "/", {"auth": ("u", S)}, {"challenge": "Basic"}),
    "Digest": ("", "/", {"auth": ("u", S)}, {"challenge": "Digest"}),
    "a callable": ("", "/", {"auth": lambda *given: f"Bearer {S}"}, {"challenge": "Bearer"}),
    "a proxy": ("", "/", {"proxy": f"http://u:{S}@127.0.0.1:PORT"}, {}),
    "a proxy's Basic": (
        "", "/", {"proxy": f"http://u:{S}@127.0.0.1:PORT"}, {"proxy": "Basic"},
    ),
    "a proxy's Digest": (
        "", "/", {"proxy": f"http://u:{S}@127.0.0.1:PORT"}, {"proxy": "Digest"},
    ),
    "a redirect's query": ("", "/", {}, {"location": f"/there?token={S}"}),
    "a redirect's fragment": ("", "/", {}, {"location": f"/there#access_token={S}"}),
    "a redirect's userinfo": ("", "/", {}, {"location": f"ws://u:{S}@127.0.0.1:PORT/there"}),
    "a redirect's query with an @": ("", "/", {}, {"location": f"/there?a=b@c&t={S}"}),
    "a redirect in a loop": ("", "/", {}, {"location": f"/here?token={S}"}),
    "a redirect to nowhere": ("", "/", {}, {"location": f"ftp://u:{S}@127.0.0.1/?a={S}"}),
}  # fmt: skip

OUTCOMES = {"accepted": {"accept": True}, "refused": {"accept": False}, "cut": {"accept": None}}


class Told:
    """Keeps what ``trace`` and ``logger`` are told."""

    def __init__(self):
        self.events, self.text = [], io.StringIO()
        self.logger = logging.Logger("secrets", logging.DEBUG)
        self.logger.addHandler(logging.StreamHandler(self.text))

    def everything(self):
        return [repr(self.events), self.text.getvalue()]


def shown(*values):
    return [each for value in values for each in (repr(value), str(value))]


def of_exception(exc):
    """All that a traceback shows, and the exceptions themselves."""
    found = traceback.format_exception(type(exc), exc, None)
    while exc is not None:
        found += [repr(exc), str(exc), repr(exc.args)]
        response = getattr(exc, "response", None)
        if response is not None:
            found += shown(response, response.headers)
        exc = exc.__cause__ or exc.__context__
    return found


def assert_no_secret(texts, place=""):
    for text in texts:
        for form in FORMS:
            assert form not in text, place


def outputs(front_end, user, end, options, does, outcome):
    """All that is shown while a connection is opened and ends, or isn't opened."""
    told, texts = Told(), []
    site = Site(**does, **outcome)
    with scripted_server(site) as server:
        port = 1 if outcome["accept"] is None else server.port  # where nobody answers
        url = f"ws://{user}127.0.0.1:{port}{end}"
        site.location = site.location.replace("PORT", str(server.port))
        options = {name: value() if value is jar else value for name, value in options.items()}
        if "proxy" in options:
            options["proxy"] = options["proxy"].replace("PORT", str(server.port))
        options.update(trace=told.events.append, logger=told.logger)
        texts += shown(Options(url, **options), Options(url, **options).uri)
        try:
            texts += FRONT_ENDS[front_end](url, options)
        except (wsmini.WebSocketException, OSError) as exc:
            texts += of_exception(exc)
    return texts + told.everything()


def of_connection(ws):
    return shown(ws, ws.request, ws.response, ws.request_headers, ws.response_headers)


def blocking(url, options):
    with wsmini.connect(url, **options) as ws:
        with pytest.raises(wsmini.ConnectionClosed) as info:
            ws.recv(timeout=10)
        return of_connection(ws) + of_exception(info.value)


def reconnecting(url, options):
    texts = []
    tell = {"on_reconnect": lambda attempt, delay, exc: texts.extend(of_exception(exc))}
    policy = wsmini.Fixed(0, attempts=1)
    try:
        for ws in wsmini.reconnect(url, policy=policy, **tell, **options):
            list(ws)
            texts += of_connection(ws)
            break
    except (wsmini.WebSocketException, OSError) as exc:
        texts += of_exception(exc)
    return texts


def callbacks(url, options):
    texts = []
    client = wsmini.Client(
        url, reconnect=wsmini.Fixed(0, attempts=1),
        on_open=lambda client: texts.extend(of_connection(client)),
        on_error=lambda client, exc: texts.extend(of_exception(exc)),
        on_reconnect=lambda client, attempt, delay, exc: texts.extend(of_exception(exc)),
        **options,
    )  # fmt: skip
    texts += shown(client)
    client.on_close = lambda client, code, reason: client.close()
    client.run_forever()
    return texts + shown(client)


def on_asyncio(url, options):
    async def main():
        async with aio_connect(url, **options) as ws:
            with pytest.raises(wsmini.ConnectionClosed) as info:
                await ws.recv(timeout=10)
            return of_connection(ws) + of_exception(info.value)

    return asyncio.run(main())


FRONT_ENDS = {f.__name__: f for f in (blocking, reconnecting, callbacks, on_asyncio)}


# Not a test for each place: the thread that looks after connections ends with the test.
@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_nothing_shows_a_secret(front_end, outcome):
    for name, place in PLACES.items():
        texts = outputs(front_end, *place, outcome)
        assert len("".join(texts)) > 500, name
        assert_no_secret(texts, name)


BAD_URLS = [
    f"ws://u:{S}@h:bad/", f"ws://u:{S}/x@h/", f"ws://u:{S}?x@h/", f"ws://u:{S}#x@h/",
    f"ws://u:{S}@h/?a b", f"ws://h:0/?token={S}", f"ws://h/?a=b#{S}", f"http://h/?{S}",
    f"ws://h/?a=b@c&t={S}#x", f"u:{S}@h", f"//u:{S}@h", f"ws:\\\\u:{S}@h", f"ws://{S}%ff@h/",
    f"ws+unix://h/?{S}", f"ws://h/#access_token={S}",
]  # fmt: skip


@each_row("url", BAD_URLS)
def test_bad_urls_are_told_without_secrets(url):
    for refused, call in (
        (InvalidURI, lambda: wsmini.connect(url)),
        (InvalidProxy, lambda: wsmini.connect("ws://h/", proxy=url.replace("@h", "@h:0"))),
        (InvalidURI, lambda: wsmini.Client(url)),
        (InvalidURI, lambda: next(iter(wsmini.reconnect(url)))),
    ):
        with pytest.raises(refused) as info:
            call()
        assert_no_secret(of_exception(info.value))


@pytest.mark.parametrize("flags", [[], ["-v"], ["-vv"]], ids=["quiet", "-v", "-vv"])
@pytest.mark.parametrize("accept", [True, False], ids=["accepted", "refused"])
def test_the_command_line_shows_no_secret(flags, accept, tmp_path, capfd):
    site = Site(f"/there?token={S}#{S}", "Digest", headers={"Set-Cookie": f"c={S}"}, accept=accept)
    record = tmp_path / "record"
    with scripted_server(site) as server:
        argv = [
            f"ws://u:{S}@127.0.0.1:{server.port}/?a=b@c&token={S}", "-H", f"X-Api-Key: {S}",
            "-b", f"c={S}", "--record", str(record), *flags,
        ]  # fmt: skip
        cli.main(argv)
    out, err = capfd.readouterr()
    recorded = record.read_text() if record.exists() else ""
    assert_no_secret([out, err, recorded])
    if flags and accept:
        assert tag(S) in err  # so that feeds can be told apart


def arguments(user, end, options, does):
    """A place's options for the command line; ``None`` if it can't have them."""
    options = dict(options)
    argv = [
        part for name, value in options.pop("additional_headers", {}).items()
        for part in ("-H", f"{name}: {value}")
    ]  # fmt: skip
    if isinstance(options.get("auth"), tuple):
        argv += ["--user", ":".join(options.pop("auth"))]
    if "proxy" in options:
        argv += ["--proxy", options.pop("proxy")]
    return None if options else argv


@pytest.mark.parametrize("flag", ["-n1", "-v", "-vv"])
@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
def test_the_command_line_shows_the_secret_of_no_place(flag, outcome, tmp_path, capfd):
    record, jar, count = tmp_path / "record", tmp_path / "jar", 0
    for name, place in PLACES.items():
        user, end, _, does = place
        argv = arguments(*place)
        if argv is None:
            continue
        site = Site(**does, **outcome)
        with scripted_server(site) as server:
            port = 1 if outcome["accept"] is None else server.port
            site.location = site.location.replace("PORT", str(server.port))
            argv = [text.replace("PORT", str(server.port)) for text in argv]
            argv += ["--record", str(record), "-c", str(jar)]
            argv += ["-m", "x", "--idle", "0", flag]
            cli.main([f"ws://{user}127.0.0.1:{port}{end}", *argv])
        out, err = capfd.readouterr()
        assert_no_secret([out, err, record.read_text()], name)
        count += len(err)
    assert count or flag == "-n1"


def test_the_attributes_keep_what_was_sent():
    with scripted_server(Site()) as server:
        with wsmini.connect(f"{server.url}?token={S}", additional_headers={"X-Key": S}) as ws:
            assert ws.request.target.endswith(f"?token={S}")
            assert ws.request_headers["X-Key"] == S


def test_a_refusal_keeps_its_body_and_its_headers():
    with scripted_server(Site(headers={"X-Auth-Token": S}, accept=False)) as server:
        with pytest.raises(InvalidStatus) as info:
            wsmini.connect(server.url)
    assert info.value.response.headers["X-Auth-Token"] == S
