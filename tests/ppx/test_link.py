"""Links to programs that are played by the test, in this process."""

import os
import random
import threading
import time
from collections.abc import Iterator

import pytest

from tests.ppx.ppx_programs import command
from tracestore.errors import InvalidInputError, SimulatorError, SimulatorProtocolError, SimulatorTimeoutError
from tracestore.ppx.link import Link, Waited
from tracestore.ppx.messages import (
    Handshake,
    HandshakeResult,
    Message,
    Reset,
    RunResult,
    Tag,
    TagResult,
    decode,
    encode,
)
from tracestore.ppx.simulator import PPXSimulator
from tracestore.ppx.sockets import (
    Socket,
    bind_rep,
    bound_endpoint,
    connect_req,
    has_frame,
    poll_frame,
    receive_frame,
    send_frame,
    wait_any,
)
from tracestore.simulators.outside import wait_for


@pytest.fixture
def program() -> Iterator[Socket]:
    with bind_rep("tcp://127.0.0.1:*") as socket:
        yield socket


@pytest.fixture
def link(program: Socket) -> Iterator[Link]:
    link = Link(bound_endpoint(program), timeout=20.0)
    yield link
    link.close()


def answer(program: Socket, message: Message | bytes) -> Message:
    """Take what was asked and answer it."""
    wait_any([program], [], 20.0)
    asked = decode(receive_frame(program))
    send_frame(program, message if isinstance(message, bytes) else encode(message))
    return asked


def test_a_run_is_asked_for_and_ends(link: Link, program: Socket) -> None:
    link.begin_run()
    answer(program, Tag("a", "n", 1.0))
    assert link.receive() == link.pending == Tag("a", "n", 1.0)
    link.send(TagResult())
    assert link.is_in_run
    assert answer(program, RunResult(None)) == TagResult()
    assert link.receive() == RunResult(None)
    assert not link.is_in_run
    assert link.pending is None


def shake_hands(link: Link, program: Socket, message: Message) -> None:
    """Shake hands with a program that answers at the same time."""
    player = threading.Thread(target=answer, args=(program, message))
    player.start()
    try:
        link.shake_hands()
    finally:
        player.join()


@pytest.mark.parametrize(("name", "is_ours"), [("tracestore_cpp 1.0", True), ("pyprob_cpp 1.0.0", False)])
def test_who_answers_the_handshake(link: Link, program: Socket, name: str, is_ours: bool) -> None:
    shake_hands(link, program, HandshakeResult(name, "model"))
    assert (link.system_name, link.model_name, link.is_tracestore) == (name, "model", is_ours)


def test_another_answer_to_the_handshake_is_refused(link: Link, program: Socket) -> None:
    with pytest.raises(SimulatorProtocolError, match="answered the handshake with Reset"):
        shake_hands(link, program, Reset())


def test_a_silent_program_is_given_up(program: Socket) -> None:
    link = Link(bound_endpoint(program), timeout=0.05)
    link.begin_run()
    with pytest.raises(SimulatorTimeoutError, match=r"was silent for 0\.05 seconds"):
        link.receive()
    assert link.is_in_run
    assert not link.is_broken
    link.close()


def test_a_late_message_can_still_be_received(program: Socket) -> None:
    link = Link(bound_endpoint(program), timeout=0.05)
    link.begin_run()
    with pytest.raises(SimulatorTimeoutError):
        link.receive()
    answer(program, RunResult(None))
    assert wait_for(_Patient(link))
    assert link.receive() == RunResult(None)
    link.close()


