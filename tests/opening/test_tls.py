"""TLS over any stream: handshakes, certificates, sessions, many records at once, partial writes.

Most of it needs no sockets: two engines talk through memory, and a lower stream of ours takes as
much as it likes. What threads do to each other is tried over a socket pair.
"""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import ssl
import sys
import threading
import weakref
from errno import EAGAIN, ECONNRESET, EPIPE

import pytest
from certificates import client_context, server_context, shared_server_context
from forging import CERTIFICATE_REQUEST, NEW_SESSION_TICKET, Forger, forges, forging_context
from helpers import CERTS, PATIENCE, SEED, splits
from tables import each_row

from wsmini.opening import tls, tls_context
from wsmini.opening.exchange import send_all
from wsmini.opening.opening import Opening
from wsmini.opening.steps import run_blocking
from wsmini.opening.streams import READ, WAITALL, WRITE, SocketStream
from wsmini.opening.tls import TLSStream
from wsmini.opening.tls_context import unverified_context
from wsmini.options import Options
from wsmini.testing import scripted_server

gathers = pytest.mark.skipif(not tls.GATHERS, reason="decrypts what one read has brought")
# What OpenSSL says of a record whose tag is wrong; the second since 3.4.
BROKEN_RECORD = "(?i)bad.record.mac|record.layer.failure"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(autouse=True)
def no_sessions(monkeypatch):
    monkeypatch.setattr(tls_context, "_sessions", {})


class Lower:
    """A lower stream with a TLS server behind it, that never waits.

    Attributes:
        room: bytes that it takes before it blocks; refilled by hand.
        most: bytes that it takes at once.
        incoming: bytes that the client has not received yet.
    """

    sock = None
    unread = False
    closed = 0

    def __init__(self, context=None, room=1 << 30, most=1 << 30):
        self.room, self.most = room, most
        self.incoming = bytearray()
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = (context or shared_server_context()).wrap_bio(
            self.to_server, self.to_client, server_side=True
        )
        self.shaken = False
        self.unsent = False
        self.goodbyes = 0
        self.ended = False
        self.sent = []

    def send(self, data, flags=0):
        n = min(len(data), self.room, self.most)
        if not n:
            raise BlockingIOError(EAGAIN, "in a test")
        self.room -= n
        self.sent.append(n)
        self.to_server.write(bytes(data[:n]))
        return n

    def work(self):
        """Let the server do its handshake, and move what it says."""
        try:
            if not self.shaken:
                self.server.do_handshake()
                self.shaken = True
        except ssl.SSLWantReadError:
            pass
        finally:
            self.incoming += self.to_client.read()

    def recv(self, size, flags=0):
        if not self.incoming and not self.ended:
            try:
                self.work()
            except ssl.SSLError:
                self.ended = True
        if not self.incoming and not self.ended:
            raise BlockingIOError(EAGAIN, "in a test")
        data = bytes(self.incoming[:size])
        del self.incoming[:size]
        return data

    def say(self, *records):
        """Put *records* of plaintext where the client receives."""
        for record in filter(None, records):
            self.server.write(record)
        self.incoming += self.to_client.read()

    def heard(self):
        """What the client said."""
        data = b""
        try:
            while True:
                some = self.server.read(1 << 20)
                if not some:
                    break
                data += some
        except ssl.SSLWantReadError:
            pass
        return data

    def flush(self, flags=0):
        return not self.unsent

    def buffered(self):
        return False

    def say_goodbye(self):
        self.goodbyes += 1

    def close(self):
        self.closed += 1


def opened(context=None, lower=None, name="localhost", port=443):
    """A stream that has done its handshake with the server behind *lower*."""
    lower = lower or Lower()
    stream = TLSStream(lower, context or client_context(), name, port, resumption=True)
    for _ in stream.handshake():
        lower.work()
        lower.room = 1 << 30
    lower.work()
    return stream, lower


# -- the handshake --


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("most", [1, 7, 1 << 30])
def test_a_handshake(version, most):
    stream, lower = opened(lower=Lower(server_context(version=version), most=most))
    assert stream.details() == {
        "version": version.name.replace("_", "."),
        "cipher": stream.ssl_object.cipher()[0],
        "resumed": False,
    }
    assert stream.ssl_object.getpeercert()["subjectAltName"]
    assert not stream.unsent
    assert stream.send(b"hello") == 5
    assert stream.flush()
    assert lower.heard() == b"hello"
    lower.say(b"good bye")
    assert stream.recv(100) == b"good bye"


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy names the newest version as that in use"
)
def test_details_before_the_handshake():
    stream = TLSStream(Lower(), client_context(), "localhost", 443)
    assert stream.details() == {"version": None, "cipher": None, "resumed": False}
    stream.close()


def test_what_a_handshake_waits_for():
    lower = Lower(room=0)
    lower.sock = object()
    stream = TLSStream(lower, client_context(), "localhost", 443)
    steps = stream.handshake()
    assert next(steps).sockets == {lower.sock: WRITE}
    lower.room = 10
    assert next(steps).sockets == {lower.sock: WRITE}
    lower.room = 1 << 30
    lower.recv = blocked = Blocked(lower.recv)
    wanted = next(steps)
    assert (wanted.sockets, wanted.deadline) == ({lower.sock: READ}, None)
    blocked.open = True
    assert list(steps) == []


