"""Programs that end badly, each in its own way, as their first draw decides."""

import ctypes
import os
import signal
import sys
import time

import tracestore as ts
from tracestore.simulators import Simulator

ENDINGS = {
    "exit": "the simulator's process ended with exit code 3",
    "sys.exit": "the simulator's process ended with exit code 5",
    "kill": "the simulator's process was killed by signal SIGKILL",
    "crash": "the simulator's process was killed by signal SIGSEGV",
    "raise": "ValueError: no good",
    "nan": "InvalidInputError: `loc` of Normal must be a finite number; got nan.",
}


def end(how: str) -> None:
    if how == "exit":
        os._exit(3)
    elif how == "sys.exit":
        sys.exit(5)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "crash":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # or a test runner prints where it was
        ctypes.string_at(0)
    elif how == "raise":
        raise ValueError("no good")
    elif how == "nan":
        ts.observe(ts.Normal(float("nan"), 1.0), name="y")
    elif how == "hang":
        time.sleep(3600.0)


def fragile(how: str, probability: float = 0.5) -> Simulator:
    """One draw decides whether the run ends badly; else a normal mean is seen with noise."""

    def program() -> float:
        if ts.sample(ts.Bernoulli(probability), name="bad"):
            end(how)
        x: float = ts.sample(ts.Normal(0.0, 1.0), name="x")
        ts.observe(ts.Normal(x, 1.0), name="y")
        return x

    return Simulator(program, name="tests:fragile")
