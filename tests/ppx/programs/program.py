"""PPX programs for tests, good and bad: ``program.py MODEL ENDPOINT``; speaks ZeroMQ and messages only."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import zmq

from tracestore.ppx.messages import (
    Handshake,
    HandshakeResult,
    Message,
    Observe,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    Tag,
    TagResult,
    decode,
    encode,
)
from tracestore.traces.distributions import Categorical, Distribution, Normal, Poisson, Uniform


class ResetError(Exception):
    """The controller gave the run up."""


def bind(endpoint: str) -> "zmq.Socket[bytes]":
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
    socket.bind(endpoint)
    return socket


class Peer:
    """The program's end."""

    def __init__(self, endpoint: str, system_name: str = "testing 1.0", model_name: str = "toy") -> None:
        self.socket = bind(endpoint)
        self.system_name, self.model_name = system_name, model_name
        self.num_messages = 0

    def serve(self, run: Callable[["Peer"], float | np.ndarray | None]) -> NoReturn:
        message = self.receive()
        while True:
            if isinstance(message, Handshake):
                message = self.ask(HandshakeResult(self.system_name, self.model_name))
            elif isinstance(message, Run):
                try:
                    result = run(self)
                except ResetError:
                    message = self.ask(Reset())
                    continue
                message = self.ask(RunResult(None if result is None else np.asarray(result, np.float64)))
            else:
                message = self.ask(Reset())

    def receive(self) -> Message:
        return decode(self.socket.recv())

    def ask(self, message: Message) -> Message:
        self.num_messages += 1
        self.socket.send(encode(message))
        return self.receive()

    def sample(self, prior: Distribution, address: str, name: str = "") -> float:
        answer = self.ask(Sample(address, name, prior))
        if isinstance(answer, Reset):
            raise ResetError
        assert isinstance(answer, SampleResult), answer
        return float(answer.value)

    def observe(self, likelihood: Distribution, address: str, name: str = "", value: float | None = None) -> None:
        if isinstance(self.ask(Observe(address, name, likelihood, value)), Reset):
            raise ResetError

    def tag(self, value: float | None, address: str, name: str = "") -> float:
        answer = self.ask(Tag(address, name, value))
        if isinstance(answer, Reset):
            raise ResetError
        assert isinstance(answer, TagResult), answer
        return 0.0 if answer.value is None else float(answer.value)


# ------------------------------------------------------------------------------------------------------------- good


def gum(peer: Peer) -> float:
    mu = peer.sample(Normal(1.0, 5**0.5), "gum|mu", "mu")
    peer.observe(Normal(mu, 2**0.5), "gum|obs0", "obs0")
    peer.observe(Normal(mu, 2**0.5), "gum|obs1", "obs1")
    return mu


def marsaglia(peer: Peer) -> float:
    while True:
        u = peer.sample(Uniform(-1.0, 1.0), "marsaglia|u")
        v = peer.sample(Uniform(-1.0, 1.0), "marsaglia|v")
        s = u * u + v * v
        if 0.0 < s < 1.0:
            break
    mu = 1.0 + 5**0.5 * u * (-2.0 * np.log(s) / s) ** 0.5
    peer.tag(mu, "marsaglia|mu", "mu")
    peer.observe(Normal(mu, 2**0.5), "marsaglia|obs0", "obs0")
    peer.observe(Normal(mu, 2**0.5), "marsaglia|obs1", "obs1")
    return float(mu)


def branching(peer: Peer) -> float:
    r = peer.sample(Poisson(4.0), "branching|r", "r")
    rate = 6.0 if r > 4.0 else 1.0 + peer.sample(Poisson(4.0), "branching|l", "l") + r
    peer.observe(Poisson(rate), "branching|obs", "obs")
    return r


def hmm(peer: Peer) -> np.ndarray:
    rows = [[0.1, 0.5, 0.4], [0.2, 0.2, 0.6], [0.15, 0.15, 0.7]]
    means = [-1.0, 1.0, 0.0]
    states = [int(peer.sample(Categorical([1 / 3] * 3), "hmm|first"))]
    for step in range(16):
        states.append(int(peer.sample(Categorical(rows[states[-1]]), "hmm|next")))
        peer.observe(Normal(means[states[-1]], 1.0), "hmm|obs", f"obs{step}")
    return np.eye(3)[states]


def process(peer: Peer) -> float:
    """Tells its process number."""
    peer.sample(Normal(0.0, 1.0), "process|x", "x")
    return float(os.getpid())


def numbered(peer: Peer) -> float:
    """As long as asked for, and tells its process number."""
    for _ in range(int(os.environ.get("NUM_DRAWS", "200"))):
        peer.sample(Normal(0.0, 1.0), "numbered|x")
    return float(os.getpid())