class Blocked:
    def __init__(self, call):
        self.call, self.open = call, False

    def __call__(self, *args):
        if not self.open:
            raise BlockingIOError(EAGAIN, "in a test")
        return self.call(*args)


NAMES = ["localhost", "localhost.", "LOCALHOST", "127.0.0.1", "::1"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_the_certificate_has(name):
    opened(name=name)


SNI = [("localhost", "localhost"), ("localhost.", "localhost"), ("127.0.0.1", None), ("::1", None)]


@pytest.mark.parametrize("name, expected", SNI)
def test_the_name_that_the_server_sees(name, expected):
    seen = []
    context = server_context()
    context.sni_callback = lambda sock, name, context: seen.append(name)
    opened(lower=Lower(context), name=name)
    assert seen == [expected]


def test_no_idna_codec_is_needed(monkeypatch):
    given = []

    class Context(ssl.SSLContext):
        def wrap_bio(self, *args, server_hostname, **kwargs):
            given.append(server_hostname)
            return super().wrap_bio(*args, server_hostname=server_hostname, **kwargs)

    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(CERTS / "ca.pem"))
    opened(context)
    assert given == [b"localhost"]


VERIFY = {
    "wrong host": ("wrong-host", "localhost", {}, 62),
    "wrong address": ("wrong-host", "127.0.0.1", {}, 64),
    "self-signed": ("self-signed", "localhost", {}, 18),
    "expired": ("expired", "localhost", {}, 10),
    "not yet valid": ("not-yet-valid", "localhost", {}, 9),
    "other authority": ("other-server", "localhost", {}, 20),
}


@each_row("cert, name, options, code", VERIFY.values(), ids=VERIFY)
@each_row("version", VERSIONS)
def test_certificates_that_are_refused(cert, name, options, code, version):
    lower = Lower(server_context(cert, version=version))
    with pytest.raises(ssl.SSLCertVerificationError) as info:
        opened(lower=lower, name=name)
    assert info.value.verify_code == code
    # The server is told why.
    with pytest.raises(ssl.SSLError, match="(?i)alert"):
        lower.work() if version is VERSIONS[0] else lower.server.do_handshake()


WHY = {
    "wrong-host": "server_hostname=",
    "self-signed": "cafile",
    "expired": "clock",
    "not-yet-valid": "clock",
    "other-server": "cafile",
}


@pytest.mark.parametrize("cert", WHY)
def test_the_opening_says_what_to_try(cert):
    with scripted_server(lambda peer: None, ssl=server_context(cert)) as server:
        options = Options(f"wss://localhost:{server.port}", ssl=client_context(), proxy=None)
        with pytest.raises(ssl.SSLCertVerificationError) as info:
            run_blocking(Opening(options).steps())
    exc = info.value
    assert (exc.phase, exc.address) == ("tls", f"localhost:{server.port}")
    assert WHY[cert] in exc.hint and exc.hint in str(exc)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("own", [None, "self-signed"])
def test_the_server_wants_a_client_certificate(version, own):
    # With TLS 1.3 the client learns of it only after its own handshake.
    context = server_context(client_ca="ca", version=version)
    with scripted_server(lambda peer: None, ssl=context) as server:
        ours = client_context(certificate=own)
        options = Options(f"wss://localhost:{server.port}", ssl=ours, proxy=None)
        with pytest.raises(OSError) as info:
            run_blocking(Opening(options).steps())
    assert info.value.phase in ("tls", "upgrade")
    if isinstance(info.value, ssl.SSLError):  # and no reset came first
        assert "certificate" in info.value.hint or "CA" in info.value.hint


def test_a_client_certificate():
    context = server_context(client_ca="ca")
    stream, lower = opened(client_context(certificate="client"), Lower(context))
    assert lower.server.getpeercert()


def test_plain_http_on_the_port():
    with scripted_server(lambda peer: peer.send_raw(b"HTTP/1.1 400 Bad\r\n\r\n")) as server:
        options = Options(f"wss://localhost:{server.port}", proxy=None)
        with pytest.raises(ssl.SSLError) as info:
            run_blocking(Opening(options).steps())
    assert "ws://" in info.value.hint


@pytest.mark.parametrize("sent", [0, 1, 50])
def test_the_end_of_the_connection_in_the_handshake(sent):
    lower = Lower(server_context(version=ssl.TLSVersion.TLSv1_3))
    steps = TLSStream(lower, client_context(), "localhost", 443).handshake()
    real = lower.recv

    def recv(size, flags=0):
        data = real(sent) if sent and not lower.ended else b""
        lower.ended = True
        return data

    lower.recv = recv
    with pytest.raises(ConnectionResetError, match="in the TLS handshake"):
        list(steps)


# -- sessions --


