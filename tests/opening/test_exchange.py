"""Sending all, receiving responses."""

from __future__ import annotations

import errno
import os
import threading
import types
from errno import ECONNRESET

import fakes
import pytest
from helpers import PATIENCE, splits
from listeners import finish

from wsmini.exceptions import InvalidMessage
from wsmini.opening import exchange
from wsmini.opening.exchange import ask, receive_body, receive_some, send_all
from wsmini.opening.steps import Expired, Wait, run_blocking
from wsmini.opening.streams import READ, WRITE, SocketStream
from wsmini.sansio.response import ResponseParser


def test_sending_all_waits_for_room(pair):
    one, other = pair
    one.setblocking(False)
    stream, data = SocketStream(one), os.urandom(1 << 22)
    steps = send_all(stream, data)
    assert next(steps) == Wait({one: WRITE}, None)
    received = []

    def receive():
        while sum(map(len, received)) < len(data):
            received.append(other.recv(1 << 20))

    thread = threading.Thread(target=receive)
    thread.start()
    assert run_blocking(steps) is None
    thread.join(PATIENCE)
    assert b"".join(received) == data


def test_what_a_peer_said_before_it_hung_up_can_still_be_received(pair):
    one, other = pair
    other.send(b"the reason")
    other.close()
    stream = SocketStream(one)
    assert isinstance(run_blocking(send_all(stream, b"a request")), ConnectionError)
    assert run_blocking(receive_some(stream)) == b"the reason"


def test_a_peer_that_hung_up_without_a_word_is_a_connection_error(pair):
    pair[1].close()
    stream = SocketStream(pair[0])
    with pytest.raises(ConnectionError):
        run_blocking(ask(stream, b"a request", ResponseParser()))


def test_the_head_of_a_response_alone():
    stream, parser = Shy([b"HTTP/1.1 404 Not Found\r\n\r\n", b"the body"]), ResponseParser()
    response, _ = drive(ask(stream, b"a request", parser), stream, READ | WRITE)
    assert response.status_code == 404
    assert stream.sent == b"a request"
    assert stream.incoming == [b"the body"]


def test_sending_nothing(pair):
    assert run_blocking(send_all(SocketStream(pair[0]), b"")) is None


class Shy:
    """A stream that takes and gives one byte at a time, and has to be asked twice."""

    unsent = unread = cut = False

    def __init__(self, incoming=()):
        self.sock = object()
        self.asked = 0
        self.sent = b""
        self.flushed = 0
        self.incoming = list(incoming)

    def _shy(self):
        self.asked += 1
        if self.asked % 2:
            raise BlockingIOError(errno.EAGAIN, "not now")

    def send(self, data, flags=0):
        self._shy()
        self.sent += bytes(data[:1])
        return 1

    def recv(self, size, flags=0):
        self._shy()
        found = self.incoming.pop(0)
        if isinstance(found, BaseException):
            raise found
        assert len(found) <= size
        return found

    def flush(self, flags=0):
        self.flushed += 1
        return self.flushed > 1


def drive(steps, stream, events):
    """Run *steps*, which may only wait for *stream*; the result, and how often they waited."""
    waits = 0
    while True:
        try:
            ((sock, awaited),) = next(steps).sockets.items()
            assert sock is stream.sock and awaited & events
        except StopIteration as stop:
            return stop.value, waits
        waits += 1


@pytest.mark.parametrize("make", [receive_some, lambda stream: send_all(stream, b"x")])
def test_what_is_thrown_into_a_wait_has_no_other_error_as_its_context(make):
    steps = make(Shy([b"x"]))
    next(steps)
    with pytest.raises(TimeoutError) as raised:
        steps.throw(TimeoutError("over"))
    assert raised.value.__context__ is None


def test_sending_byte_by_byte():
    stream = Shy()
    assert drive(send_all(stream, b"abc"), stream, WRITE)[0] is None
    assert stream.sent == b"abc"
    assert stream.flushed == 2  # what a stream had kept back is sent, too


def test_receiving_some():
    stream = Shy([b"ab", b""])
    assert drive(receive_some(stream), stream, READ) == (b"ab", 1)
    assert drive(receive_some(stream, 5), stream, READ) == (b"", 1)


def test_what_tls_has_to_answer_goes_out_while_more_is_waited_for():
    stream = Shy([b"ab"])
    steps = receive_some(stream)
    assert next(steps) == Wait({stream.sock: READ | WRITE}, None)  # it didn't fit
    stream.asked = 0
    assert next(steps) == Wait({stream.sock: READ}, None)
    assert stream.flushed == 2
    assert finish(steps, []) == b"ab"


