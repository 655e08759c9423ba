"""What simulators in C++ cost: traces/s behind a socket, in lock-step, and addresses per draw.

    python benchmarks/cpp_front_end.py [--rounds 8] [--build FOLDER]

The controller does next to nothing: it looks at the type of each message and sends a frame that was made before. What
remains is the program and two hops through libzmq, so the last column divides the time per message by that of a program
that sends every frame back. Both are measured in turns, and the best of each counts. Needs cmake, a compiler, libzmq
and the headers of FlatBuffers.
"""

import argparse
import contextlib
import itertools
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import zmq

from tracestore.ppx.messages import Handshake, ObserveResult, Run, SampleResult, TagResult, encode

__all__: list[str] = []

ROUND_SECONDS = 0.25
SOURCE = Path(__file__).parents[1] / "cpp"
RUN_RESULT, SAMPLE, OBSERVE = 4, 5, 7
EXTENDED, PLAIN = "tracestore 1.0", "pyprob 1.5.0"


def build(folder: Path) -> Path:
    """Build examples and benchmarks, optimized."""
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DTRACESTORE_BUILD_TESTS=OFF", "-DTRACESTORE_BUILD_BENCHMARKS=ON"]
    subprocess.run(["cmake", "-S", SOURCE, "-B", folder, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "-j2"], check=True, stdout=subprocess.DEVNULL)
    return folder


@contextlib.contextmanager
def connected(command: Sequence[str]) -> Iterator[zmq.Socket[bytes]]:
    """Start a program and connect to it."""
    endpoint = f"ipc://@{uuid.uuid4().hex}"
    with subprocess.Popen([command[0], endpoint, *command[1:]]) as process:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)
        yield socket
        socket.close()
        process.kill()


def body_type(frame: bytes) -> int:
    """Read the number of a message's type without a look at the rest."""
    (root,) = struct.unpack_from("<I", frame)
    (distance,) = struct.unpack_from("<i", frame, root)
    (offset,) = struct.unpack_from("<H", frame, root - distance + 4)
    return frame[root + offset]


def drive(command: Sequence[str], system_name: str, values: Sequence[float], seconds: float) -> tuple[float, float]:
    """Return traces/s, and messages of the program for each trace."""
    draws = itertools.cycle([encode(SampleResult(value)) for value in values])
    run, observed, tagged = encode(Run()), encode(ObserveResult()), encode(TagResult())
    num_traces = num_messages = 0
    with connected(command) as socket:
        socket.send(encode(Handshake(system_name)))
        socket.recv()
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            socket.send(run)
            while (kind := body_type(socket.recv())) != RUN_RESULT:
                socket.send(next(draws) if kind == SAMPLE else observed if kind == OBSERVE else tagged)
                num_messages += 1
            num_traces += 1
            num_messages += 1
        elapsed = time.perf_counter() - start
    return num_traces / elapsed, num_messages / num_traces


def echoes(command: Sequence[str], seconds: float) -> float:
    """Return frames/s that are sent and come back."""
    frame, num_frames = encode(SampleResult(0.5)), 0
    with connected(command) as socket:
        socket.send(frame)
        socket.recv()  # now it has started
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            socket.send(frame)
            body_type(socket.recv())
            num_frames += 1
        return num_frames / (time.perf_counter() - start)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--build", type=Path, help="folder to build in; a temporary one by default")
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    uniform, states = rng.uniform(-1.0, 1.0, 997).tolist(), rng.integers(0, 3, 997).tolist()
    with tempfile.TemporaryDirectory() as temporary:
        folder = build(arguments.build or Path(temporary))
        examples, benchmarks = folder / "examples", folder / "benchmarks"
        print("program                    traces/s  messages/trace  messages/s  message/echo")
        for name, command, system_name, values in [
            ("gum", ["gum"], EXTENDED, uniform),
            ("gum_marsaglia, marked", ["gum_marsaglia"], EXTENDED, uniform),
            ("gum_marsaglia, not told", ["gum_marsaglia"], PLAIN, uniform),
            ("gum_marsaglia, plain", ["gum_marsaglia", "plain"], EXTENDED, uniform),
            ("hmm", ["hmm"], EXTENDED, states),
            ("detector", ["detector"], EXTENDED, [1.0]),
        ]:
            rates, references = [], []
            for _ in range(arguments.rounds):
                references.append(echoes([str(benchmarks / "echo")], ROUND_SECONDS))
                rates.append(drive([str(examples / command[0]), *command[1:]], system_name, values, ROUND_SECONDS))
            (rate, length), reference = max(rates), max(references)
            print(f"{name:25s} {rate:9.0f} {length:15.1f} {rate * length:11.0f} {reference / (rate * length):13.2f}")
        print("\nnanoseconds for the address of a draw, by depth of calls below the model")
        subprocess.run([benchmarks / "address_cost"], check=True)


if __name__ == "__main__":
    main()
