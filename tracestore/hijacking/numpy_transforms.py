"""Methods of numpy's generators whose draws are made of recorded ones of other families, exactly."""

import math

import numpy as np

from tracestore.hijacking.drawing import draw
from tracestore.hijacking.numpy_results import Argument, Like, computed, units
from tracestore.traces.distributions import Exponential, Gamma, Normal, Poisson

__all__ = ["TRANSFORMS"]

SMALLEST = 2.0**-54
"""Stands for a uniform draw of zero where its logarithm is taken."""
LONGEST = float(2**63 - 1024)
"""Largest float that numpy's integers hold."""


def _positive_units(method: str, like: Argument) -> Argument:
    return np.maximum(units(method, np.shape(like)), SMALLEST)


def standard_cauchy(like: Like, size: Argument = None) -> Argument:
    """Cauchy, by its quantile function of a uniform draw."""
    return computed(like(size), (0.0,), lambda zero: np.tan(np.pi * (_positive_units("standard_cauchy", zero) - 0.5)))


def laplace(like: Like, loc: Argument = 0.0, scale: Argument = 1.0, size: Argument = None) -> Argument:
    """Laplace, by its quantile function of a uniform draw."""
    return computed(like(loc, scale, size), (loc, scale), _laplace, lambda _, scale: scale == 0.0)


def _laplace(loc: Argument, scale: Argument) -> Argument:
    u = _positive_units("laplace", loc)
    return np.where(u < 0.5, loc + scale * np.log(2.0 * u), loc - scale * np.log(2.0 * (1.0 - u)))


def logistic(like: Like, loc: Argument = 0.0, scale: Argument = 1.0, size: Argument = None) -> Argument:
    """Logistic, by its quantile function of a uniform draw."""
    return computed(like(loc, scale, size), (loc, scale), _logistic, lambda _, scale: scale == 0.0)


def _logistic(loc: Argument, scale: Argument) -> Argument:
    u = _positive_units("logistic", loc)
    return loc + scale * (np.log(u) - np.log1p(-u))


def triangular(like: Like, left: Argument, mode: Argument, right: Argument, size: Argument = None) -> Argument:
    """Triangular, by its quantile function of a uniform draw."""
    return computed(like(left, mode, right, size), (left, mode, right), _triangular)


def _triangular(left: Argument, mode: Argument, right: Argument) -> Argument:
    u = units("triangular", np.shape(left))
    width = right - left
    is_below = u * width <= mode - left
    below = left + np.sqrt(u * width * (mode - left))
    return np.where(is_below, below, right - np.sqrt((1.0 - u) * width * (right - mode)))


def gumbel(like: Like, loc: Argument = 0.0, scale: Argument = 1.0, size: Argument = None) -> Argument:
    """Gumbel: minus the logarithm of an exponential draw."""
    return computed(
        like(loc, scale, size),
        (loc, scale),
        lambda loc, scale: loc - scale * np.log(draw(Exponential(_ones(loc)), "gumbel")),
        lambda _, scale: scale == 0.0,
    )


def pareto(like: Like, a: Argument, size: Argument = None) -> Argument:
    """Lomax, which numpy calls Pareto, of an exponential draw."""
    return computed(like(a, size), (a,), _pareto)


def _pareto(a: Argument) -> Argument:
    with np.errstate(over="ignore"):
        return np.expm1(draw(Exponential(a), "pareto"))


def geometric(like: Like, p: Argument, size: Argument = None) -> Argument:
    """Geometric from 1: an exponential draw, rounded up."""
    if size is None and isinstance(p, float) and 1e-15 < p < 1.0:
        return int(draw(Exponential(-math.log1p(-p)), "geometric", 2)) + 1
    return computed(like(p, size), (p,), _geometric, lambda p: p == 1.0)


def _geometric(p: Argument) -> Argument:
    whole = np.floor(draw(Exponential(-np.log1p(-np.asarray(p))), "geometric")) + 1.0
    return np.minimum(whole, LONGEST)


def negative_binomial(like: Like, n: Argument, p: Argument, size: Argument = None) -> Argument:
    """Negative binomial: Poisson with a gamma rate."""
    return computed(like(n, p, size), (n, p), _negative_binomial, lambda _, p: p == 1.0)


def _negative_binomial(n: Argument, p: Argument) -> Argument:
    rate = draw(Gamma(n, p / (1.0 - p)), "negative_binomial.rate")
    return draw(Poisson(rate), "negative_binomial.count")


def standard_t(like: Like, df: Argument, size: Argument = None) -> Argument:
    """Student's t: normal over the root of a gamma draw."""
    return computed(like(df, size), (df,), _standard_t)


def _standard_t(df: Argument) -> Argument:
    z = draw(Normal(0.0 * df, 1.0), "standard_t.normal")
    return z / np.sqrt(draw(Gamma(0.5 * df, 0.5 * df), "standard_t.gamma"))


