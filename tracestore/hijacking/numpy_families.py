"""Methods of numpy's generators whose draws have a family of priors of their own."""

import math

import numpy as np

from tracestore.hijacking.drawing import draw
from tracestore.hijacking.numpy_results import LARGEST, UNIT, Argument, Like, computed
from tracestore.traces.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Exponential,
    Gamma,
    LogNormal,
    MultivariateNormal,
    Normal,
    Poisson,
    Uniform,
    VonMises,
    Weibull,
)
from tracestore.traces.distributions.elementwise import HUGE, MAX_COUNT

__all__ = ["FAMILIES"]

PLAIN = (float, int)
TINY, LARGE = 1e-300, 1e300
"""Between these, one over a number is a normal float."""
STANDARD_NORMAL = Normal(0.0, 1.0)
STANDARD_EXPONENTIAL = Exponential(1.0)


def random(like: Like, size: Argument = None, dtype: Argument = np.float64, out: Argument = None) -> Argument:
    """Uniform from 0 to below 1."""
    if size is None and out is None and dtype is np.float64:
        value = draw(UNIT, "random", 2)
        return value if value < 1.0 else LARGEST
    result = like(size, dtype, out)
    largest = float(np.nextafter(np.asarray(1.0, dtype), np.asarray(0.0, dtype)))
    return computed(result, (0.0, 1.0), lambda low, high: np.minimum(draw(Uniform(low, high), "random"), largest))


def random_sample(like: Like, size: Argument = None) -> Argument:
    """As `random`, of `RandomState`."""
    if size is None:
        value = draw(UNIT, "random", 2)
        return value if value < 1.0 else LARGEST
    return computed(like(size), (0.0, 1.0), lambda low, high: np.minimum(draw(Uniform(low, high), "random"), LARGEST))


def rand(like: Like, *shape: Argument) -> Argument:
    """As `random`, with the shape spelled out."""
    return computed(like(*shape), (0.0, 1.0), lambda low, high: np.minimum(draw(Uniform(low, high), "rand"), LARGEST))


def uniform(like: Like, low: Argument = 0.0, high: Argument = 1.0, size: Argument = None) -> Argument:
    """Uniform between bounds."""
    if size is None and isinstance(low, PLAIN) and isinstance(high, PLAIN) and -HUGE <= low < high <= HUGE:
        return draw(Uniform(float(low), float(high)), "uniform", 2)
    return computed(like(low, high, size), (low, high), _uniform, lambda low, high: low == high)


def _uniform(low: Argument, high: Argument) -> Argument:
    # legacy numpy takes the bounds as they come
    return draw(Uniform(np.minimum(low, high), np.maximum(low, high)), "uniform")


def standard_normal(like: Like, size: Argument = None, dtype: Argument = np.float64, out: Argument = None) -> Argument:
    """Draw from the standard normal."""
    if size is None and out is None and dtype is np.float64:
        return draw(STANDARD_NORMAL, "standard_normal", 2)
    return computed(like(size, dtype, out), (0.0, 1.0), lambda loc, scale: draw(Normal(loc, scale), "standard_normal"))


def legacy_standard_normal(like: Like, size: Argument = None) -> Argument:
    """As `standard_normal`, of `RandomState`."""
    if size is None:
        return draw(STANDARD_NORMAL, "standard_normal", 2)
    return computed(like(size), (0.0, 1.0), lambda loc, scale: draw(Normal(loc, scale), "standard_normal"))


def randn(like: Like, *shape: Argument) -> Argument:
    """As `standard_normal`, with the shape spelled out."""
    return computed(like(*shape), (0.0, 1.0), lambda loc, scale: draw(Normal(loc, scale), "randn"))


def normal(like: Like, loc: Argument = 0.0, scale: Argument = 1.0, size: Argument = None) -> Argument:
    """Draw from a normal."""
    if size is None and isinstance(loc, PLAIN) and isinstance(scale, PLAIN) and 0.0 < scale <= HUGE:
        return draw(Normal(float(loc), float(scale)), "normal", 2)
    return computed(
        like(loc, scale, size),
        (loc, scale),
        lambda loc, scale: draw(Normal(loc, scale), "normal"),
        lambda _, scale: scale == 0.0,
    )


