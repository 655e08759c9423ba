"""Speed of Markov chains on Marsaglia's Gaussian: against bare re-execution of the simulator, and against pyprob.

    python benchmarks/rmh_speed.py [--pyprob-python ENV/bin/python] [--scale S]

In one run, interleaved: steps of a chain by random-walk moves at single sites, and by the default mixture of moves,
the making of the columns of the kept draws included; the same traces run again with their recorded values
(`run_trace` with a `ReplayController`, every trace that the chain visited once for each step that it stood there);
runs from the prior (`run_trace` with a `PriorController`); plain calls of the simulator, which records nothing; and a
whole job, `rmh` into a store. CPU seconds, the best of the repeats; the ratios are of those.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tracestore.inference import RMHConfig, rmh
from tracestore.inference.chain import Chain
from tracestore.inference.rerun import Target
from tracestore.simulators import PriorController, ReplayController, run_trace
from tracestore.simulators.toys import gum_marsaglia

OBSERVED = {"obs0": np.array(8.0), "obs1": np.array(9.0)}
CHUNK = 500
KINDS = {
    "single-site moves": (("single", 1.0),),
    "default moves": (("single", 5 / 6), ("independent", 1 / 6)),
}
PEER = Path(__file__).with_name("rmh_speed_peer.py")


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


class Timings:
    """The chain and what it is compared with, on the same traces."""

    def __init__(self, moves: tuple[tuple[str, float], ...]) -> None:
        self.chain = Chain(Target(gum_marsaglia, OBSERVED, 1000, RMHConfig(), moves), 0)
        self.rng = np.random.default_rng(1)
        self.chain.start(self.rng)
        self.chain.run(self.rng, 0, CHUNK)
        self.num_sites = 0.0
        self.rows: list[dict[str, float]] = []

    def repeat(self) -> None:
        """Measure one chunk, and the bare runs of its traces."""
        batches = []
        chain = seconds(lambda: batches.append(self.chain.run(self.rng, 0, CHUNK)))
        traces = [batches[0][row] for row in range(CHUNK)]
        controllers = [ReplayController(trace) for trace in traces]
        self.num_sites += sum(map(len, traces)) / CHUNK
        self.rows.append(
            {
                "chain": chain,
                "replay": seconds(lambda: [self.run(controller) for controller in controllers]),
                "prior": seconds(lambda: [self.run(PriorController()) for _ in range(CHUNK)]),
                "plain": seconds(lambda: [gum_marsaglia() for _ in range(CHUNK)]),
            }
        )

    def run(self, controller) -> None:
        run_trace(gum_marsaglia, controller, self.rng, observations=OBSERVED)

    def each(self, name: str) -> float:
        """Seconds per trace: the traces differ from repeat to repeat, and so the mean of the faster half."""
        found = sorted(row[name] for row in self.rows)
        return float(np.mean(found[: max(1, len(found) // 2)])) / CHUNK

    def ratio(self, name: str) -> float:
        """Of the chain to something on the same traces, the median over the repeats."""
        return float(np.median([row["chain"] / row[name] for row in self.rows]))


def whole_job(num_draws: int) -> float:
    """Steps per CPU second of a job into a store, warm-up and start included."""
    with tempfile.TemporaryDirectory() as folder:
        spent = seconds(lambda: rmh(gum_marsaglia, OBSERVED, f"{folder}/post", num_draws=num_draws, chains=4, seed=1))
        return (num_draws + 4 * RMHConfig().warmup) / spent


def run_peer(python: str, num_steps: int, repeats: int) -> dict[str, list[float]]:
    words = [python, "-I", str(PEER), "--num-steps", str(num_steps), "--repeats", str(repeats)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyprob-python", help="interpreter of an environment with pyprob 1.5.0")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the numbers of steps")
    arguments = parser.parse_args()
    timings = {name: Timings(moves) for name, moves in KINDS.items()}
    for _ in range(max(2, round(40 * arguments.scale))):
        for timing in timings.values():
            timing.repeat()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; CPU time, {CHUNK} steps a repeat.\n")
    print("| chain | sites a trace | steps/s | us a step | replay, us | prior, us | plain call, us | chain / replay |")
    print("|---|---|---|---|---|---|---|---|")
    for name, timing in timings.items():
        micro = {what: 1e6 * timing.each(what) for what in ("chain", "replay", "prior", "plain")}
        cells = (
            name, f"{timing.num_sites / len(timing.rows):.1f}", f"{1e6 / micro['chain']:,.0f}",
            *(f"{number:.1f}" for number in micro.values()), f"{timing.ratio('replay'):.2f} (goal <= 1.3)",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |")
    job = whole_job(max(400, round(40_000 * arguments.scale)) // 4 * 4)
    print(f"\nA whole job into a store: {job:,.0f} steps/s.")
    if arguments.pyprob_python:
        num_steps = max(200, round(5000 * arguments.scale))
        peer = run_peer(arguments.pyprob_python, num_steps, 3)
        rate = num_steps / min(peer["cpu"])
        ours = 1 / timings["single-site moves"].each("chain")
        print(
            f"pyprob {peer['versions']['pyprob']}, RMH: {rate:,.0f} steps/s; ratios {ours / rate:.1f} of the chain,"
            f" {job / rate:.1f} of the whole job (goal >= 10)."
        )


if __name__ == "__main__":
    main()