def f(like: Like, dfnum: Argument, dfden: Argument, size: Argument = None) -> Argument:
    """F: a ratio of gamma draws of mean 1."""
    return computed(like(dfnum, dfden, size), (dfnum, dfden), _f)


def _f(dfnum: Argument, dfden: Argument) -> Argument:
    above = draw(Gamma(0.5 * dfnum, 0.5 * dfnum), "f.numerator")
    return above / draw(Gamma(0.5 * dfden, 0.5 * dfden), "f.denominator")


def noncentral_chisquare(like: Like, df: Argument, nonc: Argument, size: Argument = None) -> Argument:
    """Non-central chi-squared: gamma with a Poisson number of added degrees of freedom."""
    return computed(like(df, nonc, size), (df, nonc), lambda df, nonc: _noncentral(df, nonc, "noncentral_chisquare"))


def _noncentral(df: Argument, nonc: Argument, method: str) -> Argument:
    added = draw(Poisson(0.5 * nonc), f"{method}.count")
    return draw(Gamma(0.5 * df + added, 0.5), f"{method}.gamma")


def noncentral_f(like: Like, dfnum: Argument, dfden: Argument, nonc: Argument, size: Argument = None) -> Argument:
    """Non-central F: a ratio of a non-central chi-squared and a gamma draw."""
    return computed(like(dfnum, dfden, nonc, size), (dfnum, dfden, nonc), _noncentral_f)


def _noncentral_f(dfnum: Argument, dfden: Argument, nonc: Argument) -> Argument:
    above = _noncentral(dfnum, nonc, "noncentral_f") / dfnum
    return above / draw(Gamma(0.5 * dfden, 0.5 * dfden), "noncentral_f.denominator")


def wald(like: Like, mean: Argument, scale: Argument, size: Argument = None) -> Argument:
    """Inverse Gaussian: one of the two roots that a squared normal draw leaves, chosen by a uniform one."""
    return computed(like(mean, scale, size), (mean, scale), _wald)


def _wald(mean: Argument, scale: Argument) -> Argument:
    y = mean * draw(Normal(0.0 * mean, 1.0), "wald.normal") ** 2
    larger = mean + 0.5 * mean / scale * (y + np.sqrt(4.0 * scale * y + y * y))
    smaller = mean * (mean / larger)
    u = units("wald.side", np.shape(mean))
    return np.where(u * (mean + smaller) <= mean, smaller, larger)


def logseries(like: Like, p: Argument, size: Argument = None) -> Argument:
    """Logarithmic series, by Kemp's method of two uniform draws."""
    return computed(like(p, size), (p,), _logseries, lambda p: p == 0.0)


def _logseries(p: Argument) -> Argument:
    v, u = np.moveaxis(np.maximum(units("logseries", (*np.shape(p), 2)), SMALLEST), -1, 0)
    q = -np.expm1(np.log1p(-np.asarray(p)) * u)
    with np.errstate(divide="ignore", over="ignore"):
        far = np.floor(1.0 + np.log(v) / np.log(q))
    near = np.where(v >= q, 1.0, 2.0)
    return np.minimum(np.where(v >= p, 1.0, np.where(v <= q * q, far, near)), LONGEST)


def zipf(like: Like, a: Argument, size: Argument = None) -> Argument:
    """Zipf, by rejection from two uniform draws a pass; a pass is made for all elements until all are accepted."""
    return computed(like(a, size), (a,), _zipf, lambda a: a >= 1025.0)


def _zipf(a: Argument) -> Argument:
    a = np.asarray(a, np.float64)
    less = a - 1.0
    highest = 2.0**less
    found = np.zeros(a.shape)
    while not found.all():
        u, v = np.moveaxis(units("zipf.pass", (*a.shape, 2)), -1, 0)
        smallest = LONGEST**-less
        x = np.floor((u * smallest + (1.0 - u)) ** (-1.0 / less))
        inside = (x >= 1.0) & (x <= LONGEST)
        x = np.where(inside, x, 1.0)
        t = (1.0 + 1.0 / x) ** less
        is_accepted = inside & (v * x * (t - 1.0) / (highest - 1.0) <= t / highest)
        found = np.where((found == 0.0) & is_accepted, x, found)
    return found


def _ones(like: Argument) -> Argument:
    return np.ones(np.shape(like)) if np.shape(like) else 1.0


TRANSFORMS = {
    "standard_cauchy": standard_cauchy,
    "laplace": laplace,
    "logistic": logistic,
    "triangular": triangular,
    "gumbel": gumbel,
    "pareto": pareto,
    "geometric": geometric,
    "negative_binomial": negative_binomial,
    "standard_t": standard_t,
    "f": f,
    "noncentral_chisquare": noncentral_chisquare,
    "noncentral_f": noncentral_f,
    "wald": wald,
    "logseries": logseries,
    "zipf": zipf,
}
"""Of `Generator` and `RandomState` alike."""