def lognormal(like: Like, mean: Argument = 0.0, sigma: Argument = 1.0, size: Argument = None) -> Argument:
    """Log-normal."""
    if size is None and isinstance(mean, PLAIN) and isinstance(sigma, PLAIN) and 0.0 < sigma <= HUGE:
        return draw(LogNormal(float(mean), float(sigma)), "lognormal", 2)
    return computed(
        like(mean, sigma, size),
        (mean, sigma),
        lambda mean, sigma: draw(LogNormal(mean, sigma), "lognormal"),
        lambda _, sigma: sigma == 0.0,
    )


def exponential(like: Like, scale: Argument = 1.0, size: Argument = None) -> Argument:
    """Exponential, given by its mean."""
    if size is None and isinstance(scale, PLAIN) and TINY < scale < LARGE:
        return draw(Exponential(1.0 / scale), "exponential", 2)
    return computed(
        like(scale, size),
        (scale,),
        lambda scale: draw(Exponential(1.0 / scale), "exponential"),
        lambda scale: scale == 0.0,
    )


def standard_exponential(
    like: Like, size: Argument = None, dtype: Argument = np.float64, method: Argument = "zig", out: Argument = None
) -> Argument:
    """Exponential of mean 1."""
    if size is None and out is None and dtype is np.float64 and method == "zig":
        return draw(STANDARD_EXPONENTIAL, "standard_exponential", 2)
    return computed(
        like(size, dtype, method, out), (1.0,), lambda rate: draw(Exponential(rate), "standard_exponential")
    )


def legacy_standard_exponential(like: Like, size: Argument = None) -> Argument:
    """As `standard_exponential`, of `RandomState`."""
    return computed(like(size), (1.0,), lambda rate: draw(Exponential(rate), "standard_exponential"))


def gamma(like: Like, shape: Argument, scale: Argument = 1.0, size: Argument = None) -> Argument:
    """Gamma, given by shape and scale."""
    if size is None and isinstance(shape, PLAIN) and isinstance(scale, PLAIN) and shape > 0.0 and TINY < scale < LARGE:
        return draw(Gamma(float(shape), 1.0 / scale), "gamma", 2)
    return computed(
        like(shape, scale, size),
        (shape, scale),
        lambda shape, scale: draw(Gamma(shape, 1.0 / scale), "gamma"),
        lambda shape, scale: (shape == 0.0) | (scale == 0.0),
    )


def standard_gamma(
    like: Like, shape: Argument, size: Argument = None, dtype: Argument = np.float64, out: Argument = None
) -> Argument:
    """Gamma of scale 1."""
    return _standard_gamma(like(shape, size, dtype, out), shape)


def legacy_standard_gamma(like: Like, shape: Argument, size: Argument = None) -> Argument:
    """As `standard_gamma`, of `RandomState`."""
    return _standard_gamma(like(shape, size), shape)


def _standard_gamma(result: Argument, shape: Argument) -> Argument:
    return computed(
        result, (shape,), lambda shape: draw(Gamma(shape, 1.0), "standard_gamma"), lambda shape: shape == 0.0
    )


def chisquare(like: Like, df: Argument, size: Argument = None) -> Argument:
    """Chi-squared, which is a gamma distribution."""
    if size is None and isinstance(df, PLAIN) and df > 0.0:
        return draw(Gamma(0.5 * df, 0.5), "chisquare", 2)
    return computed(like(df, size), (df,), lambda df: draw(Gamma(0.5 * df, 0.5), "chisquare"))


def beta(like: Like, a: Argument, b: Argument, size: Argument = None) -> Argument:
    """Beta."""
    if size is None and isinstance(a, PLAIN) and isinstance(b, PLAIN) and a > 0.0 and b > 0.0:
        return draw(Beta(float(a), float(b)), "beta", 2)
    return computed(like(a, b, size), (a, b), lambda a, b: draw(Beta(a, b), "beta"))


