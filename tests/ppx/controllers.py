"""A small controller for tests of the program side, and a server in a thread."""

import contextlib
import threading
import uuid

import zmq

from tracestore.ppx.messages import (
    Handshake,
    HandshakeResult,
    Observe,
    ObserveResult,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    TagResult,
    decode,
    encode,
)
from tracestore.ppx.serving import SimulatorServer

OURS, OTHER = "tracestore 1.0", "pyprob 1.5.0"


class Controller:
    """The inference side, one message at a time; a wait without an answer fails after ten seconds."""

    def __init__(self, endpoint):
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 10_000)
        self.socket.connect(endpoint)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask_frames(self, *frames):
        self.socket.send_multipart(frames)
        return decode(self.socket.recv())

    def ask(self, message):
        return self.ask_frames(encode(message))

    def handshake(self, system_name=OURS):
        answer = self.ask(Handshake(system_name))
        assert isinstance(answer, HandshakeResult)
        return answer

    def run(self, answer):
        """Run the program once; return what it asked, and how it ended."""
        asked = []
        message = self.ask(Run())
        while not isinstance(message, RunResult | Reset):
            asked.append(message)
            message = self.ask(answer(message))
        return asked, message

    def run_with(self, value=0.5):
        return self.run(lambda message: plain_answer(message, value))


def plain_answer(message, value=0.5):
    if isinstance(message, Sample):
        return SampleResult(value)
    return ObserveResult() if isinstance(message, Observe) else TagResult()


@contextlib.contextmanager
def served(simulator, max_runs, **options):
    """Serve from a thread, which must have ended by itself after the block: with so many runs."""
    with SimulatorServer(simulator, f"ipc://@{uuid.uuid4().hex}", **options) as server:
        results = []
        thread = threading.Thread(target=lambda: results.append(server.serve(max_runs=max_runs)), daemon=True)
        thread.start()
        with Controller(server.endpoint) as controller:
            controller.server, controller.results = server, results
            yield controller
            thread.join(10.0)
            assert not thread.is_alive(), "the server waits for more runs"
