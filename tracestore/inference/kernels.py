"""Proposal kernels at a single site: where a Markov move goes from a value, given the prior there.

`propose` mixes a local kernel K with the prior p, as ``q(x'|x) = a K(x'|x) + (1 - a) p(x')``, and returns the
correction that the acceptance ratio needs. All sums of densities are taken in the log domain, so that values of many
dimensions do not underflow.
"""

import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tracestore.simulators.runtime import Value
from tracestore.traces.distributions import (
    Distribution,
    LogNormal,
    MultivariateNormal,
    Normal,
    TruncatedNormal,
    Uniform,
    VonMises,
)

__all__ = ["Proposed", "SiteKernel", "propose", "site_kernel"]

_BOUNDED_SHARE = 0.1
"""Scale of the kernel on a bounded interval, as a share of its length."""
_POSITIVE_SCALE = 0.5
"""Scale of the kernel on the positive numbers, in the logarithm of the value."""
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
_LOG_TWO = math.log(2.0)
_SQRT_TWO = math.sqrt(2.0)
_TWICE_INVERSE_ROOT_TAU = 2.0 / math.sqrt(2.0 * math.pi)


class SiteKernel(Protocol):
    """A distribution around the current value; a `Distribution` is one."""

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw a value near the current one."""

    def log_prob(self, value: Value) -> float:
        """Return the log density of moving to a value."""


class Proposed(NamedTuple):
    """A proposed value at one site."""

    value: Value
    log_prob: float
    """Under the prior; -inf when the kernel left the prior's support."""
    correction: float
    """What the site adds to the log acceptance ratio: ``log q(x|x') - log q(x'|x) + log p(x') - log p(x)``."""


def propose(
    prior: Distribution,
    value: Value,
    log_prob: float,
    rng: np.random.Generator,
    *,
    kernel_share: float,
    scale: float,
) -> Proposed:
    """Propose a new value for a site that has one.

    Parameters
    ----------
    prior
        The prior at the site, the same before and after the move.
    value
        The current value.
    log_prob
        Its log probability under the prior.
    rng
        Random numbers.
    kernel_share
        Probability of the local kernel; otherwise the prior proposes.
    scale
        Factor on the width of the local kernel.

    Examples
    --------
    >>> moved = propose(Normal(0.0, 1.0), 0.3, -0.96, np.random.default_rng(1), kernel_share=0.0, scale=1.0)
    >>> moved.correction
    0.0
    """
    if type(prior) is Uniform and kernel_share > 0.0 and not prior.shape:
        return _propose_on_interval(prior, float(value), log_prob, rng, kernel_share=kernel_share, scale=scale)
    forward = site_kernel(prior, value, scale) if kernel_share > 0.0 else None
    if forward is None:
        # the prior proposes alone: its density cancels against the target's
        drawn = prior.sample(rng)
        return Proposed(drawn, prior.log_prob(drawn), 0.0)
    drawn = forward.sample(rng) if rng.random() < kernel_share else prior.sample(rng)
    drawn_log_prob = prior.log_prob(drawn)
    if not drawn_log_prob > -math.inf:
        return Proposed(drawn, -math.inf, -math.inf)
    log_kernel = forward.log_prob(drawn)
    if type(forward) in _SYMMETRIC:
        log_kernel_back = log_kernel
    else:
        backward = site_kernel(prior, drawn, scale)
        if backward is None:
            return Proposed(drawn, -math.inf, -math.inf)
        log_kernel_back = backward.log_prob(value)
    log_forward = _log_mixture(kernel_share, log_kernel, drawn_log_prob)
    log_backward = _log_mixture(kernel_share, log_kernel_back, log_prob)
    return Proposed(drawn, drawn_log_prob, log_backward - log_forward + drawn_log_prob - log_prob)