def reconnect(context, server, name="localhost", port=443):
    """Connect, and say whether a session was resumed."""
    stream, lower = opened(context, Lower(server), name, port)
    lower.say(b"x")
    assert stream.recv(1) == b"x"  # the tickets come before it
    stream.close()
    assert lower.closed == 1
    return stream.details()["resumed"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_resumed(version):
    context, server = client_context(), server_context(version=version)
    assert [reconnect(context, server) for _ in range(3)] == [False, True, True]


def test_a_session_serves_until_the_server_knows_it_no_more():
    def session():
        (found,) = tls_context._sessions[context].values()
        return found

    context, server = client_context(), server_context()
    reconnect(context, server)
    first = session()
    assert reconnect(context, server) and session() is first
    restarted = server_context()  # with other keys for its tickets
    assert not reconnect(context, restarted) and session() is not first
    assert reconnect(context, restarted)


DIFFERENT = {
    "port": {"port": 8443},
    "name": {"name": "127.0.0.1"},
}


@pytest.mark.parametrize("other", DIFFERENT.values(), ids=DIFFERENT)
def test_sessions_belong_to_one_server(other):
    context, server = client_context(), server_context()
    reconnect(context, server)
    assert not reconnect(context, server, **other)


def stricter_mode(context):
    context.verify_mode = ssl.CERT_REQUIRED


def stricter_name(context):
    context.check_hostname = True


def stricter_flags(context):
    context.verify_flags |= ssl.VERIFY_X509_STRICT


@pytest.mark.parametrize("change", [stricter_mode, stricter_name, stricter_flags])
def test_a_session_is_not_resumed_if_more_is_to_be_verified(change):
    context, server = client_context(), server_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = False
    if change is stricter_mode:
        context.verify_mode = ssl.CERT_NONE
    reconnect(context, server)
    change(context)
    assert not reconnect(context, server)


def test_an_unverified_session_does_not_pass_for_a_verified_one():
    server = server_context("other-server")
    for context in (unverified_context(), client_context()):
        assert not tls_context._sessions.get(context)
        if context.verify_mode is ssl.CERT_NONE:
            reconnect(context, server)
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                reconnect(context, server)


def test_without_a_ticket_there_is_nothing_to_resume():
    context = client_context()
    server = server_context(version=ssl.TLSVersion.TLSv1_3)
    stream, _ = opened(context, Lower(server))
    stream.close()  # before any ticket was read
    assert not tls_context._sessions


def test_a_stream_without_a_handshake_can_be_closed():
    lower = Lower()
    stream = TLSStream(lower, client_context(), "localhost", 443)
    stream.close()
    stream.close()
    assert lower.closed == 2
    assert not tls_context._sessions


def test_a_context_without_sessions_is_not_kept_alive():
    context = client_context()
    gone = weakref.ref(context)
    stream, _ = opened(context)
    stream.close()
    del context, stream
    gc.collect()
    assert tls_context._sessions or gone() is None


# -- receiving --


def test_many_records_in_one_call():
    stream, lower = opened()
    lower.say(*[b"%d," % i for i in range(100)])
    calls = []
    real = lower.recv
    lower.recv = lambda *args: calls.append(args) or real(*args)
    assert stream.recv(1000) == b"".join(b"%d," % i for i in range(100))
    assert len(calls) == 1


@each_row("flags", [0, WAITALL], ids=["some", "all"])
@each_row("size", [1, 3, 16384, 16385, 50000, 200000])
def test_no_byte_is_lost_whatever_is_asked_for(size, flags):
    data = random.Random(SEED).getrandbits(8 * 100001).to_bytes(100001, "big")
    stream, lower = opened()
    lower.say(data[:5], data[5:70000], data[70000:])
    received = bytearray()
    while len(received) < len(data):
        some = stream.recv(size if size > 100 else size * 1000, flags)
        assert 0 < len(some)
        received += some
    assert received == data
    assert not stream.buffered()
    with pytest.raises(BlockingIOError):
        stream.recv(1)


def test_bytes_that_the_socket_does_not_show():
    stream, lower = opened()
    with pytest.raises(BlockingIOError):
        stream.recv(1)
    assert not stream.buffered()
    lower.say(b"ab")
    assert stream.recv(1) == b"a"
    assert stream.buffered()
    assert stream.recv(1) == b"b"
    assert not stream.buffered()
    lower.say(b"a", b"b")
    assert stream.recv(1) == b"a"
    assert stream.buffered()
    lower.buffered = lambda: True
    assert stream.recv(1) == b"b"
    assert stream.buffered()


def test_records_in_pieces():
    stream, lower = opened()
    with pytest.raises(BlockingIOError):
        stream.recv(1)  # the tickets
    lower.say(b"hello", b"good bye")
    size = len(lower.incoming)
    lower.incoming.clear()
    stream, lower = opened()
    for pieces in splits(bytes(size)):
        lower.say(b"hello", b"good bye")
        data, received = bytes(lower.incoming), b""
        lower.incoming.clear()
        for piece in pieces:
            lower.incoming += data[: len(piece)]
            data = data[len(piece) :]
            try:
                received += stream.recv(100)
            except BlockingIOError:
                continue
        lower.incoming += data
        while len(received) < 13:
            received += stream.recv(100)
        assert received == b"hellogood bye"


@pytest.mark.parametrize("before", [b"", b"last"])
def test_the_goodbye_of_the_server(before):
    stream, lower = opened()
    if before:
        lower.say(before)
    with pytest.raises(ssl.SSLWantReadError):
        lower.server.unwrap()
    lower.incoming += lower.to_client.read()
    if before:
        assert stream.recv(100) == before
        assert stream.buffered()  # the socket shows nothing of it any more
    assert stream.recv(100) == b""
    assert stream.recv(100) == b""
    stream.send(b"still")  # a half-closed connection still takes what we say
    assert lower.heard() == b"still"
    stream.say_goodbye()
    assert stream.recv(100) == b""


def test_the_end_without_a_goodbye():
    stream, lower = opened()
    lower.say(b"last")
    lower.ended = True
    assert stream.recv(100) == b"last"
    assert stream.recv(100) == b""


@pytest.mark.parametrize("before", [b"", b"last words"])
def test_what_came_before_a_broken_record_is_delivered(before):
    stream, lower = opened()
    if before:
        lower.say(before)
    start = len(lower.incoming)
    lower.say(b"broken")
    lower.incoming[-1] ^= 1
    assert len(lower.incoming) > start
    if before:
        assert stream.recv(100) == before
        assert stream.buffered()
    for _ in range(2 if before else 1):
        with pytest.raises(ssl.SSLError, match=BROKEN_RECORD):
            stream.recv(100)
    assert stream.unsent  # the alert
    assert stream.flush()
    with pytest.raises(ssl.SSLError, match="(?i)alert bad record mac"):
        lower.server.read(1)


def test_only_the_flag_not_to_wait_is_passed_down():
    stream, lower = opened()
    flags = []
    lower.recv = lambda size, flag: flags.append(flag) or b""
    stream.recv(1, tls.DONTWAIT | getattr(socket, "MSG_WAITALL", 0))
    stream.recv(1)
    assert flags == [tls.DONTWAIT, 0]


def noise(n):
    return random.Random(SEED).getrandbits(8 * n + 8).to_bytes(n + 1, "big")[:n]


@gathers
def test_a_long_message_comes_in_one_piece():
    data = noise(1000000)
    stream, lower = opened()
    lower.say(data, b"and more")
    whole = stream.recv(len(data), WAITALL)
    assert type(whole) is bytes and whole == data
    assert stream.recv(100, WAITALL) == b"and more"


@gathers
def test_only_so_much_of_it_at_once(monkeypatch):
    monkeypatch.setattr(tls, "MAX_GATHERED", 50000)
    data = noise(120000)
    stream, lower = opened()
    lower.say(data)
    pieces = []
    while sum(map(len, pieces)) < len(data):
        pieces.append(stream.recv(len(data), WAITALL))
    assert b"".join(pieces) == data and len(pieces[0]) == 50000 == max(map(len, pieces))


@gathers
def test_memory_is_taken_in_proportion_to_what_is_here(monkeypatch):
    taken = []
    file = tls.BytesIO
    monkeypatch.setattr(tls, "BytesIO", lambda data: taken.append(len(data)) or file(data))
    stream, lower = opened()
    lower.say(b"a record")
    assert stream.recv(1 << 26, WAITALL) == b"a record"
    lower.say(b"a" * 20000)
    assert stream.recv(1 << 26, WAITALL) == b"a" * 20000
    assert len(taken) == 1 and 20000 < taken[0] < 100000


@each_row("first", [0, 1, 10000])
@each_row("here", [16384, 16385, 100000, 200000])
def test_what_came_before_the_connection_broke_is_delivered(here, first):
    stream, lower = opened()
    lower.say(noise(here)[:first], noise(here)[first:])
    receive = lower.recv

    def fail(size, flags=0):
        if lower.incoming:
            return receive(size, flags)
        raise ConnectionResetError(ECONNRESET, "broken")

    lower.recv = fail
    received = b""
    with pytest.raises(ConnectionResetError, match="broken"):
        while True:
            received += stream.recv(300000, WAITALL)
    assert received == noise(here)
    with pytest.raises(ConnectionResetError, match="broken"):
        stream.recv(300000, WAITALL)


@pytest.mark.parametrize("here", [100000, 300000])
def test_a_long_message_and_the_end(here):
    stream, lower = opened()
    lower.say(noise(here))
    lower.ended = True
    received, some = b"", b"some"
    while some:
        some = stream.recv(400000, WAITALL)
        received += some
    assert received == noise(here)


@pytest.mark.parametrize("ours", [False, True])
def test_a_long_message_and_a_goodbye(ours):
    stream, lower = opened()
    if ours:
        stream.say_goodbye()
    lower.say(noise(100000))
    try:
        lower.server.unwrap()
    except ssl.SSLWantReadError:
        assert not ours
    lower.incoming += lower.to_client.read()
    assert stream.recv(300000, WAITALL) == noise(100000)
    assert stream.recv(300000, WAITALL) == b""


@gathers
def test_a_long_message_and_a_broken_record():
    stream, lower = opened()
    lower.say(noise(163840))
    lower.say(b"broken")
    lower.incoming[-1] ^= 1
    assert stream.recv(300000, WAITALL) == noise(163840)
    assert stream.unsent  # the alert
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match=BROKEN_RECORD):
            stream.recv(300000, WAITALL)