def power(like: Like, a: Argument, size: Argument = None) -> Argument:
    """Power function distribution, which is a beta distribution."""
    return computed(like(a, size), (a,), lambda a: draw(Beta(a, 1.0), "power"))


def weibull(like: Like, a: Argument, size: Argument = None) -> Argument:
    """Weibull of scale 1."""
    if size is None and isinstance(a, PLAIN) and a > 0.0:
        return draw(Weibull(1.0, float(a)), "weibull", 2)
    return computed(like(a, size), (a,), lambda a: draw(Weibull(1.0, a), "weibull"), lambda a: a == 0.0)


def rayleigh(like: Like, scale: Argument = 1.0, size: Argument = None) -> Argument:
    """Rayleigh, which is a Weibull distribution."""
    return computed(
        like(scale, size),
        (scale,),
        lambda scale: draw(Weibull(math.sqrt(2.0) * scale, 2.0), "rayleigh"),
        lambda scale: scale == 0.0,
    )


def vonmises(like: Like, mu: Argument, kappa: Argument, size: Argument = None) -> Argument:
    """Von Mises."""
    return computed(like(mu, kappa, size), (mu, kappa), lambda mu, kappa: draw(VonMises(mu, kappa), "vonmises"))


def poisson(like: Like, lam: Argument = 1.0, size: Argument = None) -> Argument:
    """Poisson."""
    if size is None and isinstance(lam, PLAIN) and 0.0 < lam <= MAX_COUNT:
        return draw(Poisson(float(lam)), "poisson", 2)
    return computed(like(lam, size), (lam,), lambda lam: draw(Poisson(lam), "poisson"), lambda lam: lam == 0.0)


def binomial(like: Like, n: Argument, p: Argument, size: Argument = None) -> Argument:
    """Binomial; of one trial, Bernoulli."""
    if size is None and type(n) is int and isinstance(p, PLAIN) and 0 < n <= MAX_COUNT and 0.0 < p < 1.0:
        return draw(Bernoulli(float(p)) if n == 1 else Binomial(n, float(p)), "binomial", 2)
    return computed(like(n, p, size), (n, p), _binomial, lambda n, p: (n == 0.0) | (p == 0.0) | (p == 1.0))


def _binomial(n: Argument, p: Argument) -> Argument:
    return draw(Bernoulli(p) if np.all(n == 1) else Binomial(n, p), "binomial")


def multivariate_normal(like: Like, generator: Argument, *args: Argument, **options: Argument) -> Argument:
    """Multivariate normal; several, or one of a singular covariance, are made by numpy of standard normal draws."""
    size = options.get("size", args[2] if len(args) > 2 else None)
    if size is None:
        result = like(*args, **options)
        mean = np.asarray(options.get("mean", args[0] if args else None), np.float64)
        covariance = np.asarray(options.get("cov", args[1] if len(args) > 1 else None), np.float64)
        values = np.linalg.eigvalsh(covariance)
        if values.size and values[0] > 1e-10 * values[-1] and np.isfinite(mean).all():
            result[...] = draw(MultivariateNormal(mean, covariance), "multivariate_normal")
            return result
    return like.method(generator, *args, **options)


FAMILIES = {
    "random": random,
    "uniform": uniform,
    "standard_normal": standard_normal,
    "normal": normal,
    "lognormal": lognormal,
    "exponential": exponential,
    "standard_exponential": standard_exponential,
    "gamma": gamma,
    "standard_gamma": standard_gamma,
    "chisquare": chisquare,
    "beta": beta,
    "power": power,
    "weibull": weibull,
    "rayleigh": rayleigh,
    "vonmises": vonmises,
    "poisson": poisson,
    "binomial": binomial,
}
"""Of `Generator`; those of `RandomState` have the same names."""
LEGACY_FAMILIES = FAMILIES | {
    "random": random_sample,
    "random_sample": random_sample,
    "rand": rand,
    "randn": randn,
    "standard_normal": legacy_standard_normal,
    "standard_exponential": legacy_standard_exponential,
    "standard_gamma": legacy_standard_gamma,
}
