"""Engines against exact answers on the bundled toys, as a table.

    python benchmarks/exactness.py [--draws 20000] [--training-traces 20000]

For every toy: mean and standard deviation of the result, and log evidence, by prior importance sampling, inference
compilation (with a network trained here) and Markov chains, each with its Monte Carlo standard error and its distance
from the exact answer in those errors. ESS is Kish's for weights and the smallest bulk ESS for chains; the last column
is that of the mean alone, ``(sd / standard error)**2``, which heavy weights far from the mean reduce further.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import tracestore as ts
from tracestore.simulators import Simulator, toys


class Exact(NamedTuple):
    """Exact posterior of a toy's result."""

    mean: float
    sd: float
    log_evidence: float


class Toy(NamedTuple):
    simulator: Simulator
    observations: dict[str, float]
    exact: Exact


def _normal_log_density(x: float, mean: float, sd: float) -> float:
    return -0.5 * ((x - mean) / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)


def _poisson_log_mass(k: int, rate: float) -> float:
    return k * math.log(rate) - rate - math.lgamma(k + 1)


def gaussian(observed: Sequence[float]) -> Exact:
    """Conjugate Normal with prior N(1, sqrt 5) and likelihood sd sqrt 2."""
    precision = 1 / 5 + len(observed) / 2
    mean = (1 / 5 + sum(observed) / 2) / precision
    evidence, m, variance = 0.0, 1.0, 5.0
    for y in observed:
        evidence += _normal_log_density(y, m, math.sqrt(variance + 2))
        gain = variance / (variance + 2)
        m, variance = m + gain * (y - m), variance * (1 - gain)
    return Exact(mean, precision**-0.5, evidence)


def enumerated(values: Sequence[float], log_joint: Sequence[float]) -> Exact:
    """Posterior of a discrete result from its joint log masses."""
    joint, support = np.asarray(log_joint), np.asarray(values, float)
    log_evidence = float(np.logaddexp.reduce(joint))
    probability = np.exp(joint - log_evidence)
    mean = float(probability @ support)
    return Exact(mean, math.sqrt(float(probability @ (support - mean) ** 2)), log_evidence)


def branching(observed: int) -> Exact:
    """Sum over both Poisson draws, to far beyond their mass."""
    fibonacci = {0: 1, 1: 2, 2: 8, 3: 34, 4: 144}
    joint = []
    for r in range(60):
        if r > 4:
            likelihood = _poisson_log_mass(observed, 6.0)
        else:
            terms = [
                _poisson_log_mass(extra, 4.0) + _poisson_log_mass(observed, 1.0 + fibonacci[r] + extra)
                for extra in range(80)
            ]
            likelihood = float(np.logaddexp.reduce(terms))
        joint.append(_poisson_log_mass(r, 4.0) + likelihood)
    return enumerated(range(60), joint)


def geometric(observed: float) -> Exact:
    """Sum over the number of failures."""
    joint = [(n + 1) * math.log(0.5) + _normal_log_density(observed, n, 1.0) for n in range(200)]
    return enumerated(range(200), joint)


def hidden_markov(observed: Sequence[float]) -> Exact:
    """Filter the last state forward."""
    alpha = np.array(toys.HMM_INITIAL)
    log_evidence = 0.0
    for y in observed:
        alpha = alpha @ np.array(toys.HMM_TRANSITION)
        alpha *= np.exp([_normal_log_density(y, mean, 1.0) for mean in toys.HMM_MEANS])
        log_evidence += math.log(alpha.sum())
        alpha /= alpha.sum()
    return enumerated(range(3), np.log(alpha) + log_evidence)


GUM = {"obs0": 8.0, "obs1": 9.0}
HMM = {f"obs{step}": value for step, value in enumerate(toys.HMM_OBSERVATIONS)}
TOYS = (
    Toy(toys.gum, GUM, gaussian((8.0, 9.0))),
    Toy(toys.gum_marsaglia, GUM, gaussian((8.0, 9.0))),
    Toy(toys.branching, {"obs": 6.0}, branching(6)),
    Toy(toys.hmm, HMM, hidden_markov(toys.HMM_OBSERVATIONS)),
    Toy(toys.geometric, {"obs": 3.0}, geometric(3.0)),
)


def sd_error(posterior: "ts.inference.Posterior", mean: float, sd: float) -> float:
    """Monte Carlo standard error of the standard deviation, by the delta method on the second moment."""
    values, weights = posterior.values("result")[:2]
    normalized = weights / weights.sum()
    spread = float(np.sqrt(normalized @ (((values - mean) ** 2 - sd**2) ** 2)))
    return spread / (2 * sd) / math.sqrt(posterior_ess(posterior))


def posterior_ess(posterior: "ts.inference.Posterior") -> float:
    """Effective draws for the result."""
    return float(posterior.mcse("result") ** -2 * posterior.std("result") ** 2)


def cell(found: float, exact: float, error: float) -> str:
    """Estimate, standard error and distance in standard errors."""
    return f"{found:.4f} +- {error:.4f} ({(found - exact) / error:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--training-traces", type=int, default=20_000)
    arguments = parser.parse_args()
    print("| toy | engine | mean (z) | sd (z) | log evidence (z) | ESS / draws | of the mean |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for toy in TOYS:
            for row in rows(toy, Path(folder) / toy.simulator.__name__, arguments.draws, arguments.training_traces):
                print(row, flush=True)


def rows(toy: Toy, folder: Path, draws: int, training_traces: int) -> list[str]:
    """Run every engine on one toy."""
    name, exact = toy.simulator.__name__, toy.exact
    ts.simulate(toy.simulator, folder / "traces", num_traces=training_traces, seed=1)
    network = ts.training.train(folder / "traces", folder / "network")
    engines: dict[str, Callable[[], ts.inference.Posterior]] = {
        "IS": lambda: ts.inference.importance(toy.simulator, toy.observations, folder / "is", num_draws=draws, seed=2),
        "IC": lambda: ts.inference.ic(
            toy.simulator, toy.observations, folder / "ic", network=network, num_draws=draws, seed=3
        ),
        "RMH": lambda: ts.inference.rmh(toy.simulator, toy.observations, folder / "rmh", num_draws=draws, seed=4),
    }
    lines = [f"| {name} | exact | {exact.mean:.4f} | {exact.sd:.4f} | {exact.log_evidence:.4f} | | |"]
    for engine, run in engines.items():
        posterior = run()
        mean, sd = posterior.mean("result"), posterior.std("result")
        evidence, efficiency = "-", posterior_ess(posterior) / draws
        if engine != "RMH":
            evidence = cell(posterior.log_evidence, exact.log_evidence, posterior.log_evidence_se)
        lines.append(
            f"| {name} | {engine} | {cell(mean, exact.mean, posterior.mcse('result'))} "
            f"| {cell(sd, exact.sd, sd_error(posterior, mean, sd))} "
            f"| {evidence} | {posterior.ess / draws:.3f} | {efficiency:.3f} |"
        )
    return lines


if __name__ == "__main__":
    main()
