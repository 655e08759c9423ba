"""A served simulator in a process of its own: signals, controllers that die, and our own controller."""

import signal
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from tracestore.simulators import PriorController, as_simulator, run_trace, toys

pytest.importorskip("zmq")
from tests.ppx.controllers import OTHER, Controller
from tracestore.ppx.messages import Handshake, Run, Sample, SampleResult, decode, encode
from tracestore.ppx.simulator import PPXSimulator

pytestmark = pytest.mark.processes

ROOT = str(Path(__file__).parents[2])
SERVER = """
import sys
import tracestore as ts
from tracestore.ppx.serving import SimulatorServer
from tracestore.simulators import toys

def stubborn():
    for _ in range(1000):
        try:
            ts.sample(ts.Normal(0.0, 1.0), address="x")
        except BaseException:
            pass

def busy():
    ts.sample(ts.Normal(0.0, 1.0), address="x")
    print("computing", flush=True)
    while True:
        pass

def endless():
    try:
        ts.sample(ts.Normal(0.0, 1.0), address="x")
    except BaseException:
        print("told to stop", file=sys.stderr, flush=True)
    while True:
        stubborn()

def beta():
    for attempt in ts.rejection():
        x = ts.sample(ts.Uniform(0.0, 1.0))
        if ts.sample(ts.Uniform(0.0, 1.0)) < 4.0 * x * (1.0 - x):
            attempt.accept()
    ts.observe(ts.Normal(x, 1.0), name="y")
    return x

program = globals().get(sys.argv[1]) or getattr(toys, sys.argv[1])
with SimulatorServer(program, sys.argv[2]) as server:
    print("listening", flush=True)
    print(server.serve())
"""


@pytest.fixture
def start():
    started = []

    def start(name):
        endpoint = f"ipc://@{uuid.uuid4().hex}"
        command = [sys.executable, "-c", SERVER, name, endpoint]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        started.append(process)
        assert process.stdout.readline() == "listening\n"
        return process, endpoint

    yield start
    for process in started:
        process.kill()
        process.communicate()


def end(process, number):
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    return output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_idle_server(start, number):
    process, endpoint = start("gum")
    with Controller(endpoint) as controller:
        controller.run_with()
    assert end(process, number) == f"ServedRuns(num_runs=1, num_failed=0, num_abandoned=0, signal={int(number)})\n"


@pytest.mark.parametrize("program", ["gum", "stubborn"])
def test_a_signal_ends_a_server_that_waits_in_a_run(start, program):
    process, endpoint = start(program)
    with Controller(endpoint) as controller:
        controller.ask(Run())
        assert "num_runs=0" in end(process, signal.SIGTERM)


def test_a_second_signal_ends_a_server_whose_program_swallows_the_first(start):
    process, endpoint = start("endless")
    with Controller(endpoint) as controller:
        controller.ask(Run())
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == "told to stop\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_a_signal_ends_a_server_that_computes_and_tells_the_controller(start):
    process, endpoint = start("busy")
    with Controller(endpoint) as controller:
        controller.ask(Run())
        controller.socket.send(encode(SampleResult(0.5)))
        assert process.stdout.readline() == "computing\n"
        end(process, signal.SIGINT)
        assert type(decode(controller.socket.recv())).__name__ == "Reset"


CLIENT = """
import sys, zmq
from tracestore.ppx.messages import Handshake, Run, encode
socket = zmq.Context().socket(zmq.REQ)
socket.connect(sys.argv[1])
for message in (Handshake("a"), Run()):
    socket.send(encode(message))
    socket.recv()
print("in a run", flush=True)
sys.stdin.read()
"""


def test_a_controller_that_is_killed_in_a_run_costs_that_run_only(start):
    process, endpoint = start("gum")
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert client.stdout.readline() == "in a run\n"
    client.kill()
    client.communicate()
    with Controller(endpoint) as controller:
        controller.handshake(OTHER)
        assert len(controller.run_with()[0]) == 3
    assert "num_runs=1, num_failed=0, num_abandoned=1" in end(process, signal.SIGTERM)


def test_a_burst_of_noise_on_the_socket_ends_nothing(start):
    process, endpoint = start("gum")
    rng = np.random.default_rng(1)
    with Controller(endpoint) as controller:
        for _ in range(200):
            controller.ask_frames(rng.bytes(int(rng.integers(0, 300))))
            frame = bytearray([encode(Run()), encode(SampleResult(0.5)), encode(Handshake("a"))][rng.integers(3)])
            frame[rng.integers(len(frame))] = rng.integers(256)
            controller.ask_frames(bytes(frame))
        controller.handshake()
        asked, _ = controller.run_with()
    assert isinstance(asked[0], Sample)
    assert "num_runs=" in end(process, signal.SIGTERM)


@pytest.mark.parametrize("name", ["gum", "gum_marsaglia", "hmm", "branching", "geometric"])
def test_our_controller_records_the_trace_that_it_would_record_here(start, name):
    _, endpoint = start(name)
    program = getattr(toys, name)
    remote = PPXSimulator(endpoints=[endpoint])
    for seed in range(3):
        here = run_trace(program, PriorController(), np.random.default_rng(seed))
        there = run_trace(remote, PriorController(), np.random.default_rng(seed))
        assert there.failure == ""
        assert there.layout.sites == here.layout.sites
        assert (there.log_prior, there.log_likelihood) == (here.log_prior, here.log_likelihood)


@pytest.mark.parametrize("collapse", [False, True])
def test_rejection_is_conducted_by_our_controller(start, collapse):
    _, endpoint = start("beta")
    remote = PPXSimulator(endpoints=[endpoint])
    here: dict[str, object] = {}
    exec(SERVER.partition("program =")[0], here)
    for seed in range(5):
        expected = run_trace(
            as_simulator(here["beta"]),
            PriorController(),
            np.random.default_rng(seed),
            collapse_rejection=collapse,
        )
        found = run_trace(remote, PriorController(), np.random.default_rng(seed), collapse_rejection=collapse)
        assert found.failure == ""
        assert len(found.sites) == len(expected.sites)
        assert found.log_prior == expected.log_prior
