"""PPX programs: messages and traces a second, beside a bare request-reply loop that exchanges the same frames.

    python -m benchmarks.ppx_speed [--in-flight 1 8 64] [--messages N] [--repeats R] [--profile]

Each model's run is recorded as frames once; programs that compute nothing play them (`ppx_player.py`), so that all cost
is that of the sockets and of this side. The bare loop sends recorded answers to the same program and looks at nothing:
the physical limit of lock-step. A served simulator (`tracestore.ppx.serving`) shows a real program in Python. All are
measured in turns, so that they meet the same disturbances; the best of the repeats counts, for what others do on the
machine only adds. In brackets: the range of the ratio within one turn. CPU is that of this process, with the I/O thread
of ZeroMQ. The profile is of the served simulator, whose messages differ from run to run.
"""

import argparse
import cProfile
import os
import pickle
import platform
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zmq

from tracestore.execution import TraceStreams, WaveRun
from tracestore.execution.slots import Runner
from tracestore.execution.waves import run_in_flight
from tracestore.ppx.link import Link
from tracestore.ppx.messages import HandshakeResult, Message, encode
from tracestore.ppx.simulator import PPXSimulator
from tracestore.simulators import PriorController, run_trace

MODELS = {"gum": "gum", "marsaglia": "gum-marsaglia", "hmm": "hmm"}
PLAYER = Path(__file__).with_name("ppx_player.py")
SERVE = (
    "import sys; from tracestore.ppx.serving import serve; from tracestore.simulators.catalog import resolve;"
    " serve(resolve(sys.argv[1]), sys.argv[2])"
)
ROOMS = {
    "waiting for the program": ("sockets.py:wait_sources",),
    "sending and receiving": ("zmq/", "ppx/sockets.py"),
    "decoding and encoding": ("ppx/messages.py", "ppx/message_types.py", "ppx/flatbuffer.py", "ppx/wire_distributions"),
    "link and conversation": ("ppx/link.py", "ppx/conversation.py", "ppx/pro", "ppx/simulator.py", "outside.py"),
    "recording": ("simulators/", "traces/"),
}


@dataclass(frozen=True, slots=True)
class Timing:
    """One measurement."""

    num_messages: int
    num_traces: int
    wall: float
    cpu: float

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.num_messages / self.wall


def timed(work: Callable[[], tuple[int, int]]) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    num_messages, num_traces = work()
    return Timing(num_messages, num_traces, time.perf_counter() - wall, time.process_time() - cpu)


class Frames:
    """What both sides say in one run of a model."""

    def __init__(self, model: str, folder: Path) -> None:
        self.asked: list[bytes] = []  # by the program
        self.answered: list[bytes] = []  # by this side, the order to run first
        with PPXSimulator([sys.executable, "-c", SERVE, MODELS[model]]) as program:
            run_trace(program, PriorController(), np.random.default_rng(0))
            self._listen(program)
        # without the name of a tracestore peer it is a program like any other
        hello = encode(HandshakeResult("player 1.0", model))
        self.path = folder / model
        self.path.write_bytes(pickle.dumps([hello, *self.asked]))

    def _listen(self, program: PPXSimulator) -> None:
        receive, send = Link.receive, Link._send

        def receive_and_note(link: Link) -> Message:
            message = receive(link)
            self.asked.append(encode(message))
            return message

        def send_and_note(link: Link, frame: bytes) -> None:
            self.answered.append(frame)
            send(link, frame)

        Link.receive, Link._send = receive_and_note, send_and_note  # type: ignore[method-assign]
        try:
            run_trace(program, PriorController(), np.random.default_rng(1))
        finally:
            Link.receive, Link._send = receive, send  # type: ignore[method-assign]

    @property
    def num_messages(self) -> int:
        """Questions and answers are one message each way; pairs are counted."""
        return len(self.answered)

    def play(self, num_programs: int) -> PPXSimulator:
        return PPXSimulator([sys.executable, str(PLAYER), str(self.path)], instances=num_programs, timeout=60.0)


