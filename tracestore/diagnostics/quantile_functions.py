"""Quantiles of the standard normal and of the beta distribution, which numpy has not.

`normal_quantile` is algorithm AS 241, PPND16, of Wichura (1988): rational approximations of degree seven in three
ranges. The beta distribution function is the continued fraction of the NIST Digital Library of Mathematical Functions,
8.17.22, evaluated by Lentz's method.
"""

import math

import numpy as np
import numpy.typing as npt

__all__ = ["beta_cdf", "beta_quantile", "normal_quantile"]

FloatArray = npt.NDArray[np.float64]

# numerator and denominator, highest power first; each range has its own variable
_MIDDLE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
_NEAR_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
     3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
)  # fmt: skip
_FAR_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
     2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
     1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0),
)  # fmt: skip
_MIDDLE_HALF_WIDTH = 0.425
_TAIL_SPLIT = 5.0

_MAX_TERMS = 10_000
_TINY = 1e-300
_BISECTIONS = 200


def normal_quantile(probability: npt.ArrayLike) -> FloatArray:
    """Return quantiles of the standard normal distribution, to about one part in 1e16.

    Parameters
    ----------
    probability
        Numbers between 0 and 1, any shape.

    Returns
    -------
    numpy.ndarray
        Of the same shape; -inf at 0, inf at 1, NaN outside.

    Examples
    --------
    >>> np.round(normal_quantile([0.025, 0.5, 0.975]), 6)
    array([-1.959964,  0.      ,  1.959964])
    """
    wanted = np.asarray(probability, dtype=np.float64)
    flat = wanted.ravel()
    centered = flat - 0.5
    result = centered * _rational(_MIDDLE, _MIDDLE_HALF_WIDTH**2 - centered * centered)
    outside = np.flatnonzero(np.abs(centered) > _MIDDLE_HALF_WIDTH)
    if len(outside):
        tail = flat[outside]
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.sqrt(-np.log(np.minimum(tail, 1.0 - tail)))
            near = _rational(_NEAR_TAIL, distance - 1.6)
            far = _rational(_FAR_TAIL, distance - _TAIL_SPLIT)
        size = np.where(distance <= _TAIL_SPLIT, near, far)
        size[distance == math.inf] = math.inf
        result[outside] = np.where(centered[outside] < 0.0, -size, size)
    return result.reshape(wanted.shape)


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the distribution function of the beta distribution, the regularized incomplete beta function.

    Parameters
    ----------
    x
        Between 0 and 1.
    a, b
        Positive.

    Examples
    --------
    >>> round(beta_cdf(0.5, 2.0, 3.0), 6)
    0.6875
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast on the other side
        return 1.0 - beta_cdf(1.0 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / a * _continued_fraction(x, a, b)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return a quantile of the beta distribution, by bisection.

    Parameters
    ----------
    probability
        Between 0 and 1.
    a, b
        Positive.

    Examples
    --------
    >>> round(beta_quantile(0.6875, 2.0, 3.0), 6)
    0.5
    """
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _rational(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: FloatArray) -> FloatArray:
    parts = []
    for polynomial in coefficients:
        value = np.full_like(x, polynomial[0])
        for coefficient in polynomial[1:]:
            value *= x
            value += coefficient
        parts.append(value)
    ratio: FloatArray = parts[0] / parts[1]
    return ratio


def _continued_fraction(x: float, a: float, b: float) -> float:
    numerator, denominator = 1.0, _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    denominator = 1.0 / denominator
    result = denominator
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        for term in (even, odd):
            denominator = 1.0 / _away_from_zero(1.0 + term * denominator)
            numerator = _away_from_zero(1.0 + term / numerator)
            step = denominator * numerator
            result *= step
        if abs(step - 1.0) < 1e-15:
            break
    return result


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
