"""Inference compilation beside the predecessor, pyprob 1.5.0: draws a second with networks of the same size.

    OMP_NUM_THREADS=1 python -m benchmarks.ic_speed [--pyprob-python PATH] [--program NAME] [--scale S] [--repeats R]

Both train a network on as many traces (LSTM of 128, observation embedding of 64, mixtures of ten components, address
embedding of 64: the paper's network with a smaller core) and draw from the posterior of one observation, in turns, so
that both meet the same disturbances; one process and one thread on either side. Ours writes whole traces into a store,
pyprob keeps the results in memory. ESS is of the weights, and depends on how well each network was trained. With
``--default`` this library's default network with the same core is measured, too.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from tracestore.inference import ic
from tracestore.networks import NETWORKS, NetworkConfig, ProposalNetwork
from tracestore.simulators import Simulator, toys
from tracestore.training import TrainConfig, train_online

CORE_SIZE = 128
OBSERVATION_SIZE = 64
NUM_COMPONENTS = 10
SLOTS = (1, 16, 64, 256)
OBSERVED = {"obs0": 8.0, "obs1": 9.0}
PAPER = replace(NETWORKS["paper"], core_size=CORE_SIZE, observation_size=OBSERVATION_SIZE, mixture_size=NUM_COMPONENTS)
DEFAULT = NetworkConfig(core_size=CORE_SIZE, observation_size=OBSERVATION_SIZE)
WORKER = Path(__file__).with_name("ic_speed_peer.py")


@dataclass(frozen=True, slots=True)
class Timing:
    """One measurement."""

    num_draws: int
    ess: float
    wall: float
    cpu: float

    @property
    def rate(self) -> float:
        """Draws a second."""
        return self.num_draws / self.wall


def best(timings: list[Timing]) -> Timing:
    """The fastest: what others do on the machine only adds."""
    return max(timings, key=lambda timing: timing.rate)


class Peer:
    """The predecessor in a process of its own."""

    def __init__(self, python: str, program: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        words = [python, "-I", str(WORKER), program]
        self.process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate("\n")

    def tell(self, do: str, **options: object) -> Mapping[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **options}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("pyprob's process ended; see above")
        found: Mapping[str, Any] = json.loads(line)
        return found


def train(program: Simulator, config: NetworkConfig, folder: Path, num_traces: int) -> ProposalNetwork:
    settings = TrainConfig(network=config, batch_size=64)  # as pyprob has it
    return train_online(program, folder, num_traces=num_traces, config=settings)


def draw(program: Simulator, network: ProposalNetwork, num_draws: int, *, seed: int, num_slots: int) -> Timing:
    """Draw into a store that is thrown away; the checks before the first draw count."""
    with tempfile.TemporaryDirectory(prefix="tracestore-ic-") as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        posterior = ic(
            program, OBSERVED, folder + "/post", network=network, num_draws=num_draws, seed=seed, num_slots=num_slots
        )
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        return Timing(num_draws, float(posterior.ess), *seconds)


def compare(
    program: Simulator, network: ProposalNetwork, peer: Peer | None, scale: float, repeats: int
) -> tuple[dict[int, list[Timing]], list[Timing]]:
    """Draw in turns, a number of times."""
    ours: dict[int, list[Timing]] = {slots: [] for slots in SLOTS}
    theirs: list[Timing] = []
    for repeat in range(repeats):
        for slots, timings in ours.items():
            num_draws = round(scale * min(12_000, 1000 + 200 * slots))
            timings.append(draw(program, network, num_draws, seed=repeat, num_slots=slots))
        if peer is not None:
            theirs.append(Timing(**peer.tell("infer", num_draws=round(scale * 1000), seed=repeat + 1)))
    return ours, theirs


def show(ours: dict[int, list[Timing]], theirs: list[Timing]) -> None:
    print("\n| slots | draws/s | ESS/s | pyprob draws/s | ESS/s | ratio of draws/s | of CPU time | of ESS/s |")
    print("|---|---|---|---|---|---|---|---|")
    for slots, timings in ours.items():
        our = best(timings)
        cells = [f"{slots}", f"{our.rate:,.0f}", f"{our.ess / our.wall:,.0f}", *["-"] * 5]
        if theirs:
            peer = best(theirs)
            pairs = [mine.rate / other.rate for mine, other in zip(timings, theirs, strict=True)]
            cells[3:] = [
                f"{peer.rate:,.0f}",
                f"{peer.ess / peer.wall:,.0f}",
                f"{our.rate / peer.rate:,.1f} ({min(pairs):,.0f}-{max(pairs):,.0f})",
                f"{(peer.cpu / peer.num_draws) / (our.cpu / our.num_draws):,.1f}",
                f"{(our.ess / our.wall) / (peer.ess / peer.wall):,.1f}",
            ]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyprob-python", help="interpreter of an environment with pyprob 1.5.0")
    parser.add_argument("--program", default="gum_marsaglia", choices=["gum", "gum_marsaglia"])
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the numbers of draws")
    parser.add_argument("--training", type=int, default=12_800, help="traces to train on")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--default", action="store_true", help="measure this library's default network, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    program: Simulator = getattr(toys, arguments.program)
    print(
        f"{arguments.program}, torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores."
    )
    with tempfile.TemporaryDirectory(prefix="tracestore-ic-") as folder:
        network = train(program, PAPER, Path(folder) / "paper", arguments.training)
        if arguments.pyprob_python is None:
            ours, theirs = compare(program, network, None, arguments.scale, arguments.repeats)
        else:
            with Peer(arguments.pyprob_python, arguments.program) as peer:
                sizes = {"core_size": CORE_SIZE, "observation_size": OBSERVATION_SIZE, "num_components": NUM_COMPONENTS}
                trained = peer.tell("train", num_traces=arguments.training, **sizes)
                count = sum(parameter.numel() for parameter in network.parameters())
                print(f"Parameters: {count:,} here, {trained['num_parameters']:,} there; {trained['versions']}.")
                ours, theirs = compare(program, network, peer, arguments.scale, arguments.repeats)
        show(ours, theirs)
        if arguments.default:
            default = train(program, DEFAULT, Path(folder) / "default", arguments.training)
            print("\nDefault network:")
            show(*compare(program, default, None, arguments.scale, arguments.repeats))


if __name__ == "__main__":
    main()