class Bare:
    """The limit: a loop that sends recorded answers and looks at nothing."""

    def __init__(self, frames: Frames, endpoint: str) -> None:
        self.frames = frames
        self.process = subprocess.Popen([sys.executable, str(PLAYER), str(frames.path), endpoint])
        self.socket = zmq.Context.instance().socket(zmq.REQ)
        self.socket.connect(endpoint)
        self.socket.send(b"hello")
        self.socket.recv()

    def run(self, num_traces: int) -> tuple[int, int]:
        send, receive = self.socket.send, self.socket.recv
        for _ in range(num_traces):
            for frame in self.frames.answered:
                send(frame)
                receive()
        return num_traces * self.frames.num_messages, num_traces

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close(0)


def lock_step(program: PPXSimulator, num_traces: int) -> tuple[int, int]:
    rng = np.random.default_rng(1)
    sites = [len(run_trace(program, PriorController(), rng)) for _ in range(num_traces)]
    return sum(sites), num_traces  # as many messages: the tag of the result is none, the order to run is one


def in_flight(program: PPXSimulator, num_traces: int, num_slots: int) -> tuple[int, int]:
    streams = TraceStreams(1, "test")
    runs = [WaveRun(stream, streams.generator(stream), None, asks=False) for stream in range(num_traces)]
    traces = run_in_flight(Runner(program), None, runs, num_slots=num_slots)
    return sum(map(len, traces)), num_traces


def measure(frames: Frames, model: str, slots: Sequence[int], num_messages: int, repeats: int, folder: Path) -> None:
    num_traces = max(num_messages // frames.num_messages, 4)
    bare = Bare(frames, f"ipc://{folder}/bare")
    played = {count: frames.play(count) for count in slots}
    served = PPXSimulator([sys.executable, "-c", SERVE, MODELS[model]])
    work: dict[str, Callable[[], tuple[int, int]]] = {"bare loop": lambda: bare.run(num_traces)}
    for count, program in played.items():
        name = f"{count} in flight"
        if count == 1:
            work["lock-step"] = lambda program=program: lock_step(program, num_traces)  # type: ignore[misc]
        else:
            work[name] = lambda program=program, count=count: in_flight(program, num_traces, count)  # type: ignore[misc]
    work["served, lock-step"] = lambda: lock_step(served, num_traces)
    for one in work.values():
        one()  # starts the programs
    timings = {name: [] for name in work}
    for _ in range(repeats):
        for name, one in work.items():
            timings[name].append(timed(one))
    bare.close()
    for program in (*played.values(), served):
        program.close()
    limit = max(timing.rate for timing in timings["bare loop"])
    for name, found in timings.items():
        best = max(found, key=lambda timing: timing.rate)
        pairs = [one.rate / other.rate for one, other in zip(found, timings["bare loop"], strict=True)]
        print(
            f"| {model} | {name} | {best.rate:,.0f} | {best.num_traces / best.wall:,.0f} | {best.rate / limit:.2f} "
            f"({min(pairs):.2f}-{max(pairs):.2f}) | {1e6 * best.cpu / best.num_messages:.0f} |",
            flush=True,
        )


def profile(model: str, frames: Frames, num_messages: int) -> None:
    """Say where the time of lock-step goes, by the profiler: Python code looks slower than it is."""
    num_traces = max(num_messages // frames.num_messages, 4)
    with PPXSimulator([sys.executable, "-c", SERVE, MODELS[model]]) as program:
        lock_step(program, 2)
        profiler = cProfile.Profile()
        num_done, _ = profiler.runcall(lock_step, program, num_traces)
    seconds = dict.fromkeys([*ROOMS, "the rest"], 0.0)
    for (path, _, function), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        place = f"{path}:{function}"
        room = next((room for room, parts in ROOMS.items() if any(part in place for part in parts)), "the rest")
        if "waitid" in function:
            room = "link and conversation"
        seconds[room] += own
    for room, spent in seconds.items():
        print(f"    {room:26s} {1e6 * spent / num_done:6.1f} us a message")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--messages", type=int, default=4000, help="messages of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also say where the time goes")
    arguments = parser.parse_args()
    print(f"pyzmq {zmq.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores.\n")
    print("| model | how | messages/s | traces/s | of the bare loop | CPU us a message |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ppx-") as name:
        folder = Path(name)
        recorded = {model: Frames(model, folder) for model in arguments.models}
        for model, frames in recorded.items():
            measure(frames, model, arguments.in_flight, arguments.messages, arguments.repeats, folder)
        for model, frames in recorded.items() if arguments.profile else ():
            print(f"\n{model}:")
            profile(model, frames, arguments.messages)


if __name__ == "__main__":
    main()
