"""Diagnostics of Markov chains: R-hat, effective sample sizes, Monte-Carlo errors, autocorrelation.

Pure numpy; knows nothing of traces or stores. Draws come as arrays of shape ``(chains, draws)``; one-dimensional input
is one chain. Definitions follow Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021).

A quantity that never varies has no R-hat and no effective sample size: these functions return NaN for it, and
`is_constant` tells that case apart. Callers that talk to people say "constant" and never print the NaN.
"""

import math
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from tracestore.errors import DiagnosticError, InvalidInputError

__all__ = ["MIN_DRAWS", "FloatArray", "autocorrelation", "ess", "is_constant", "mcse", "rhat"]

FloatArray = npt.NDArray[np.float64]

MIN_DRAWS = 4
"""Draws a chain below which nothing can be said."""
_TAIL_PROBABILITIES = (0.05, 0.95)
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


def ess(draws: npt.ArrayLike, *, method: Literal["bulk", "tail", "mean", "sd"] = "bulk") -> float:
    """Return the effective sample size of the draws of Markov chains.

    Parameters
    ----------
    draws
        Array of shape ``(chains, draws)``, at least four draws a chain.
    method
        ``bulk``: of the rank-normalized draws. ``tail``: the smaller one of the 5 % and 95 % quantiles.
        ``mean``, ``sd``: of the draws and of their squared deviations, for Monte-Carlo errors.

    Returns
    -------
    float
        NaN when the draws are constant (see `is_constant`).

    Raises
    ------
    DiagnosticError
        With fewer than four draws a chain.
    InvalidInputError
        When a draw is not finite or `method` is unknown.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> bool(abs(ess(rng.normal(size=(4, 1000))) - 4000) < 600)
    True
    """
    _require_method(method, ("bulk", "tail", "mean", "sd"))
    chains = _as_chains(draws)
    if is_constant(chains):
        return math.nan
    if method == "bulk":
        return _ess_plain(_rank_normalized(_split(chains)))
    if method == "tail":
        indicators = [(chains <= np.quantile(chains, p)).astype(np.float64) for p in _TAIL_PROBABILITIES]
        sizes = [_ess_plain(_split(indicator)) for indicator in indicators if not is_constant(indicator)]
        return min(sizes, default=math.nan)
    if method == "mean":
        return _ess_plain(_split(chains))
    return _ess_plain(_split((chains - chains.mean()) ** 2))


def mcse(draws: npt.ArrayLike, *, method: Literal["mean", "sd"] = "mean") -> float:
    """Return the Monte-Carlo standard error of the mean or of the standard deviation of chain draws.

    Parameters
    ----------
    draws
        Array of shape ``(chains, draws)``.
    method
        Which estimate the error is for.

    Returns
    -------
    float
        0 for constant draws.

    Raises
    ------
    DiagnosticError
        With fewer than four draws a chain.
    InvalidInputError
        When a draw is not finite or `method` is unknown.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> bool(abs(mcse(rng.normal(size=(4, 2500))) - 0.01) < 0.002)
    True
    """
    _require_method(method, ("mean", "sd"))
    chains = _as_chains(draws)
    if is_constant(chains):
        return 0.0
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


def _require_method(method: str, known: tuple[str, ...]) -> None:
    if method not in known:
        message = f"`method` must be one of {', '.join(map(repr, known))}; got {method!r}."
        raise InvalidInputError(message, argument="method")


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
    probability = (average_rank - 0.375) / (chains.size + 0.25)
    scores = np.fromiter(map(NormalDist().inv_cdf, probability.tolist()), dtype=np.float64, count=len(probability))
    return scores[inverse].reshape(chains.shape)


def _rhat_plain(chains: FloatArray) -> float:
    length = chains.shape[1]
    between = length * float(chains.mean(axis=1).var(ddof=1))
    within = float(chains.var(axis=1, ddof=1).mean())
    if within <= _CONSTANT_TOLERANCE * between:
        # folded draws may be constant although the draws are not: nothing to compare
        return math.inf if between > 0.0 else 1.0
    return math.sqrt((between / within + length - 1) / length)


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
