"""Programs with exact answers: moments and evidence by sums, forward-backward or closed form, for any observation."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.simulators.toys import (
    HMM_INITIAL,
    HMM_MEANS,
    HMM_OBSERVATIONS,
    HMM_TRANSITION,
    branching,
    geometric,
    gum,
    gum_marsaglia,
    hmm,
)
from tracestore.traces.distributions import Bernoulli, Normal


@dataclass(frozen=True)
class Exact:
    """A program, an observation, and the posterior of one variable."""

    label: str
    program: Simulator
    observations: dict[str, float]
    variable: str
    mean: float
    sd: float
    log_evidence: float


@simulator(reentrant=True)
def rare_success() -> int:
    """Failures before the first success of probability 0.2, seen with noise of sd 2."""
    failures = 0
    while sample(Bernoulli(0.2)) == 0:
        failures += 1
    observe(Normal(float(failures), 2.0), name="obs")
    return failures


@simulator(reentrant=True)
def two_paths() -> int:
    """One draw, or the sum of two, behind one observation."""
    branch = sample(Bernoulli(0.3), name="branch")
    x = sample(Normal(0.0, 1.0)) if branch else sample(Normal(1.0, 1.0)) + sample(Normal(1.0, 1.0))
    observe(Normal(x, 0.5), name="y")
    return branch


def gum_exact(program: Simulator, first: float, second: float) -> Exact:
    variance = 1.0 / (1.0 / 5.0 + 2.0 / 2.0)
    mean = variance * (1.0 / 5.0 + (first + second) / 2.0)
    covariance = np.full((2, 2), 5.0) + 2.0 * np.eye(2)
    log_evidence = stats.multivariate_normal.logpdf([first, second], [1.0, 1.0], covariance)
    variable = "mu" if program is gum else "result"
    label = f"{program.__name__} {first:g} {second:g}"
    return Exact(label, program, {"obs0": first, "obs1": second}, variable, mean, math.sqrt(variance), log_evidence)


def from_joint(label: str, program: Simulator, observed: dict[str, float], variable: str, joint: np.ndarray) -> Exact:
    """Moments of a variable on 0, 1, 2, ... with the given joint probabilities with the observation."""
    values, evidence = np.arange(len(joint)), joint.sum()
    mean = float(values @ joint / evidence)
    sd = math.sqrt(float((values - mean) ** 2 @ joint / evidence))
    return Exact(label, program, observed, variable, mean, sd, math.log(evidence))


def geometric_exact(program: Simulator, success: float, sd: float, observed: float) -> Exact:
    count = np.arange(400)
    joint = success * (1 - success) ** count * stats.norm.pdf(observed, count, sd)
    return from_joint(f"{program.__name__} {observed:g}", program, {"obs": observed}, "result", joint)


def branching_joint(observed: int) -> np.ndarray:
    fibonacci = [1, 1, 1]  # the program's own start: F(0) = 1
    while len(fibonacci) < 13:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    extra = np.arange(60)
    likelihood = [
        float(stats.poisson.pmf(extra, 4) @ stats.poisson.pmf(observed, 1 + fibonacci[3 * r] + extra))
        if r <= 4
        else float(stats.poisson.pmf(observed, 6))
        for r in range(60)
    ]
    return np.array(likelihood) * stats.poisson.pmf(np.arange(60), 4)


def branching_exact(observed: int) -> Exact:
    return from_joint(f"branching {observed}", branching, {"obs": observed}, "r", branching_joint(observed))


def hmm_marginals(observed: tuple[float, ...]) -> tuple[np.ndarray, float]:
    """Probabilities of the states, shape ``(17, 3)``, and log evidence, by forward-backward."""
    transition, means = np.array(HMM_TRANSITION), np.array(HMM_MEANS)
    likelihood = stats.norm.pdf(np.array(observed)[:, None], means, 1.0)
    forward, log_evidence = [np.array(HMM_INITIAL)], 0.0
    for step in range(len(observed)):
        joint = forward[-1] @ transition * likelihood[step]
        log_evidence += math.log(joint.sum())
        forward.append(joint / joint.sum())
    backward = [np.ones(3)]
    for step in reversed(range(len(observed))):
        message = transition @ (likelihood[step] * backward[0])
        backward.insert(0, message / message.sum())
    marginals = np.array(forward) * np.array(backward)
    return marginals / marginals.sum(axis=1, keepdims=True), log_evidence


def hmm_observed(observed: tuple[float, ...] = HMM_OBSERVATIONS) -> dict[str, float]:
    return {f"obs{step}": value for step, value in enumerate(observed)}


def two_paths_exact(observed: float) -> Exact:
    joint = np.array(
        [0.7 * stats.norm.pdf(observed, 2.0, math.sqrt(2.25)), 0.3 * stats.norm.pdf(observed, 0.0, math.sqrt(1.25))]
    )
    return from_joint(f"two paths {observed:g}", two_paths, {"y": observed}, "branch", joint)


PROGRAMS = [
    gum_exact(gum, 8.0, 9.0),
    gum_exact(gum, -1.0, -2.0),
    gum_exact(gum, 2.5, 0.1),
    gum_exact(gum_marsaglia, 8.0, 9.0),
    gum_exact(gum_marsaglia, -0.7, 3.1),
    branching_exact(6),
    branching_exact(3),
    geometric_exact(geometric, 0.5, 1.0, 3.0),
    geometric_exact(geometric, 0.5, 1.0, 0.4),
    geometric_exact(rare_success, 0.2, 2.0, 7.0),
    geometric_exact(rare_success, 0.2, 2.0, 1.5),
    two_paths_exact(2.2),
]

__all__ = [
    "PROGRAMS",
    "Exact",
    "branching_joint",
    "hmm",
    "hmm_marginals",
    "hmm_observed",
    "rare_success",
]