def _propose_on_interval(
    prior: Uniform, value: float, log_prob: float, rng: np.random.Generator, *, kernel_share: float, scale: float
) -> Proposed:
    """Propose where the prior is flat, the most frequent case by far; the same as with `_BoundedStep`, but faster."""
    low, high = float(prior.low), float(prior.high)
    width = _BOUNDED_SHARE * (high - low) * scale
    if rng.random() < kernel_share:
        drawn = value + width * float(rng.standard_normal())
        while not low <= drawn <= high:
            drawn = value + width * float(rng.standard_normal())
    else:
        drawn = float(prior.sample(rng))
    root = width * _SQRT_TWO
    deviation = (drawn - value) / root
    # the densities of both directions, in units of the prior's; they differ by the mass inside the interval only
    share = kernel_share * math.exp(-deviation * deviation) * _TWICE_INVERSE_ROOT_TAU / (_BOUNDED_SHARE * scale)
    there = share / (math.erf((high - value) / root) - math.erf((low - value) / root)) + 1.0 - kernel_share
    back = share / (math.erf((high - drawn) / root) - math.erf((low - drawn) / root)) + 1.0 - kernel_share
    return Proposed(drawn, log_prob, math.log(back / there) if there > 0.0 else 0.0)


def site_kernel(prior: Distribution, value: Value, scale: float) -> SiteKernel | None:
    """Return the local kernel around a value, or None where only the prior proposes.

    Parameters
    ----------
    prior
        The prior at the site.
    value
        The current value.
    scale
        Factor on the width.

    Returns
    -------
    SiteKernel or None
        On the real line a Normal of the prior's standard deviation (with its correlations, where it has some), on a
        bounded interval a truncated Normal of a tenth of its length, on the circle a von Mises step of that width, on
        the positive numbers a log-Normal, for counts a step up to the prior's standard deviation. On other half lines
        a Normal, too; a step out of the support is rejected.
        Values of several elements move in all of them, with the width divided by the square root of their number.
    """
    if type(prior) is Uniform and not prior.shape:
        # the common case: reading the bounds of a general prior takes longer than the draw
        low, high = float(prior.low), float(prior.high)
        return _BoundedStep(float(value), _BOUNDED_SHARE * (high - low) * scale, low, high)
    if prior.is_discrete:
        return _CountStep(int(value), max(1, round(float(prior.stddev) * scale))) if _is_count(prior) else None
    if type(prior) is VonMises:
        width = _BOUNDED_SHARE * 2.0 * math.pi * scale / math.sqrt(np.size(value) or 1)
        return _CircularStep(value, np.full(prior.shape, width**-2) if prior.shape else width**-2)
    if isinstance(value, np.ndarray):
        return _vector_kernel(prior, value, scale / math.sqrt(value.size or 1))
    low, high = prior.support
    if -math.inf < low and high < math.inf:
        return _BoundedStep(value, _BOUNDED_SHARE * (high - low) * scale, low, high)
    if low == 0.0 and high == math.inf:
        return _PositiveStep(value, _POSITIVE_SCALE * scale) if value > 0.0 else None
    stddev = float(prior.scale if type(prior) is Normal else prior.stddev)
    return _RealStep(value, stddev * scale) if 0.0 < stddev < math.inf else None


def _vector_kernel(prior: Distribution, value: NDArray[np.float64], scale: float) -> SiteKernel | None:
    if isinstance(prior, MultivariateNormal):
        return _CorrelatedStep(value, np.asarray(np.linalg.cholesky(prior.covariance) * scale, np.float64))
    low, high = prior.support
    if math.isfinite(low) and math.isfinite(high):
        width = np.full(prior.shape, _BOUNDED_SHARE * (high - low) * scale)
        return TruncatedNormal(value, width, low, high)
    if low == 0.0 and high == math.inf:
        return LogNormal(np.log(value), np.full(prior.shape, _POSITIVE_SCALE * scale)) if (value > 0.0).all() else None
    stddev = np.asarray(prior.stddev)
    return _VectorStep(value, stddev * scale) if (np.isfinite(stddev) & (stddev > 0.0)).all() else None


class _RealStep:
    """Normal on the real line."""

    __slots__ = ("center", "scale")

    def __init__(self, center: float, scale: float) -> None:
        self.center = center
        self.scale = scale

    def sample(self, rng: np.random.Generator) -> float:
        return self.center + self.scale * float(rng.standard_normal())

    def log_prob(self, value: Value) -> float:
        deviation = float(value - self.center) / self.scale
        return -0.5 * deviation * deviation - math.log(self.scale) - _HALF_LOG_TAU