def receive_response(stream, parser):
    response = yield from ask(stream, b"", parser)
    yield from receive_body(stream, parser)
    return response


RESPONSE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nbody"


def test_receiving_a_response():
    for chunks in splits(RESPONSE):
        stream, parser = Shy(chunk for chunk in chunks if chunk), ResponseParser()
        response, _ = drive(receive_response(stream, parser), stream, READ | WRITE)
        assert response is parser.response
        assert (response.status_code, response.body) == (404, b"body")
        assert not response.body_truncated


CHUNKED = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n"

CUT = {  # what comes -> body
    "end in the body": ([RESPONSE[:-2], b""], b"bo"),
    "reset in the body": ([RESPONSE[:-2], ConnectionResetError(ECONNRESET, "reset")], b"bo"),
    "timeout in the body": ([RESPONSE[:-4], Expired()], b""),
    "nonsense in the body": ([CHUNKED + b"nonsense\r\n"], b""),
}


@pytest.mark.parametrize("incoming, body", CUT.values(), ids=CUT)
def test_a_response_that_is_cut_off_in_its_body_still_counts(incoming, body):
    stream = Shy(incoming)
    response, _ = drive(receive_response(stream, ResponseParser()), stream, READ | WRITE)
    assert response.body == body
    assert response.body_truncated


@pytest.mark.parametrize("cut", [False, True])
def test_a_body_without_a_length_is_whole_only_if_tls_said_goodbye(cut):
    stream, parser = Shy([b"body", b""]), ResponseParser()
    stream.cut = cut
    parser.receive_data(b"HTTP/1.1 403 No\r\n\r\n")
    drive(receive_body(stream, parser), stream, READ)
    assert parser.response.body == b"body"
    assert parser.response.body_truncated is cut


NO_RESPONSE = {
    "nothing": ([b""], InvalidMessage),
    "end in the head": ([RESPONSE[:9], b""], InvalidMessage),
    "junk": ([b"SSH-2.0\r\n"], InvalidMessage),
    "reset": ([RESPONSE[:9], ConnectionResetError()], ConnectionResetError),
    "timeout": ([TimeoutError()], TimeoutError),
}


@pytest.mark.parametrize("incoming, exception", NO_RESPONSE.values(), ids=NO_RESPONSE)
def test_a_response_without_a_head(incoming, exception):
    stream = Shy(incoming)
    with pytest.raises(exception):
        drive(receive_response(stream, ResponseParser()), stream, READ | WRITE)


def test_a_timeout_thrown_into_the_wait_for_a_body_only_cuts_it_off():
    stream = Shy([RESPONSE[:-2], b"unread"])
    steps = receive_response(stream, ResponseParser())
    next(steps)
    next(steps)
    with pytest.raises(StopIteration) as stop:
        steps.throw(Expired())
    assert stop.value.value.body == b"bo"


def test_what_a_signal_handler_raises_is_not_taken_for_the_end_of_the_body():
    stream = Shy([RESPONSE[:-2], b"unread"])
    steps = receive_response(stream, ResponseParser())
    next(steps)
    next(steps)
    with pytest.raises(TimeoutError, match="enough"):
        steps.throw(TimeoutError("enough"))


def test_a_body_without_an_end_gets_a_second(monkeypatch):
    clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(exchange, "time", clock)
    stream, parser = Shy([b"x"] * 1000), ResponseParser()
    parser.receive_data(b"HTTP/1.1 200 OK\r\n\r\n")
    steps = receive_body(stream, parser)
    for _ in range(8):  # a byte in each eighth of the second
        assert next(steps).deadline == exchange.BODY_TIME == 1.0
        clock.now += 0.125
    finish(steps, [])
    assert parser.complete
    assert parser.response.body == b"x" * 7


@pytest.mark.parametrize("kind", [BlockingIOError, ConnectionResetError, TimeoutError])
@pytest.mark.parametrize("make", [receive_some, lambda stream: send_all(stream, b"x")])
def test_an_error_without_a_number_is_a_signal_handlers(kind, make):
    raised = kind("enough")

    class Interrupted(Shy):
        def _shy(self):
            raise raised

    with pytest.raises(kind) as caught:
        next(make(Interrupted()))
    assert caught.value is raised


def test_what_tls_has_read_and_not_looked_at_comes_without_the_socket(pair):
    ours, theirs = pair
    ours.setblocking(False)
    theirs.sendall(b"x")
    stream = fakes.Fruitless(ours, 3)
    assert run_blocking(receive_some(stream)) == b"x"
