"""The preloaded library against controllers that do what they should not."""

import os
import random
import socket
import struct
import subprocess

import numpy as np
import pytest

pytest.importorskip("zmq")
import zmq

from tests.ppx.closed_programs import NEEDS_COMPILER, compiled
from tracestore.native.build import build_library
from tracestore.native.hooks import Hook, interposer_source
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
from tracestore.traces.distributions import Normal, Uniform

pytestmark = [NEEDS_COMPILER, pytest.mark.processes]

STATUS = 70
"""With which a program ends at once when the session goes wrong."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    with compiled(tmp_path_factory.mktemp("closed")) as found:
        yield found


@pytest.fixture(scope="module")
def library(programs):
    sources = interposer_source([Hook("drand48", "uniform_double")], backend="ppx")
    return build_library(
        "preload", sources, flags=("-std=gnu11", "-Wall", "-Werror=format", "-ldl", "-lpthread", "-lm")
    )


class Session:
    """A preloaded program and a controller that says anything."""

    def __init__(self, command, library, endpoint):
        variables = {"LD_PRELOAD": str(library), "TRACESTORE_PPX_ENDPOINT": endpoint, "TRACESTORE_PPX_SYSTEM": "here"}
        self.process = subprocess.Popen(
            command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 5)
        self.socket.connect(endpoint)

    def ask(self, frame):
        self.socket.send(frame)
        return decode(self.socket.recv()) if self.socket.poll(10_000) else None

    def tell(self, *frames):
        self.socket.send_multipart(frames)
        return self.end()

    def end(self):
        output, errors = self.process.communicate(timeout=20)
        return self.process.returncode, output, errors

    def close(self):
        self.socket.close()
        self.context.term()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def session(programs, library, tmp_path):
    opened = []

    def start(*words, endpoint=f"ipc://{tmp_path}/s"):
        opened.append(Session([programs.path("ending"), *words], library, endpoint))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_a_whole_session(session):
    one = session("well")
    assert one.ask(encode(Handshake("someone"))) == HandshakeResult("here", "ending")
    sample = one.ask(encode(Run()))
    assert isinstance(sample, Sample)
    assert (sample.prior, sample.name, sample.control) == (Uniform(0.0, 1.0), "", True)
    result = one.ask(encode(SampleResult(0.25)))
    assert isinstance(result, RunResult)
    assert result.result is not None
    assert float(result.result) == 0.0
    assert one.end()[:2] == (0, "first 0.25\n")


def test_a_run_needs_no_handshake(session):
    assert isinstance(session("well").ask(encode(Run())), Sample)


def test_the_handshake_may_be_repeated(session):
    one = session("well")
    one.ask(encode(Handshake("a")))
    assert isinstance(one.ask(encode(Handshake("b"))), HandshakeResult)


def test_tcp_and_abstract_endpoints(session):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert isinstance(session("well", endpoint=f"tcp://127.0.0.1:{port}").ask(encode(Run())), Sample)
    assert isinstance(session("well", endpoint=f"ipc://@closed-{port}").ask(encode(Run())), Sample)


def test_connections_that_end_before_anything_is_said_are_passed_over(session, tmp_path):
    one = session("well", endpoint=f"ipc://{tmp_path}/waiting")
    one.socket.close()
    while not (tmp_path / "waiting").exists():
        os.sched_yield()
    for said in (b"", b"\xff" + bytes(8) + b"\x7f", b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)):
        with socket.socket(socket.AF_UNIX) as hasty:
            hasty.connect(f"{tmp_path}/waiting")
            hasty.sendall(said)
    one.socket = one.context.socket(zmq.REQ)
    one.socket.connect(f"ipc://{tmp_path}/waiting")
    assert isinstance(one.ask(encode(Run())), Sample)


def test_reset_ends_the_program_without_its_exit_handlers(session):
    one = session("atexit")
    one.ask(encode(Run()))
    one.ask(encode(SampleResult(0.5)))
    status, output, errors = one.tell(encode(Reset()))
    assert (status, output) == (STATUS, "")
    assert "the controller ended the run" in errors


@pytest.mark.parametrize(
    "message", [Run(), Handshake("again"), ObserveResult(), TagResult(), Observe("a", "", Normal(0.0, 1.0), 1.0)]
)
def test_another_answer_to_a_draw_ends_the_program(session, message):
    one = session("well")
    one.ask(encode(Run()))
    assert one.tell(encode(message))[0] == STATUS


@pytest.mark.parametrize("message", [SampleResult(0.5), Reset(), TagResult()])
def test_another_message_than_a_run_ends_the_program(session, message):
    assert session("well").tell(encode(message))[0] == STATUS


def test_a_message_in_two_parts_ends_the_program(session):
    status, _, errors = session("well").tell(encode(Run()), encode(Run()))
    assert status == STATUS
    assert "a message of 2 parts" in errors


def test_a_message_that_is_too_long_ends_the_program(session):
    status, _, errors = session("well").tell(bytes(1 << 20))
    assert status == STATUS
    assert "1048576 bytes at once" in errors


def test_several_numbers_for_a_draw_end_the_program(session):
    one = session("well")
    one.ask(encode(Run()))
    assert "or with several" in one.tell(encode(SampleResult(np.array([0.5, 0.5]))))[2]


def test_garbage_ends_the_program_and_never_crashes_it(session):
    rng = random.Random(5)
    frame = bytearray(encode(SampleResult(0.5)))
    for number in range(60):
        damaged = bytearray(frame)
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(0, len(damaged) - 3)
            struct.pack_into(
                "<I", damaged, place, rng.choice([0, 1, 2**31 - 1, 2**32 - 1, rng.getrandbits(32), len(frame)])
            )
        if number % 3 == 0:
            damaged = damaged[: rng.randrange(len(damaged))]
        one = session("well")
        one.ask(encode(Run()))
        one.socket.send(bytes(damaged))
        assert one.end()[0] in (0, STATUS)
        one.close()


def test_a_controller_that_goes_away_ends_the_program(session):
    one = session("well")
    one.ask(encode(Run()))
    one.socket.close()
    status, _, errors = one.end()
    assert status == STATUS
    assert "closed the connection" in errors


def test_a_peer_that_does_not_speak_zeromq_ends_the_program(session, tmp_path):
    one = session("well")
    one.ask(encode(Handshake("a")))
    other = session("well", endpoint=f"ipc://{tmp_path}/other")
    other.socket.close()
    path = tmp_path / "other"
    while not path.exists() and other.process.poll() is None:
        os.sched_yield()
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(path))
        plain.sendall(b"GET / HTTP/1.1\r\n" + bytes(100))
        status, _, errors = other.end()
    assert status == STATUS
    assert "does not speak ZMTP 3" in errors


def test_without_an_endpoint_a_draw_says_so(programs, library):
    done = subprocess.run(
        [programs.path("ending"), "well"],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == STATUS
    assert b"nobody can be asked" in done.stderr