class _BoundedStep:
    """Normal truncated to an interval that contains its center, so at least about half of its mass."""

    __slots__ = ("center", "high", "log_mass", "low", "scale")

    def __init__(self, center: float, scale: float, low: float, high: float) -> None:
        self.center = center
        self.scale = scale
        self.low = low
        self.high = high
        root = scale * _SQRT_TWO
        mass = 0.5 * (math.erf((high - center) / root) - math.erf((low - center) / root))
        self.log_mass = math.log(mass * scale) + _HALF_LOG_TAU

    def sample(self, rng: np.random.Generator) -> float:
        while True:
            value = self.center + self.scale * float(rng.standard_normal())
            if self.low <= value <= self.high:
                return value

    def log_prob(self, value: Value) -> float:
        deviation = float(value - self.center) / self.scale
        return -0.5 * deviation * deviation - self.log_mass


class _PositiveStep:
    """Normal in the logarithm."""

    __slots__ = ("log_center", "scale")

    def __init__(self, center: float, scale: float) -> None:
        self.log_center = math.log(center)
        self.scale = scale

    def sample(self, rng: np.random.Generator) -> float:
        return math.exp(self.log_center + self.scale * float(rng.standard_normal()))

    def log_prob(self, value: Value) -> float:
        log_value = math.log(value)
        deviation = (log_value - self.log_center) / self.scale
        return -0.5 * deviation * deviation - math.log(self.scale) - _HALF_LOG_TAU - log_value


class _VectorStep:
    """Independent Normal steps."""

    __slots__ = ("center", "scale")

    def __init__(self, center: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        self.center = center
        self.scale = scale

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return self.center + self.scale * rng.standard_normal(self.center.shape)

    def log_prob(self, value: Value) -> float:
        deviation = (np.asarray(value) - self.center) / self.scale
        log_norm = float(np.log(self.scale).sum()) + self.center.size * _HALF_LOG_TAU
        return -0.5 * float((deviation * deviation).sum()) - log_norm


class _CorrelatedStep:
    """Normal step with the correlations of the prior."""

    __slots__ = ("center", "factor")

    def __init__(self, center: NDArray[np.float64], factor: NDArray[np.float64]) -> None:
        self.center = center
        self.factor = factor
        """Lower triangular; times its transpose, the covariance of the step."""

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return self.center + self.factor @ rng.standard_normal(self.center.size)

    def log_prob(self, value: Value) -> float:
        deviation = np.linalg.solve(self.factor, np.asarray(value) - self.center)
        log_norm = float(np.log(np.diagonal(self.factor)).sum()) + self.center.size * _HALF_LOG_TAU
        return -0.5 * float((deviation * deviation).sum()) - log_norm


class _CircularStep:
    """Von Mises step around an angle: it knows that both ends of the interval are one point."""

    __slots__ = ("around",)

    def __init__(self, center: Value, concentration: float | NDArray[np.float64]) -> None:
        self.around = VonMises(center, concentration)

    def sample(self, rng: np.random.Generator) -> Value:
        return self.around.sample(rng)

    def log_prob(self, value: Value) -> float:
        return self.around.log_prob(value)


class _CountStep:
    """Up or down by a uniform number; a step out of the support has no prior probability and is rejected."""

    __slots__ = ("center", "reach")

    def __init__(self, center: int, reach: int) -> None:
        self.center = center
        self.reach = reach

    def sample(self, rng: np.random.Generator) -> int:
        step = 1 if self.reach == 1 else 1 + int(rng.random() * self.reach)
        return self.center + (step if rng.random() < 0.5 else -step)

    def log_prob(self, value: Value) -> float:
        distance = abs(float(value) - self.center)
        return -_LOG_TWO - math.log(self.reach) if 1 <= distance <= self.reach else -math.inf


_SYMMETRIC = frozenset({_RealStep, _VectorStep, _CorrelatedStep, _CircularStep, _CountStep})
"""Steps whose density is the same in both directions."""


def _is_count(prior: Distribution) -> bool:
    """Whether neighbouring values are alike: not so for categories, and needless for two values."""
    return not prior.shape and prior.family in ("Poisson", "Binomial")


def _log_mixture(kernel_share: float, log_kernel: float, log_prior: float) -> float:
    """Log of ``a K + (1 - a) p``, with p positive."""
    log_a = log_kernel + math.log(kernel_share)
    if kernel_share >= 1.0:
        return log_a
    log_b = log_prior + math.log1p(-kernel_share)
    if log_a < log_b:
        log_a, log_b = log_b, log_a
    return log_a + math.log1p(math.exp(log_b - log_a))