def rejection(peer: Peer) -> float:
    """A Beta(2, 2) draw, as tracestore's peers tell of it."""
    peer.tag(None, "[rejection]", "open")
    while True:
        peer.tag(None, "[rejection]", "start")
        x = peer.sample(Uniform(0.0, 1.0), "[rejection]rejection|x", "x")
        is_accepted = peer.sample(Uniform(0.0, 1.0), "[rejection]rejection|y") < 4.0 * x * (1.0 - x)
        if peer.tag(None, "[rejection]", "accepted" if is_accepted else "rejected"):
            break
    peer.tag(None, "[rejection]", "leave")
    peer.observe(Normal(x, 0.1), "rejection|obs", "obs")
    return x


# -------------------------------------------------------------------------------------------------------------- bad


def dies(peer: Peer) -> float:
    """Is killed in the middle of every third run."""
    x = peer.sample(Normal(0.0, 1.0), "dies|x", "x")
    peer.runs = getattr(peer, "runs", 0) + 1  # type: ignore[attr-defined]
    if peer.runs == 3:  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGKILL)
    peer.observe(Normal(x, 1.0), "dies|obs", "obs")
    return x


def exits(peer: Peer) -> float:
    peer.sample(Normal(0.0, 1.0), "exits|x", "x")
    os.write(2, b"there is no table of cross sections\n")
    os._exit(3)


def hangs(peer: Peer) -> float:
    x = peer.sample(Normal(0.0, 1.0), "hangs|x", "x")
    if x > 0.0:
        time.sleep(3600.0)
    return x


def garbage(peer: Peer) -> float:
    peer.sample(Normal(0.0, 1.0), "garbage|x", "x")
    peer.socket.send(b"\x00\x01garbage")
    peer.socket.recv()
    return 0.0


def parts(peer: Peer) -> float:
    peer.socket.send_multipart([encode(Sample("a", "x", Normal(0.0, 1.0))), b"more"])
    peer.socket.recv()
    return 0.0


def turned(peer: Peer) -> float:
    """Answers where it should ask."""
    peer.ask(SampleResult(1.0))
    return 0.0


def resets(peer: Peer) -> float:
    raise ResetError


def gives_up(peer: Peer) -> float:
    peer.sample(Normal(0.0, 1.0), "gives_up|x", "x")
    peer.tag(None, "[failure]", "ValueError: no decay below threshold")
    raise ResetError


def floods(peer: Peer) -> float:
    while True:
        peer.sample(Normal(0.0, 1.0), "floods|x")


def marks(peer: Peer) -> float:
    while True:
        peer.tag(None, "[rejection]", "open")
        peer.tag(None, "[rejection]", "leave")


def closes(peer: Peer) -> float:
    peer.tag(None, "[rejection]", "leave")
    return 0.0


def moving(peer: Peer) -> float:
    """Has an address that is another one in every process."""
    x = peer.sample(Normal(0.0, 1.0), "moving|x", "x")
    return x + peer.sample(Normal(0.0, 1.0), f"moving|{os.getpid():#x}")


def leaks(peer: Peer) -> float:
    """Draws a number that nobody sees."""
    x = peer.sample(Normal(random.random(), 1.0), "leaks|x", "x")
    peer.observe(Normal(x, 1.0), "leaks|obs", "obs")
    return x


def speechless(endpoint: str) -> NoReturn:
    """Never shakes hands."""
    os.write(2, b"I do not listen\n")
    time.sleep(3600.0)
    raise SystemExit(endpoint)


def other(endpoint: str) -> NoReturn:
    """Speaks something else."""
    socket = bind(endpoint)
    while True:
        socket.recv()
        socket.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def old_frame() -> bytes:
    """A Run of PPX 0.1.1, which has an observation, as that version's own writer makes it."""
    import flatbuffers  # for this program alone

    builder = flatbuffers.Builder(64)
    builder.StartObject(2)
    tensor = builder.EndObject()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, tensor, 0)
    body = builder.EndObject()
    builder.StartObject(2)
    builder.PrependUint8Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(1, body, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def old(endpoint: str) -> NoReturn:
    socket = bind(endpoint)
    while True:
        socket.recv()
        socket.send(old_frame())


def main(model: str, endpoint: str) -> NoReturn:
    os.write(1, b"%d\n" % os.getpid())
    run = globals()[model.removeprefix("tracestore-")]
    if run in (speechless, other, old):
        run(endpoint)
    system_name = "tracestore 0.0" if model.startswith("tracestore-") else "testing 1.0"
    Peer(endpoint, system_name, model).serve(run)


if __name__ == "__main__":
    main(*sys.argv[1:3])
