"""Methods of numpy's generators that draw several numbers that depend on each other, and counts without replacement."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tracestore.hijacking.drawing import draw
from tracestore.hijacking.numpy_results import Argument, Like, computed, refuse, units
from tracestore.traces.distributions import Beta, Binomial, Categorical

__all__ = ["COUNTS", "LEGACY_COUNTS"]

MAX_SUPPORT = 100_000
"""Most numbers of successes that a hypergeometric draw may have."""
MAX_CATEGORIES = 1024


def multinomial(like: Like, n: Argument, pvals: Argument, size: Argument = None) -> Argument:
    """Count categories: binomial draws, each of what the categories before have left."""
    result = like(n, pvals, size)
    if not result.size:
        return result
    shape = result.shape[:-1]
    weights = np.broadcast_to(np.asarray(pvals, np.float64), result.shape)
    left = np.broadcast_to(np.asarray(n, np.int64), shape).astype(np.float64)
    rest = np.ones(shape)
    for category in range(result.shape[-1] - 1):
        weight = weights[..., category]
        share = np.clip(np.divide(weight, rest, out=np.zeros(shape), where=rest > 0.0), 0.0, 1.0)
        taken: Argument = left * share  # where the share is zero or one
        if ((share > 0.0) & (share < 1.0)).any():
            taken = np.asarray(draw(_binomial(left, share), "multinomial"))
        result[..., category] = taken
        left = left - taken
        rest = rest - weight
    result[..., -1] = left
    return result


def _binomial(count: NDArray[np.float64], share: NDArray[np.float64]) -> Binomial:
    return Binomial(count, share) if count.shape else Binomial(float(count), float(share))


def dirichlet(like: Like, alpha: Argument, size: Argument = None) -> Argument:
    """Shares that sum to one: one vector of beta draws, each the share of what those before have left."""
    result = like(alpha, size)
    weights = np.asarray(alpha, np.float64)
    some = np.flatnonzero(weights > 0.0)
    if not result.size or len(some) < 2:
        return result
    weights = weights[some]
    after = np.cumsum(weights[::-1])[::-1][1:]
    shape = (*result.shape[:-1], len(after))
    betas = np.asarray(draw(Beta(np.broadcast_to(weights[:-1], shape), np.broadcast_to(after, shape)), "dirichlet"))
    left = np.cumprod(1.0 - betas, axis=-1)
    result[..., some[0]] = betas[..., 0]
    result[..., some[1:-1]] = betas[..., 1:] * left[..., :-1]
    result[..., some[-1]] = left[..., -1]
    return result


def hypergeometric(like: Like, ngood: Argument, nbad: Argument, nsample: Argument, size: Argument = None) -> Argument:
    """Good ones among those taken without replacement: Categorical, for arrays by quantiles of uniform draws."""
    return computed(
        like(ngood, nbad, nsample, size),
        (ngood, nbad, nsample),
        lambda good, bad, taken: _hypergeometric(good, bad, taken, "hypergeometric"),
        lambda good, bad, taken: (good == 0.0) | (bad == 0.0) | (taken == 0.0) | (taken == good + bad),
    )


def multivariate_hypergeometric(
    like: Like, colors: Argument, nsample: int, size: Argument = None, method: str = "marginals"
) -> Argument:
    """Count colors among those taken without replacement, one color after the other."""
    result = like(colors, nsample, size, method)
    shape = result.shape[:-1]
    rest = int(np.sum(colors))
    left = np.full(shape, float(nsample))
    if not result.size or not nsample:
        return result
    for index, color in enumerate(np.asarray(colors).tolist()[:-1]):
        rest -= color
        taken = left if not rest else left * 0.0
        if color and rest:
            good = np.full(shape, float(color))
            taken = np.asarray(_hypergeometric(good, np.full(shape, float(rest)), left, "multivariate_hypergeometric"))
        result[..., index] = taken
        left = left - taken
    result[..., -1] = left
    return result


def _hypergeometric(good: Argument, bad: Argument, taken: Argument, method: str) -> Argument:
    rows = list(zip(*[np.ravel(part).astype(np.int64).tolist() for part in (good, bad, taken)], strict=True))
    tables = [_table(*row) for row in rows]
    if not np.shape(good) and len(tables[0][1]) <= MAX_CATEGORIES:
        first, masses = tables[0]
        return first + draw(Categorical(masses), method)
    u = np.ravel(units(method, np.shape(good)))
    found = []
    for share, (first, masses) in zip(u.tolist(), tables, strict=True):
        cumulative = np.cumsum(masses)
        found.append(first + int(np.searchsorted(cumulative[:-1], share * cumulative[-1], side="right")))
    return np.array(found, np.float64).reshape(np.shape(good))


@lru_cache(maxsize=256)
def _table(good: int, bad: int, taken: int) -> tuple[int, NDArray[np.float64]]:
    """Smallest number of good ones, and the probability of each from there."""
    first, last = max(0, taken - bad), min(taken, good)
    if last - first >= MAX_SUPPORT:
        raise refuse("hypergeometric", f"when more than {MAX_SUPPORT} results are possible")
    # the ratio of each probability to the one before, which unlike its factorials loses no digits
    counts = np.arange(first, last, dtype=np.float64)
    ratios = (good - counts) * (taken - counts) / ((counts + 1.0) * (bad - taken + counts + 1.0))
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    masses = np.exp(logs - logs.max())
    return first, masses / math.fsum(masses.tolist())


LEGACY_COUNTS = {"multinomial": multinomial, "dirichlet": dirichlet, "hypergeometric": hypergeometric}
"""Of `RandomState`."""
COUNTS = LEGACY_COUNTS | {"multivariate_hypergeometric": multivariate_hypergeometric}
"""Of `Generator`."""