@pytest.mark.parametrize("behind", [0, 1, 200000])
def test_the_first_failure_counts_whatever_is_behind_it(behind):
    stream, lower = opened()
    lower.say(b"a short record")
    lower.say(b"broken")
    lower.incoming[-1] ^= 1
    lower.say(noise(behind))
    assert stream.recv(300000, WAITALL) == b"a short record"
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match=BROKEN_RECORD):
            stream.recv(300000, WAITALL)


def test_what_a_long_message_makes_the_engine_say_is_flushed_later():
    stream, lower = opened()
    lower.say(noise(100000))
    receive = lower.recv

    def recv(size, flags=0):
        stream._outgoing.write(b"an update")
        return receive(size, flags)

    lower.recv = recv
    assert stream.recv(300000, WAITALL) == noise(100000)
    assert stream.unsent


def test_an_answer_of_the_engine_goes_out_before_the_lower_stream_waits():
    stream, lower = opened()
    stream._outgoing.write(b"an update")
    lower.say(b"hello")
    with pytest.raises(BlockingIOError):
        stream.recv(100)
    assert stream.unsent and stream.flush()
    assert stream.recv(100) == b"hello"


@gathers
def test_an_exception_in_the_middle_of_a_long_message_is_found():
    stream, lower = opened()
    lower.say(noise(200000))
    receive = lower.recv

    def interrupted(size, flags=0):
        if flags:
            raise KeyboardInterrupt
        return receive(size, flags)

    lower.recv = interrupted
    with pytest.raises(KeyboardInterrupt):
        stream.recv(200000, WAITALL)
    with pytest.raises(ConnectionAbortedError, match="in the middle of a record"):
        stream.recv(200000, WAITALL)


