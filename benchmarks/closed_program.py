"""A closed program under interposition, beside the same program run natively.

    python -m benchmarks.closed_program [--draws N] [--runs N] [--repeats R] [--in-flight 1 4]

Native is a fork, an exec and a wait for each run, with the program's own random numbers. Under interposition each run
is a process, too, and every draw is a question to this side. All are measured in turns, so that they meet the same
disturbances; the best of the repeats counts.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tracestore.execution import TraceStreams, WaveRun
from tracestore.execution.slots import Runner
from tracestore.execution.waves import run_in_flight
from tracestore.native.build import find_compiler
from tracestore.native.hooks import Hook
from tracestore.ppx.interposed import InterposedProgram
from tracestore.simulators import PriorController, run_trace

SOURCE = """
#include <stdio.h>
#include <stdlib.h>
int main(int count, char **words) {
  double sum = 0.0;
  for (int i = 0; i < atoi(words[count - 1]); i++) sum += drand48();
  printf("%.17g\\n", sum);
}
"""


def built(folder: Path) -> Path:
    (folder / "program.c").write_text(SOURCE)
    subprocess.run([str(find_compiler()), "-O1", "-o", folder / "program", folder / "program.c"], check=True)
    return folder / "program"


def native(command: list[str], num_runs: int) -> None:
    for _ in range(num_runs):
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def in_flight(program: InterposedProgram, num_runs: int) -> None:
    streams = TraceStreams(1, "test")
    runs = [WaveRun(stream, streams.generator(stream), None, asks=False) for stream in range(num_runs)]
    traces = run_in_flight(Runner(program), None, runs, num_slots=program.max_in_flight or 1)
    assert len(traces) == num_runs


def one_after_the_other(program: InterposedProgram, num_runs: int) -> None:
    for number in range(num_runs):
        assert not run_trace(program, PriorController(), np.random.default_rng(number)).failure


def seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 4])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        command = [str(built(Path(text))), str(chosen.draws)]
        ways: dict[str, Callable[[], None]] = {"native": lambda: native(command, chosen.runs)}
        programs = []
        for instances in chosen.in_flight:
            program = InterposedProgram(command, hooks=[Hook("drand48", "uniform_double")], instances=instances)
            programs.append(program)
            ways[f"interposed, {instances} in flight"] = partial(in_flight, program, chosen.runs)
        ways["interposed, run_trace"] = lambda: one_after_the_other(programs[0], chosen.runs)
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(chosen.repeats):
            for name, way in ways.items():
                best[name] = min(best[name], seconds(way))
        for program in programs:
            program.close()
    for name, took in best.items():
        print(
            f"{name:28} {chosen.runs / took:8.0f} traces/s {chosen.runs * chosen.draws / took:10.0f} draws/s"
            f" {took / best['native']:6.2f} times the native time"
        )


if __name__ == "__main__":
    main()