class _Patient(Waited):
    """A link without a deadline."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.sources = link.sources

    def is_ready(self) -> bool:
        return self.link.is_ready()


@pytest.mark.parametrize("frame", [b"", b"\0" * 8, b"garbage" * 10, encode(Handshake("x"))[:20]])
def test_what_is_no_message_breaks_the_link(link: Link, program: Socket, frame: bytes) -> None:
    link.begin_run()
    answer(program, frame)
    with pytest.raises(SimulatorProtocolError, match="broke the protocol"):
        link.receive()
    assert link.is_broken


def test_sending_out_of_turn_is_refused(link: Link) -> None:
    link.begin_run()
    with pytest.raises(SimulatorProtocolError, match="could not be sent"):
        link.send(TagResult())


def test_the_end_of_a_program_elsewhere_is_noticed(program: Socket) -> None:
    link = Link(bound_endpoint(program), timeout=60.0)
    link.begin_run()
    answer(program, Tag("a", "n", 1.0))
    link.receive()
    link.send(TagResult())
    program.close()
    with pytest.raises(SimulatorError, match="closed its connection"):
        link.receive()
    link.close()


def test_a_program_that_ends_while_its_link_is_closed_does_not_block_others() -> None:
    delays = random.Random(1)
    for number in range(400):
        endpoint = f"ipc://@tracestore-test-{os.getpid()}-{number}"
        with bind_rep(endpoint) as other:
            link = Link(endpoint, timeout=20.0)
            link.begin_run()
            wait_any([other], [], 20.0)
            assert has_frame(other)
        end = time.perf_counter() + delays.random() * 4e-4
        while time.perf_counter() < end:
            pass
        link.close()


def test_several_are_waited_for_at_once(program: Socket) -> None:
    links = [Link(bound_endpoint(program), timeout=20.0) for _ in range(3)]
    for link in links:
        link.begin_run()
    wait_any([program], [], 20.0)
    receive_frame(program)
    send_frame(program, encode(RunResult(None)))
    Link.wait_any(links, None)
    assert sum(link.is_ready() for link in links) == 1
    for link in links:
        link.close()


def test_a_process_that_is_gone_makes_its_link_ready(program: Socket) -> None:
    class Gone:
        def __init__(self, descriptor: int) -> None:
            self.descriptor: int | None = descriptor

        def is_gone(self) -> bool:
            return True

        def how_it_ended(self) -> str:
            return "ended with exit code 1"

    reading, writing = os.pipe()
    os.write(writing, b"x")  # readable, as the descriptor of a process that is gone
    gone = Link(bound_endpoint(program), timeout=20.0, process=Gone(reading), label="decay")
    other = Link(bound_endpoint(program), timeout=20.0)
    gone.begin_run()
    Link.wait_any([other, gone], None)
    assert (gone.is_ready(), other.is_ready()) == (True, False)
    with pytest.raises(SimulatorError, match="The program 'decay' ended with exit code 1"):
        gone.receive()
    for link in (gone, other):
        link.close()
    os.close(reading)
    os.close(writing)


@pytest.mark.processes
def test_one_that_dies_is_noticed_among_others_without_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with PPXSimulator(command("exits"), timeout=60.0) as program, pytest.raises(SimulatorError, match="exit code 3"):
        program()


# ---------------------------------------------------------------------------------------------------------- sockets


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:65536", "", "tcp://", "tcp://*:5", "http://a", "ipc://" + "x" * 200, "a\0b"]
)
def test_malformed_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(InvalidInputError, match="Cannot connect to the endpoint"):
        connect_req(endpoint)


def test_an_endpoint_in_use_is_refused(program: Socket) -> None:
    with pytest.raises(InvalidInputError, match="address already in use"):
        bind_rep(bound_endpoint(program))


def test_abstract_names() -> None:
    name = f"ipc://@tracestore-test-{os.getpid()}"
    with bind_rep(name) as server, connect_req(name) as client:
        send_frame(client, b"question")
        wait_any([server], [], 20.0)
        assert receive_frame(server) == b"question"


def test_nothing_to_receive(program: Socket) -> None:
    assert not has_frame(program)
    assert poll_frame(program) is None
    with pytest.raises(SimulatorProtocolError, match="no message"):
        receive_frame(program)


def test_descriptors_are_waited_for_with_sockets(program: Socket) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x")
    wait_any([program], [reading], None)
    os.close(reading)
    os.close(writing)