# -- sending --


def test_what_the_lower_stream_does_not_take_waits():
    stream, lower = opened()
    lower.room = 10
    assert stream.send(b"hello") == 5
    assert stream.unsent
    assert not stream.flush()
    with pytest.raises(BlockingIOError):
        stream.send(b"more")
    with pytest.raises(BlockingIOError):
        stream.send(b"")
    lower.room = 1 << 30
    assert stream.flush()
    assert not stream.unsent
    assert stream.flush()
    assert lower.heard() == b"hello"
    assert stream.send(b"") == 0


def test_nothing_is_taken_at_all():
    stream, lower = opened()
    lower.room = 0
    assert stream.send(b"hello") == 5
    assert stream.unsent
    lower.room = 1 << 30
    assert stream.send(b" world") == 6
    assert not stream.unsent
    assert lower.heard() == b"hello world"


@pytest.mark.parametrize("most", [1, 100, 16000])
def test_a_lower_stream_that_takes_little_at_a_time(most):
    data = bytes(range(256)) * (4 if most == 1 else 400)
    stream, lower = opened()
    lower.most = most
    assert stream.send(data) == len(data)
    while not stream.flush():
        pass
    assert lower.heard() == data
    assert max(lower.sent) <= max(most, lower.sent[0])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_large_data_is_encrypted_in_parts(kind, monkeypatch):
    monkeypatch.setattr(tls, "MAX_SEND", 1000)
    stream, lower = opened()
    data = bytes(range(250)) * 9
    rest = memoryview(data)
    counts = []
    while rest:
        counts.append(stream.send(kind(rest)))
        rest = rest[counts[-1] :]
    assert counts == [1000, 1000, 250]
    assert lower.heard() == data


def test_an_error_of_the_lower_stream_comes_out():
    stream, lower = opened()

    def send(data, flags):
        raise BrokenPipeError(EPIPE, "in a test")

    lower.send = send
    with pytest.raises(BrokenPipeError):
        stream.send(b"x")
    stream.say_goodbye()  # fails as well, in silence
    assert not lower.goodbyes


def test_the_lower_stream_keeps_something_back():
    stream, lower = opened()
    lower.unsent = True
    assert stream.send(b"x") == 1
    assert stream.unsent
    assert not stream.flush()
    assert stream.unsent
    lower.unsent = False
    assert stream.flush()
    assert not stream.unsent


class Engine:
    """Stands in for the TLS engine, which wants to read before it can write (renegotiation)."""

    def write(self, data):
        raise ssl.SSLWantReadError


def test_the_engine_has_to_read_first():
    stream, lower = opened()
    stream.ssl_object = Engine()
    with pytest.raises(BlockingIOError, match="has to read"):
        stream.send(b"x")
    assert stream.unsent
    assert stream.flush()


def test_what_receiving_makes_the_engine_say_is_flushed_later():
    stream, lower = opened()
    stream._outgoing.write(b"an update")
    with pytest.raises(BlockingIOError):
        stream.recv(1)
    assert stream.unsent
    lower.to_server = sink = ssl.MemoryBIO()
    assert stream.flush()
    assert sink.read() == b"an update"


