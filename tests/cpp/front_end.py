"""Programs of the C++ front end for tests: built once, driven one message at a time."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import uuid
from pathlib import Path

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

__all__ = ["EXTENDED", "PLAIN", "Controller", "build", "driven", "missing_tools"]

SOURCE = Path(__file__).parents[2] / "cpp"
EXTENDED, PLAIN = "tracestore 1.0", "pyprob 1.5.0"


def missing_tools() -> str:
    """Say what the front end cannot be built without here; nothing when all is there."""
    compiler = next(filter(shutil.which, [os.environ.get("CXX", "c++"), "g++", "clang++"]), None)
    absent = [name for name in ("cmake", "pkg-config") if shutil.which(name) is None]
    if compiler is None:
        absent.append("a C++ compiler")
    else:
        for header in ("zmq.h", "flatbuffers/flatbuffers.h"):
            command = [compiler, "-std=c++17", "-E", "-x", "c++", "-", "-o", os.devnull]
            code = subprocess.run(command, input=f"#include <{header}>\n".encode(), capture_output=True, check=False)
            absent += [header] if code.returncode else []
    return f"the C++ front end cannot be built here without {', '.join(absent)}" if absent else ""


def build(folder: Path, *targets: str) -> Path:
    """Build targets of the front end, if that has not been done; safe under concurrent calls."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "CMakeCache.txt").exists():
            options = ["-DCMAKE_BUILD_TYPE=None", "-DTRACESTORE_BUILD_TESTS=ON", "-DTRACESTORE_BUILD_EXAMPLES=ON"]
            flags = f"-O1 {os.environ.get('CXXFLAGS', '')}"
            run(["cmake", "-S", str(SOURCE), "-B", str(folder), f"-DCMAKE_CXX_FLAGS={flags}", *options])
        run(["cmake", "--build", str(folder), "-j2", *(["--target", *targets] if targets else [])])
    return folder


def run(command: list[str]) -> str:
    """Run a tool; what it says is in the error when it fails."""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"{' '.join(command)}\n{found.stdout}\n{found.stderr}"
    return found.stdout


class Controller:
    """The inference side, one message at a time; a wait without an answer fails after twenty seconds."""

    def __init__(self, endpoint: str, process: "subprocess.Popen[bytes]") -> None:
        self.endpoint, self.process = endpoint, process
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self.socket.connect(endpoint)

    def ask_frames(self, *frames):
        self.socket.send_multipart(frames)
        return decode(self.socket.recv())

    def ask(self, message):
        return self.ask_frames(encode(message))

    def handshake(self, system_name=EXTENDED):
        answer = self.ask(Handshake(system_name))
        assert isinstance(answer, HandshakeResult)
        return answer

    def run(self, answer=None):
        """Run the program once; return what it asked, and how it ended."""
        asked = []
        message = self.ask(Run())
        while not isinstance(message, RunResult | Reset):
            asked.append(message)
            message = self.ask((answer or plain_answer)(message))
        return asked, message


def plain_answer(message):
    if isinstance(message, Sample):
        return SampleResult(0.75)
    return ObserveResult() if isinstance(message, Observe) else TagResult()


@contextlib.contextmanager
def driven(program: Path, *arguments: str, system_name: str | None = EXTENDED):
    """Start a program and talk to it; it must end well when told to, unless the block has ended it."""
    endpoint = f"ipc://@{uuid.uuid4().hex}"
    with subprocess.Popen([program, endpoint, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        controller = Controller(endpoint, process)
        try:
            if system_name is not None:
                controller.handshake(system_name)
            yield controller
            if process.poll() is None:
                process.terminate()
                assert process.wait(20) == 0, process.stderr.read().decode()
        finally:
            controller.socket.close()
            if process.poll() is None:
                process.kill()
