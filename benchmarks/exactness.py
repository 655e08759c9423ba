"""Engines against exact answers, and what a network gains over the prior: programs with exact answers, and tau.

    OMP_NUM_THREADS=1 python -m benchmarks.exactness [--draws N] [--training-traces N] [--only WORD] [--tau]

For every program and observation of `tests/statistical/programs.py` and the hidden Markov model: ESS / draws of prior
importance sampling and of inference compilation, their ratio, Pareto's k-hat of the latter, and how far mean, standard
deviation and log evidence of each engine are from the exact answers, in their own Monte-Carlo standard errors. One
network a program, of the default sizes, is trained here for all its observations; its time includes the simulation
of the traces. For chains, ESS is the smallest bulk ESS. The program with a collapsible loop appears twice: the
prior proposes inside it, or, amortized, the network does.

``--tau`` does the same for one tau decay, which has no exact answer, with the network of `examples/tau.py`.
"""

import argparse
import math
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import tracestore as ts
from tests.statistical.programs import (
    PROGRAMS,
    Exact,
    hmm,
    hmm_marginals,
    hmm_observed,
    rejection_beta,
)
from tests.statistical.test_engines import z_evidence, z_mean, z_sd
from tracestore.inference import Posterior
from tracestore.networks import NetworkConfig, ProposalNetwork
from tracestore.simulators import Simulator
from tracestore.simulators.toys import HMM_OBSERVATIONS
from tracestore.training import TrainConfig

AMORTIZABLE = (rejection_beta,)
TAU_TRACES = 8000
TAU_DRAWS = 4000
TAU_NETWORK = NetworkConfig(max_instance=4)


class Trained(NamedTuple):
    """A network and the CPU seconds that it took, simulation included."""

    network: ProposalNetwork
    seconds: float


def hidden_markov() -> Exact:
    """The last state of the published series."""
    marginals, log_evidence = hmm_marginals(HMM_OBSERVATIONS)
    last, states = marginals[-1], np.arange(3)
    mean = float(states @ last)
    sd = math.sqrt(float((states - mean) ** 2 @ last))
    return Exact("hmm, last state", hmm, hmm_observed(), "result", mean, sd, log_evidence)


def train(program: Simulator, folder: Path, num_traces: int, config: TrainConfig, *, collapse: bool = False) -> Trained:
    start = time.process_time()
    ts.simulate(program, folder / "traces", num_traces=num_traces, seed=1, collapse_rejection=collapse)
    network = ts.training.train(folder / "traces", folder / "network", config=config)
    return Trained(network, time.process_time() - start)


def distances(posterior: Posterior, exact: Exact) -> list[float]:
    """Distances of mean, sd and, for weights, log evidence, in standard errors."""
    found = [z_mean(posterior, exact), z_sd(posterior, exact)]
    return [*found, z_evidence(posterior, exact)] if posterior.is_weighted else found


def compare(exact: Exact, trained: Trained, folder: Path, draws: int, *, amortize: bool) -> list[float]:
    """Run every engine on one program and print a row; returns the distances."""
    program, seen = exact.program, exact.observations
    engines = {
        "IS": lambda: ts.inference.importance(program, seen, folder / "is", num_draws=draws, seed=2),
        "IC": lambda: ts.inference.ic(
            program, seen, folder / "ic", network=trained.network, num_draws=draws, seed=3, amortize_rejection=amortize
        ),
        "RMH": lambda: ts.inference.rmh(program, seen, folder / "rmh", num_draws=draws, seed=4),
    }  # fmt: skip
    posteriors = {name: run() for name, run in engines.items()}
    found = {name: distances(posterior, exact) for name, posterior in posteriors.items()}
    share = {name: posterior.ess / draws for name, posterior in posteriors.items()}
    label = f"{exact.label}, amortized" if amortize else exact.label
    cells = (
        label, f"{trained.seconds:.0f}", f"{share['IS']:.4f}", f"{share['IC']:.3f}",
        f"{share['IC'] / share['IS']:.1f}", f"{posteriors['IC'].khat:.2f}", f"{share['RMH']:.3f}",
        *(" ".join(f"{z:+.1f}" for z in row) for row in found.values()),
    )  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)
    return [z for row in found.values() for z in row]


def compare_all(programs: list[Exact], folder: Path, draws: int, training_traces: int) -> None:
    print(f"{training_traces:,} traces of training, {draws:,} draws.\n")
    print("| program | training, s | IS: ESS/N | IC: ESS/N | IC / IS | k-hat | RMH: ESS/N | IS: z | IC: z | RMH: z |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    networks: dict[str, Trained] = {}
    found: list[float] = []
    for number, exact in enumerate(programs):
        for amortize in (False, True) if exact.program in AMORTIZABLE else (False,):
            name = exact.program.__name__ + ("-amortized" if amortize else "")
            if name not in networks:
                place = folder / name
                networks[name] = train(exact.program, place, training_traces, TrainConfig(), collapse=amortize)
            found += compare(exact, networks[name], folder / f"{number}{name}", draws, amortize=amortize)
    square = float(np.mean(np.square(found)))
    print(f"\n{len(found)} distances: mean square {square:.2f}, largest {max(map(abs, found)):.1f}.")


def compare_tau(folder: Path) -> None:
    """One decay: importance sampling from the prior and from a network."""
    from tracestore.simulators.tau import tau, test_event  # it needs TAUOLA

    seen, _ = test_event()
    trained = train(tau, folder / "tau", TAU_TRACES, TrainConfig(network=TAU_NETWORK))
    print(f"\ntau: {TAU_TRACES:,} traces of training, {trained.seconds:.0f} s with their simulation.\n")
    print("| engine | draws | ESS | ESS/N | k-hat | log evidence | CPU s | ESS / CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for engine in ("IS", "IC"):
        start = time.process_time()
        path, common = folder / f"tau-{engine}", {"num_draws": TAU_DRAWS, "seed": 5}
        if engine == "IS":
            posterior = ts.inference.importance(tau, seen, path, **common)
        else:
            posterior = ts.inference.ic(tau, seen, path, network=trained.network, **common)
        spent = time.process_time() - start
        evidence = f"{posterior.log_evidence:.2f} +- {posterior.log_evidence_se:.2f}"
        cells = (
            engine, f"{TAU_DRAWS:,}", f"{posterior.ess:.1f}", f"{posterior.ess / TAU_DRAWS:.4f}",
            f"{posterior.khat:.2f}", evidence, f"{spent:.1f}", f"{posterior.ess / spent:.1f}",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--training-traces", type=int, default=10_000)
    parser.add_argument("--only", default="", help="programs whose label has this word")
    parser.add_argument("--tau", action="store_true", help="measure a tau decay, too")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    programs = [exact for exact in [*PROGRAMS, hidden_markov()] if arguments.only in exact.label]
    with tempfile.TemporaryDirectory(prefix="tracestore-exact-") as folder:
        if programs:
            compare_all(programs, Path(folder), arguments.draws, arguments.training_traces)
        if arguments.tau:
            compare_tau(Path(folder))


if __name__ == "__main__":
    main()