def test_goodbye():
    stream, lower = opened()
    stream.say_goodbye()
    assert lower.heard() == b""  # the end, without an error
    assert lower.goodbyes == 1
    stream.say_goodbye()


def test_goodbye_before_the_handshake():
    lower = Lower()
    TLSStream(lower, client_context(), "localhost", 443).say_goodbye()
    assert not lower.sent


def test_a_goodbye_that_does_not_fit():
    stream, lower = opened()
    lower.room = 3
    stream.say_goodbye()
    assert stream.unsent
    assert not lower.goodbyes


def test_a_signal_handler_may_interrupt_the_engine():
    # It runs in the thread that holds the lock, and may send a Close frame.
    stream, lower = opened()

    class Interrupted:
        def __init__(self, engine):
            self.engine = engine

        def read(self, size):
            stream.ssl_object = self.engine
            stream.send(b"Close")
            return self.engine.read(size)

    lower.say(b"x")
    stream._incoming.write(bytes(lower.incoming))
    stream.ssl_object = Interrupted(stream.ssl_object)
    done = []
    thread = threading.Thread(target=lambda: done.append(stream.recv(1)))
    thread.start()
    thread.join(PATIENCE)
    assert done == [b"x"]
    assert lower.heard() == b"Close"


# -- TLS in TLS --


class Inner(Lower):
    """What the outer server's client sees: another TLS server, inside the outer connection."""

    def __init__(self, outer):
        super().__init__()
        self.outer = outer

    def pump(self):
        """Move bytes between the outer connection and the inner server."""
        self.to_server.write(self.outer.heard())
        self.work()
        if self.incoming:
            self.outer.say(bytes(self.incoming))
            self.incoming.clear()


def test_tls_in_tls():
    context = client_context()
    outer, lower = opened(context)
    inner_server = Inner(lower)
    inner = TLSStream(outer, context, "localhost", 8443)
    real = lower.recv

    def recv(size, flags=0):
        inner_server.pump()
        return real(size, flags)

    lower.recv = recv
    assert list(inner.handshake()) == []
    assert inner.sock is lower.sock

    def pushed(stream, data):
        rest = memoryview(data)
        while rest or not stream.flush():
            try:
                rest = rest[stream.send(rest) :]
            except BlockingIOError:
                lower.room = 5000
            inner_server.to_server.write(lower.heard())

    lower.room, lower.most = 100, 777
    data = bytes(range(256)) * 1000
    pushed(inner, data)
    lower.room = 1 << 30
    assert not inner.unsent and not outer.unsent
    inner_server.pump()
    assert inner_server.heard() == data
    inner_server.say(b"answer", b"and more")
    inner_server.pump()
    assert inner.recv(6) == b"answer"
    assert inner.buffered()
    assert inner.recv(100) == b"and more"
    assert not inner.buffered()
    inner.say_goodbye()
    inner_server.pump()
    assert inner_server.heard() == b""
    inner.close()
    assert lower.closed == 1


def test_what_waits_below_waits_above():
    # Nothing that the inner stream was given may be forgotten in the outer one.
    context = client_context()
    outer, lower = opened(context)
    inner_server = Inner(lower)
    inner = TLSStream(outer, context, "localhost", 8443)
    real = lower.recv
    lower.recv = lambda *args: inner_server.pump() or real(*args)
    assert list(inner.handshake()) == []
    lower.room = 20
    steps = send_all(inner, b"hello")
    assert next(steps).sockets == {None: WRITE}
    assert inner.unsent and outer.unsent
    lower.room = 20
    assert next(steps).sockets == {None: WRITE}
    lower.room = 1 << 30
    assert list(steps) == []
    assert not inner.unsent
    inner_server.pump()
    assert inner_server.heard() == b"hello"


# -- threads --


