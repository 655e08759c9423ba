"""Diagnostics of Markov chains: R-hat, effective sample sizes, Monte-Carlo errors, autocorrelation.

Pure numpy; knows nothing of traces or stores. Draws come as arrays of shape ``(chains, draws)``; one-dimensional input
is one chain. Definitions follow Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021).

A quantity that never varies has no R-hat and no effective sample size: these functions return NaN for it, and
`is_constant` tells that case apart. Callers that talk to people say "constant" and never print the NaN.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from tracestore.diagnostics.quantile_functions import beta_quantile, normal_quantile
from tracestore.errors import DiagnosticError, InvalidInputError

__all__ = ["MIN_DRAWS", "FloatArray", "autocorrelation", "ess", "is_constant", "mcse", "rhat", "rhat_nested"]

FloatArray = npt.NDArray[np.float64]

MIN_DRAWS = 4
"""Draws a chain below which nothing can be said."""
_TAIL_PROBABILITIES = (0.05, 0.95)
# one standard error of a normal to either side, as probabilities
_ONE_SIGMA = (0.1586553, 0.8413447)
# spread below this share of the largest magnitude is rounding, not variation
_CONSTANT_TOLERANCE = 8 * float(np.finfo(np.float64).eps)


def rhat(draws: npt.ArrayLike) -> float:
    """Return the rank-normalized split R-hat, the larger of the bulk and the folded (tail) one.

    Parameters
    ----------
    draws
        Array of shape ``(chains, draws)``, at least two chains of four draws.

    Returns
    -------
    float
        1 for chains that agree; infinity for chains that stand still in different places; NaN when the draws are
        constant over all chains (see `is_constant`).

    Raises
    ------
    DiagnosticError
        With fewer than two chains or four draws a chain.
    InvalidInputError
        When a draw is not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> bool(rhat(rng.normal(size=(4, 1000))) < 1.01)
    True
    >>> bool(rhat(rng.normal(size=(4, 1000)) + np.arange(4)[:, None]) > 1.2)
    True
    """
    chains = _as_chains(draws)
    if chains.shape[0] < 2:
        message = "R-hat compares chains and needs at least two of them; found 1. Run with `chains=4`."
        raise DiagnosticError(message, chains=chains.shape[0])
    if is_constant(chains):
        return math.nan
    split = _split(chains)
    folded = np.abs(split - np.median(split))
    return max(_rhat_plain(_rank_normalized(split)), _rhat_plain(_rank_normalized(folded)))


def rhat_nested(draws: npt.ArrayLike, superchains: npt.ArrayLike) -> float:
    """Return the nested R-hat of many short chains, rank-normalized and split (Margossian et al. 2024).

    Chains that started in one place form a superchain. The means of superchains are compared, so that each chain may be
    far too short for `rhat`.

    Parameters
    ----------
    draws
        Array of shape ``(chains, draws)``, at least four draws a chain.
    superchains
        Number of the superchain of each chain, shape ``(chains,)``; all superchains have equally many chains.

    Returns
    -------
    float
        As `rhat`.

    Raises
    ------
    DiagnosticError
        With fewer than two superchains, superchains of unequal size, or fewer than four draws a chain.
    InvalidInputError
        When a draw is not finite, or there is not one number a chain.

    Examples
    --------
    >>> draws = np.random.default_rng(1).normal(size=(64, 10))
    >>> bool(rhat_nested(draws, np.repeat(np.arange(4), 16)) < 1.05)
    True
    """
    chains = _as_chains(draws)
    numbers, home = np.unique(np.asarray(superchains), return_inverse=True)
    if len(home) != len(chains):
        message = f"`superchains` needs one number a chain; found {len(home)} for {len(chains)} chains."
        raise InvalidInputError(message, argument="superchains")
    sizes = np.bincount(home)
    if len(numbers) < 2 or sizes.min() != sizes.max():
        message = (
            f"nested R-hat compares superchains of equally many chains and needs two of them; found {sizes.tolist()}."
        )
        raise DiagnosticError(message, sizes=tuple(sizes.tolist()))
    if is_constant(chains):
        return math.nan
    split = _split(chains)
    folded = np.abs(split - np.median(split))
    homes = np.concatenate([home, home])
    return max(_nested_plain(_rank_normalized(split), homes), _nested_plain(_rank_normalized(folded), homes))


def ess(
    draws: npt.ArrayLike,
    *,
    method: Literal["bulk", "tail", "mean", "sd", "quantile"] = "bulk",
    probability: float | None = None,
) -> float:
    """Return the effective sample size of the draws of Markov chains.

    Parameters
    ----------
    draws
        Array of shape ``(chains, draws)``, at least four draws a chain.
    method
        ``bulk``: of the rank-normalized draws. ``tail``: the smaller one of the 5 % and 95 % quantiles.
        ``mean``, ``sd``: of the draws and of their squared deviations, for Monte-Carlo errors. ``quantile``: of the
        quantile at `probability`.
    probability
        Between 0 and 1, for the method ``quantile`` alone.

    Returns
    -------
    float
        NaN when the draws are constant (see `is_constant`), or all lie on one side of the quantile.

    Raises
    ------
    DiagnosticError
        With fewer than four draws a chain.
    InvalidInputError
        When a draw is not finite, `method` is unknown or `probability` does not fit it.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> bool(abs(ess(rng.normal(size=(4, 1000))) - 4000) < 600)
    True
    """
    _require_method(method, ("bulk", "tail", "mean", "sd", "quantile"), probability)
    chains = _as_chains(draws)
    if is_constant(chains):
        return math.nan
    if method == "bulk":
        return _ess_plain(_rank_normalized(_split(chains)))
    if method in ("tail", "quantile"):
        probabilities = _TAIL_PROBABILITIES if probability is None else (probability,)
        sizes = [_ess_quantile(chains, quantile) for quantile in np.quantile(chains, probabilities).tolist()]
        return min((size for size in sizes if not math.isnan(size)), default=math.nan)
    if method == "mean":
        return _ess_plain(_split(chains))
    return _ess_plain(_split((chains - chains.mean()) ** 2))


def mcse(
    draws: npt.ArrayLike,
    *,
    method: Literal["mean", "sd", "quantile"] = "mean",
    probability: float | None = None,
) -> float:
    """Return the Monte-Carlo standard error of the mean, the standard deviation or a quantile of chain draws.

    Parameters
    ----------
    draws
        Array of shape ``(chains, draws)``.
    method
        Which estimate the error is for.
    probability
        Between 0 and 1, for the method ``quantile`` alone.

    Returns
    -------
    float
        0 for constant draws. For a quantile half the distance between two order statistics, one standard error of its
        probability to either side.

    Raises
    ------
    DiagnosticError
        With fewer than four draws a chain.
    InvalidInputError
        When a draw is not finite, `method` is unknown or `probability` does not fit it.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> bool(abs(mcse(rng.normal(size=(4, 2500))) - 0.01) < 0.002)
    True
    """
    _require_method(method, ("mean", "sd", "quantile"), probability)
    chains = _as_chains(draws)
    if is_constant(chains):
        return 0.0
    if probability is not None:
        return _mcse_quantile(chains, probability)
    if method == "mean":
        return float(chains.std(ddof=1)) / math.sqrt(ess(chains, method="mean"))
    squares = (chains - chains.mean()) ** 2
    variance = float(squares.mean())
    # a two-valued draw with equal shares has constant squared deviations: its sd has no error to speak of
    size = math.inf if is_constant(squares) else _ess_plain(_split(squares))
    return math.sqrt(float(squares.var()) / size / variance / 4.0)


def autocorrelation(draws: npt.ArrayLike, *, max_lag: int | None = None) -> FloatArray:
    """Return the autocorrelation of every chain at lags 0, 1, 2, ...

    Parameters
    ----------
    draws
        Array of shape ``(chains, draws)``.
    max_lag
        Largest lag returned; all lags when None.

    Returns
    -------
    numpy.ndarray
        Shape ``(chains, lags)``, 1 at lag 0. A chain that stands still correlates fully with itself: ones.

    Raises
    ------
    DiagnosticError
        With fewer than four draws a chain.
    InvalidInputError
        When a draw is not finite.

    Examples
    --------
    >>> bool(autocorrelation(np.random.default_rng(1).normal(size=5000), max_lag=1)[0, 1] < 0.05)
    True
    """
    chains = _as_chains(draws)
    lags = chains.shape[1] if max_lag is None else min(max_lag + 1, chains.shape[1])
    covariance = _autocovariance(chains)
    result = np.ones((chains.shape[0], lags))
    for row, chain in enumerate(chains):
        if not is_constant(chain):
            result[row] = covariance[row, :lags] / covariance[row, 0]
    return result


def is_constant(draws: npt.ArrayLike) -> bool:
    """Tell whether draws never vary beyond rounding.

    Parameters
    ----------
    draws
        Array of any shape.

    Examples
    --------
    >>> is_constant([[2.0, 2.0], [2.0, 2.0]]), is_constant([1.0, 2.0])
    (True, False)
    """
    values = np.asarray(draws, dtype=np.float64)
    if values.size == 0:
        return True
    low, high = float(values.min()), float(values.max())
    return high - low <= _CONSTANT_TOLERANCE * max(abs(low), abs(high))


def _require_method(method: str, known: tuple[str, ...], probability: float | None) -> None:
    if method not in known:
        message = f"`method` must be one of {', '.join(map(repr, known))}; got {method!r}."
        raise InvalidInputError(message, argument="method")
    if (method == "quantile") != (probability is not None) or not 0.0 <= (probability or 0.0) <= 1.0:
        message = (
            "`probability` belongs to the method 'quantile', which needs it, between 0 and 1;"
            f" got {probability!r} for {method!r}."
        )
        raise InvalidInputError(message, argument="probability")


def _as_chains(draws: npt.ArrayLike) -> FloatArray:
    chains = np.atleast_2d(np.asarray(draws, dtype=np.float64))
    if chains.ndim != 2 or chains.shape[1] < MIN_DRAWS:
        message = (
            f"chain diagnostics need draws of shape (chains, draws) with at least {MIN_DRAWS} draws a chain;"
            f" found shape {chains.shape}."
        )
        raise DiagnosticError(message, shape=chains.shape)
    if not np.isfinite(chains).all():
        message = (
            f"chain diagnostics need finite draws; found {int((~np.isfinite(chains)).sum())} that are NaN or infinite."
        )
        raise InvalidInputError(message, argument="draws")
    return chains


def _split(chains: FloatArray) -> FloatArray:
    half = chains.shape[1] // 2
    return np.vstack((chains[:, :half], chains[:, -half:]))


def _rank_normalized(chains: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(chains.ravel(), return_inverse=True, return_counts=True)
    average_rank = np.cumsum(counts) - (counts - 1) / 2.0
    scores = normal_quantile((average_rank - 0.375) / (chains.size + 0.25))
    return scores[inverse].reshape(chains.shape)


def _rhat_plain(chains: FloatArray) -> float:
    length = chains.shape[1]
    between = length * float(chains.mean(axis=1).var(ddof=1))
    within = float(chains.var(axis=1, ddof=1).mean())
    if within <= _CONSTANT_TOLERANCE * between:
        # folded draws may be constant although the draws are not: nothing to compare
        return math.inf if between > 0.0 else 1.0
    return math.sqrt((between / within + length - 1) / length)


def _nested_plain(chains: FloatArray, homes: npt.NDArray[np.intp]) -> float:
    """Compare superchains: between them against within them, which is within and between their chains."""
    count = np.bincount(homes)
    means = chains.mean(axis=1)
    middles = np.bincount(homes, means) / count
    spread = np.bincount(homes, (means - middles[homes]) ** 2) / (count - 1) if count[0] > 1 else np.zeros(len(count))
    within = float((np.bincount(homes, chains.var(axis=1, ddof=1)) / count + spread).mean())
    between = float(middles.var(ddof=1))
    if within <= _CONSTANT_TOLERANCE * between:
        return math.inf if between > 0.0 else 1.0
    return math.sqrt(1.0 + between / within)


def _ess_quantile(chains: FloatArray, quantile: float) -> float:
    below = (chains <= quantile).astype(np.float64)
    return math.nan if is_constant(below) else _ess_plain(_split(below))


def _mcse_quantile(chains: FloatArray, probability: float) -> float:
    """Width of the order statistics at which the beta posterior of the probability is one sigma away."""
    size = _ess_quantile(chains, float(np.quantile(chains, probability)))
    if math.isnan(size):
        return math.nan
    low, high = (
        beta_quantile(p, size * probability + 1.0, size * (1.0 - probability) + 1.0) * chains.size - 1.0
        for p in _ONE_SIGMA
    )
    places = [math.floor(max(low, 0.0)), math.ceil(min(high, chains.size - 1.0))]
    first, last = np.partition(chains.ravel(), places)[places].tolist()
    return 0.5 * float(last - first)


def _autocovariance(chains: FloatArray) -> FloatArray:
    length = chains.shape[1]
    padded = 1 << (2 * length - 1).bit_length()
    spectrum = np.fft.rfft(chains - chains.mean(axis=1, keepdims=True), n=padded, axis=1)
    covariance: FloatArray = np.fft.irfft(spectrum * spectrum.conj(), n=padded, axis=1)[:, :length] / length
    return covariance


def _ess_plain(chains: FloatArray) -> float:
    """Geyer's initial monotone sequence estimate over all chains."""
    num_chains, length = chains.shape
    total = num_chains * length
    covariance = _autocovariance(chains).mean(axis=0)
    within = float(covariance[0]) * length / (length - 1)
    pooled = float(covariance[0])
    if num_chains > 1:
        pooled += float(chains.mean(axis=1).var(ddof=1))
    correlation = 1.0 - (within - covariance) / pooled
    correlation[0] = 1.0
    # sums of neighbouring pairs; the sequence ends before the first one that is not positive
    num_pairs = max((length - 1) // 2, 1)
    pairs = correlation[0 : 2 * num_pairs : 2] + correlation[1 : 2 * num_pairs : 2]
    stops = np.flatnonzero(pairs <= 0.0)
    stop = int(stops[0]) if len(stops) else num_pairs - 1
    positive = np.minimum.accumulate(pairs[:stop]) if stop > 0 else pairs[:0]
    time = -1.0 + 2.0 * float(positive.sum()) + max(float(correlation[2 * stop]), 0.0)
    # antithetic chains may exceed the number of draws, within reason
    return float(total) / max(time, 1.0 / math.log10(total))
