"""Programs with exact answers: moments and evidence by sums, forward-backward or closed form, for any observation."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.rejection import rejection
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
from tracestore.traces.distributions import Bernoulli, Binomial, Gamma, Normal, Poisson, Uniform


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


@simulator(reentrant=True)
def gdemo() -> None:
    """Unknown variance and mean; the variance is inverse-Gamma(2, 3)."""
    variance = 1.0 / sample(Gamma(2.0, 3.0), name="precision")
    mean = sample(Normal(0.0, math.sqrt(variance)), name="mean")
    observe(Normal(mean, math.sqrt(variance)), name="y0")
    observe(Normal(mean, math.sqrt(variance)), name="y1")


@simulator(reentrant=True)
def knuth() -> int:
    """Poisson(4) by Knuth's product of uniforms, seen with unit noise."""
    count, product = 0, sample(Uniform(0.0, 1.0))
    while product > math.exp(-4.0):
        product *= sample(Uniform(0.0, 1.0))
        count += 1
    observe(Normal(float(count), 1.0), name="obs")
    return count


@simulator(reentrant=True)
def random_sum() -> int:
    """One to many normal draws, of which the sum is seen."""
    count = 1 + sample(Poisson(2.0), name="more")
    total = 0.0
    for _ in range(count):
        total += sample(Normal(0.0, 1.0))
    observe(Normal(total, 0.5), name="obs")
    return count


@simulator(reentrant=True)
def rejection_beta() -> float:
    """Beta(2, 2) by rejection, then successes of that probability: naive weights have infinite variance here."""
    for attempt in rejection():
        x = sample(Uniform(0.0, 1.0))
        if sample(Uniform(0.0, 1.0)) < 4.0 * x * (1.0 - x):
            attempt.accept()
    observe(Binomial(5, x), name="five")
    return x


@simulator(reentrant=True)
def marked_beta() -> float:
    """The same with a loop of its own, and more successes."""
    with rejection():
        accepted = False
        while not accepted:
            x = sample(Uniform(0.0, 1.0))
            accepted = sample(Uniform(0.0, 1.0)) < 4.0 * x * (1.0 - x)
    observe(Binomial(20, x), name="twenty")
    return x


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


def gdemo_exact(first: float, second: float) -> Exact:
    """Normal with a normal-inverse-Gamma prior; the mean's marginal is Student's."""
    total, squares = first + second, first**2 + second**2
    shape, rate, precision = 3.0, 3.0 + 0.5 * (squares - total**2 / 3.0), 3.0
    location, degrees = total / precision, 2.0 * shape
    scale = math.sqrt(rate / (shape * precision))
    joint = stats.multivariate_t.logpdf([first, second], [0.0, 0.0], 1.5 * (np.eye(2) + 1.0), df=4.0)
    label, sd = f"gdemo {first:g} {second:g}", scale * math.sqrt(degrees / (degrees - 2.0))
    return Exact(label, gdemo, {"y0": first, "y1": second}, "mean", location, sd, float(joint))


def knuth_exact(observed: float) -> Exact:
    count = np.arange(60)
    joint = stats.poisson.pmf(count, 4.0) * stats.norm.pdf(observed, count, 1.0)
    return from_joint(f"knuth {observed:g}", knuth, {"obs": observed}, "result", joint)


def random_sum_exact(observed: float) -> Exact:
    count = np.arange(1, 60)
    joint = stats.poisson.pmf(count - 1, 2.0) * stats.norm.pdf(observed, 0.0, np.sqrt(count + 0.25))
    joint = np.concatenate([[0.0], joint])
    return from_joint(f"random sum {observed:g}", random_sum, {"obs": observed}, "result", joint)


def beta_exact(program: Simulator, name: str, trials: int, successes: int) -> Exact:
    exact = stats.beta(2 + successes, 2 + trials - successes)
    log_evidence = stats.betabinom.logpmf(successes, trials, 2, 2)
    label = f"{program.__name__} {successes}"
    return Exact(label, program, {name: float(successes)}, "result", exact.mean(), exact.std(), float(log_evidence))


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
    two_paths_exact(-0.3),
    gdemo_exact(1.5, 2.0),
    gdemo_exact(-0.4, 1.1),
    knuth_exact(7.0),
    knuth_exact(2.6),
    random_sum_exact(4.0),
    random_sum_exact(-0.7),
    beta_exact(rejection_beta, "five", 5, 5),
    beta_exact(rejection_beta, "five", 5, 1),
    beta_exact(marked_beta, "twenty", 20, 20),
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