def test_one_thread_receives_while_another_sends():
    ours, theirs = socket.socketpair()
    size = 8 << 20
    data = random.Random(SEED).getrandbits(8 * 65536).to_bytes(65536, "big") * (size // 65536)
    problems = []

    def serve():
        try:
            with server_context().wrap_socket(theirs, server_side=True) as sock:
                sock.settimeout(PATIENCE)
                received = bytearray()
                for start in range(0, size, 65536):
                    sock.sendall(data[start : start + 65536])
                    while len(received) < start + 65536:
                        received += sock.recv(65536)
                assert received == data
        except BaseException as exc:
            problems.append(exc)

    server = threading.Thread(target=serve)
    server.start()
    with ours:
        ours.setblocking(False)
        stream = TLSStream(SocketStream(ours), client_context(), "localhost", 443)
        run_blocking(stream.handshake())
        ours.settimeout(PATIENCE)
        received = bytearray()

        def receive():
            while len(received) < size:
                received.extend(stream.recv(100000))

        receiver = threading.Thread(target=receive)
        receiver.start()
        rest = memoryview(data)
        while rest or not stream.flush():
            rest = rest[stream.send(rest[:70000]) :]
        receiver.join(PATIENCE)
        server.join(PATIENCE)
    assert not problems
    assert received == data


def test_over_real_sockets_a_session_is_resumed():
    context = client_context()
    facts = []

    def script(peer):
        peer.accept()
        peer.send_message("hello")  # behind the tickets

    with scripted_server(script, ssl=server_context()) as server:
        for _ in range(2):
            options = Options(
                f"wss://localhost:{server.port}", ssl=context, proxy=None, tls_resumption=True
            )
            opened = run_blocking(Opening(options).steps())
            stream = opened.stream
            stream.sock.settimeout(PATIENCE)
            if not opened.rest:
                assert stream.recv(100)
            facts.append(stream.details()["resumed"])
            stream.say_goodbye()
            stream.close()
    assert facts == [False, True]


def test_what_is_thrown_into_a_handshake_has_no_other_error_as_its_context():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        steps = TLSStream(SocketStream(ours), client_context(), "localhost", 443).handshake()
        assert next(steps).sockets == {ours: READ}
        with pytest.raises(TimeoutError) as raised:
            steps.throw(TimeoutError("over"))
    assert raised.value.__context__ is None


def open_and_close(port, context, **options):
    """Open a connection, receive what comes behind its handshake; whether a session was resumed."""
    options = Options(f"wss://localhost:{port}", ssl=context, proxy=None, **options)
    opened = run_blocking(Opening(options).steps())
    opened.stream.sock.settimeout(PATIENCE)
    if not opened.rest:
        assert opened.stream.recv(100)
    opened.stream.close()
    return opened.ssl_object.session_reused


FAILURE = b"\x15\x03\x03\x00\x02\x02\x50"  # an alert: internal error


@pytest.mark.parametrize("alert", [FAILURE, b"", None], ids=["alert", "hang-up", "later"])
def test_a_server_that_fails_to_resume_is_reached_all_the_same(alert):
    context, numbers = client_context(), []

    def script(peer):
        numbers.append(peer.number)
        if peer.number == 2 and alert is not None:
            peer.sock.recv(65536)
            peer.send_raw(alert)
            return
        peer._start(theirs)
        if peer.number == 2:
            peer.request()
            return
        peer.accept()
        peer.send_message("hello")

    theirs = server_context()
    with scripted_server(script) as server:
        resumed = [open_and_close(server.port, context, tls_resumption=True) for _ in range(3)]
    assert resumed == [False] * 3
    assert numbers == [1, 2, 3, 4]  # the second one failed, and was made again


def test_without_a_session_a_failure_is_not_tried_again():
    numbers = []

    def script(peer):
        numbers.append(peer.number)
        peer.sock.recv(65536)
        peer.send_raw(FAILURE)

    with scripted_server(script) as server, pytest.raises(ssl.SSLError):
        open_and_close(server.port, client_context(), tls_resumption=True)
    assert numbers == [1]


@pytest.mark.parametrize("resumption, expected", [(None, False), (True, True), (False, False)])
def test_who_resumes(resumption, expected):
    context = client_context()

    def script(peer):
        peer.accept()
        peer.send_message("hello")  # behind the tickets

    with scripted_server(script, ssl=server_context()) as server:
        resumed = [
            open_and_close(server.port, context, tls_resumption=resumption) for _ in range(2)
        ]
    assert resumed == [False, expected]


def test_a_certificate_that_is_asked_for_after_the_request():
    seen = []

    def script(peer):
        peer.request()
        peer.sock.verify_client_post_handshake()
        peer.sock.do_handshake()
        peer.sock.settimeout(0.1)
        while not seen:
            with contextlib.suppress(socket.timeout):
                peer.sock.recv(1)  # takes the certificate in
            if peer.sock.getpeercert():
                seen.append(peer.sock.getpeercert())
        peer.sock.settimeout(PATIENCE)
        peer.accept()
        peer.send_message("hello")

    context = client_context(certificate="client")
    context.post_handshake_auth = True
    theirs = server_context(
        version=ssl.TLSVersion.TLSv1_3, client_ca="ca", post_handshake_auth=True
    )
    with scripted_server(script, ssl=theirs) as server:
        open_and_close(server.port, context)
    assert seen[0]["subject"]


class Flood(Lower):
    """A lower stream of a server that sends whatever it likes.

    Attributes:
        forger: makes its records, from the end of the handshake on.
    """

    def __init__(self, folder):
        context = server_context()
        self._log = forging_context(context, folder)
        super().__init__(context)

    def begin(self):
        self.work()
        self.forger = Forger(self._log, self.server.cipher()[0])


def flooded(folder, wishes=False):
    """A stream to such a server; *wishes* for certificates are allowed."""
    context = client_context(certificate="client" if wishes else None)
    context.post_handshake_auth = wishes
    stream, lower = opened(context, Flood(folder))
    lower.begin()
    assert lower.forger is not None and not lower.incoming
    return stream, lower


SHORT_SLICE = 1500
FLOODS = {  # name -> what makes a record, and how many bytes a call takes at most
    "tickets": (lambda f: f.messages(NEW_SESSION_TICKET, [f.ticket()] * 3), SHORT_SLICE),
    "key updates": (lambda f: f.key_update(), SHORT_SLICE),
    "key updates to be answered": (lambda f: f.key_update(answered=True), SHORT_SLICE),
    "wishes": (
        lambda f: f.messages(CERTIFICATE_REQUEST, [f.certificate_request(0)]), tls.AUTH_SLICE,
    ),
    "a byte between key updates": (
        lambda f: f.key_update() + f.record(b"x") + f.key_update(), SHORT_SLICE,
    ),
}  # fmt: skip


@forges
@pytest.mark.parametrize("make, most", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("flags", [0, WAITALL])
def test_a_flood_of_records_without_data_comes_back_to_the_caller(
    make, most, flags, tmp_path, monkeypatch
):
    monkeypatch.setattr(tls, "RECORD", 1000)  # to make thousands of records takes seconds
    monkeypatch.setattr(tls, "SLICE", SHORT_SLICE)
    stream, lower = flooded(tmp_path, wishes=most == tls.AUTH_SLICE)
    flood = b"".join(make(lower.forger) for _ in range(2 * most // 20))
    assert len(flood) > 2 * most
    lower.incoming += flood + lower.forger.record(b"y" * 100)

    def left():
        return len(lower.incoming) + sum(map(len, stream._unfed)) + stream._incoming.pending

    data, here, calls = b"", left(), 0
    while not data.endswith(b"y" * 100):
        calls += 1
        with contextlib.suppress(BlockingIOError):
            data += stream.recv(1 << 16, flags)
        assert here - left() <= 2 * most
        assert left() == 0 or stream.unread or lower.incoming
        here = left()
        if stream.unsent:
            stream.flush()
    assert calls >= 2
    assert data.strip(b"x") == b"y" * 100
    assert not stream.unread


@forges
def test_answers_that_the_server_does_not_take_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tls, "MAX_ANSWERS", 1000)
    stream, lower = flooded(tmp_path)
    lower.incoming += b"".join(lower.forger.key_update(answered=True) for _ in range(60))
    with pytest.raises(ConnectionAbortedError, match="more answers of TLS"):
        stream.recv(100)
    with pytest.raises(ConnectionAbortedError, match="more answers of TLS"):
        stream.recv(100)  # and nothing else


@forges
def test_a_wish_for_a_certificate_that_is_not_allowed_is_an_error(tmp_path):
    stream, lower = flooded(tmp_path)
    forger = lower.forger
    lower.incoming += forger.messages(CERTIFICATE_REQUEST, [forger.certificate_request(0)])
    with pytest.raises(ssl.SSLError, match="(?i)unexpected.message"):
        stream.recv(100)


def test_a_handshake_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(tls, "MAX_HANDSHAKE", 100)
    with pytest.raises(ConnectionAbortedError, match="has no end"):
        opened()


class Interrupted:
    """Stands in for the engine, in which a signal handler raises."""

    def __getattr__(self, name):
        def raise_it(*args):
            raise KeyboardInterrupt

        return raise_it


def test_a_lock_is_not_left_behind_by_what_a_signal_handler_raises(monkeypatch):
    stream, lower = opened()
    for call in (
        lambda: stream.recv(1),
        lambda: stream.send(b"x"),
        stream.flush,
        stream.say_goodbye,
        stream.buffered,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(stream, "ssl_object", Interrupted())
            patch.setattr(stream, "_outgoing", Interrupted())
            with pytest.raises(KeyboardInterrupt):
                call()
        assert not stream._lock._is_owned()


def test_a_handlers_stop_iteration_does_not_pass_for_the_end_of_what_is_here():
    class Interrupted:
        def __init__(self, engine):
            self.engine, self.reads, self.pending = engine, 0, engine.pending

        def read(self, size):
            data = self.engine.read(size)
            self.reads += 1
            if self.reads == 3:
                raise StopIteration
            return data

    stream, lower = opened()
    for number in range(9):
        lower.say(b"%d" % number * 2000)
    stream.ssl_object = Interrupted(stream.ssl_object)
    with pytest.raises(StopIteration):
        stream.recv(1 << 16)
    with pytest.raises(ConnectionAbortedError, match="in the middle of a record"):
        stream.recv(1 << 16)


def test_closing_waits_for_no_other_thread():
    # After a fork, the one that has the lock may not exist.
    stream, lower = opened()
    thread = threading.Thread(target=stream._lock.acquire)
    thread.start()
    thread.join(PATIENCE)
    stream.close()
    assert lower.closed


@pytest.mark.parametrize("kind", [BlockingIOError, TimeoutError])
def test_an_error_without_a_number_is_a_signal_handlers(kind):
    raised = kind("enough")

    def interrupted(*args):
        raise raised

    for call in ("recv", "send", "flush"):
        stream, lower = opened()
        lower.incoming.clear()
        lower.recv = lower.send = interrupted
        with pytest.raises(kind) as caught:
            if call == "flush":
                stream._out = memoryview(b"x")
                stream.flush()
            else:
                getattr(stream, call)(b"x" if call == "send" else 1)
        assert caught.value is raised
        assert not stream._lock._is_owned()
