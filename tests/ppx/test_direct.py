"""A direct link against peers that keep to ZeroMQ's bytes, and others."""

import socket

import pytest

from tracestore.errors import SimulatorError, SimulatorProtocolError, SimulatorTimeoutError

pytest.importorskip("zmq")
from tracestore.ppx.direct import DirectLink
from tracestore.ppx.messages import HandshakeResult, RunResult, Sample, encode
from tracestore.traces.distributions import Categorical, Uniform

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REP"
WELCOME = GREETING + READY


class Process:
    """Runs until it is told that it has ended."""

    descriptor: int | None = None
    has_ended = False

    def is_gone(self):
        return self.has_ended

    def how_it_ended(self):
        return "ended with exit code 7"


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    process = Process()
    link = DirectLink(ours, process, timeout=0.2, label="peer")
    with theirs:
        yield link, theirs, process
    link.close()


def framed(message):
    body = encode(message)
    if len(body) < 256:
        return bytes([1, 0, 0, len(body)]) + body
    return b"\x01\x00\x02" + len(body).to_bytes(8, "big") + body


def test_it_greets_as_a_req_socket_and_asks_who_is_there(ends):
    link, peer, _ = ends
    peer.sendall(WELCOME + framed(HandshakeResult("a", "b")))
    link.shake_hands()
    sent = peer.recv(4096)
    assert sent[:64] == GREETING
    assert sent[64:91] == READY.replace(b"REP", b"REQ")
    assert sent[91:93] == b"\x01\x00"


def test_messages_may_come_in_pieces(ends):
    link, peer, _ = ends
    link.begin_run()
    stream = WELCOME + framed(Sample("a", "", Uniform(0.0, 1.0)))
    for place in range(len(stream) - 1):
        peer.sendall(stream[place : place + 1])
        assert not link.is_ready()
    peer.sendall(stream[-1:])
    assert link.receive() == Sample("a", "", Uniform(0.0, 1.0))


def test_long_and_short_frames(ends):
    link, peer, _ = ends
    link.begin_run()
    peer.sendall(WELCOME + framed(Sample("a" * 300, "", Categorical([0.5, 0.5]))) + framed(RunResult(None)))
    assert link.receive().address == "a" * 300
    assert isinstance(link.receive(), RunResult)


def test_commands_in_between_are_passed_over(ends):
    link, peer, _ = ends
    link.begin_run()
    peer.sendall(WELCOME + b"\x04\x07\x04PING\x00\x00" + framed(RunResult(None)))
    assert isinstance(link.receive(), RunResult)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"HTTP/1.1 200 OK" + bytes(80), "did not greet as ZeroMQ does"),
        (WELCOME + b"\x01\x00\x02" + (2**40).to_bytes(8, "big"), f"announced a frame of {2**40} bytes"),
        (WELCOME + b"\x01\x00\x00\x04abcd", "broke the protocol"),
    ],
)
def test_other_bytes_are_refused(ends, sent, reason):
    link, peer, _ = ends
    link.begin_run()
    peer.sendall(sent)
    with pytest.raises(SimulatorProtocolError, match=reason):
        link.receive()


def test_silence_is_an_error(ends):
    link, peer, _ = ends
    link.begin_run()
    peer.sendall(WELCOME)
    with pytest.raises(SimulatorTimeoutError, match=r"'peer' was silent for 0\.2 seconds"):
        link.receive()


def test_what_was_sent_before_the_end_still_arrives(ends):
    link, peer, process = ends
    link.begin_run()
    peer.sendall(WELCOME + framed(RunResult(None)))
    peer.close()
    process.has_ended = True
    assert isinstance(link.receive(), RunResult)
    with pytest.raises(SimulatorError, match="ended with exit code 7"):
        link.receive()


def test_a_peer_that_closes_and_stays_is_told_apart(ends):
    link, peer, _ = ends
    link.begin_run()
    peer.close()
    with pytest.raises(SimulatorError, match="closed its connection"):
        link.receive()


def test_sending_to_a_peer_that_is_gone_says_how_it_ended(ends):
    link, peer, process = ends
    peer.close()
    process.has_ended = True
    link.begin_run()
    with pytest.raises(SimulatorError, match="ended with exit code 7"):
        link.receive()
