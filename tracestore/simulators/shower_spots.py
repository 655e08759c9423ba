"""Energies of cells that are hit by a random number of spots: zero exactly where no spot fell.

The number of spots of a cell is Poisson, the energy of each is exponential, and cells are independent; so the energy of
a cell is a compound Poisson number, with a probability of being exactly zero and a density above. Both are known in
closed form, by the modified Bessel function ``I1``.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions import Distribution

__all__ = ["SpotEnergies", "log_bessel_i1"]

FloatArray = NDArray[np.float64]

_BORDER = 3.75
_SMALL = (0.00032411, 0.00301532, 0.02658733, 0.15084934, 0.51498869, 0.87890594, 0.5)
_LARGE = (
    -0.00420059, 0.01787654, -0.02895312, 0.02282967, -0.01031555, 0.00163801, -0.00362018, -0.03988024, 0.39894228,
)  # fmt: skip
"""M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 9.8.3 and 9.8.4; highest power first."""


class SpotEnergies(Distribution):
    """Sum of the exponential energies of a Poisson number of spots, independently in every cell.

    Its `log_prob` is the log of a probability where the value is zero, and of a density where it is positive.

    Parameters
    ----------
    rate
        Mean number of spots of each cell, not negative. Its shape is that of a draw.
    scale
        Mean energy of one spot, positive; broadcasts to the shape of ``rate``.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed, or the shapes do not fit.

    Examples
    --------
    >>> cells = SpotEnergies(np.array([0.0, 0.1, 50.0]), 2.0)
    >>> cells.mean
    array([  0. ,   0.2, 100. ])
    >>> bool(cells.log_prob([0.0, 0.0, 90.0]) < 0.0), cells.log_prob([1.0, 0.0, 90.0])
    (True, -inf)
    """

    __slots__ = ("_rate", "_scale")

    family = "SpotEnergies"
    is_discrete = False
    support = (0.0, math.inf)

    def __init__(self, rate: ArrayLike, scale: ArrayLike) -> None:
        rates, scales = np.array(rate, np.float64), np.array(scale, np.float64)
        if not rates.ndim or not rates.size:
            message = f"`rate` of SpotEnergies must be an array with a cell or more; got shape {rates.shape}."
            raise InvalidInputError(message)
        if not (rates.min() >= 0.0 and rates.max() < math.inf):
            message = f"`rate` of SpotEnergies must be finite and not negative; got {rates.min()} to {rates.max()}."
            raise InvalidInputError(message)
        if not (scales.min() > 0.0 and scales.max() < math.inf):
            message = f"`scale` of SpotEnergies must be finite and positive; got {scales.min()} to {scales.max()}."
            raise InvalidInputError(message)
        for array in (rates, scales):
            array.setflags(write=False)
        self._rate = rates
        try:
            self._scale = np.broadcast_to(scales, rates.shape)
        except ValueError as error:
            message = f"`scale` of SpotEnergies must broadcast to the cells, {rates.shape}; got {scales.shape}."
            raise InvalidInputError(message) from error

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one draw."""
        return self._rate.shape

    @property
    def num_parameters(self) -> int:
        """Length of `parameters`."""
        return 2 * self._rate.size

    @property
    def mean(self) -> FloatArray:
        """Expected energy of each cell."""
        return self._rate * self._scale

    @property
    def variance(self) -> FloatArray:
        """Variance of the energy of each cell."""
        return 2.0 * self._rate * self._scale**2

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """Draw one value."""
        counts = rng.poisson(self._rate).ravel()
        hit = np.flatnonzero(counts)
        energies = np.zeros(counts.size)
        energies[hit] = rng.standard_gamma(counts[hit]) * self._scale.flat[hit]
        return energies.reshape(self.shape)

    def log_prob(self, value: float | ArrayLike) -> float:
        """Log probability of the cells with nothing plus log density of the others."""
        cells = np.asarray(value)
        if cells.shape != self.shape or cells.dtype.kind not in "biuf":
            message = f"The value must be an array of numbers of shape {self.shape}; got {cells.dtype} {cells.shape}."
            raise InvalidInputError(message)
        if not cells.min() >= 0.0:  # NaN, too
            return -math.inf
        hit = np.flatnonzero(cells)
        energy = cells.flat[hit].astype(np.float64)
        rate, scale = self._rate.flat[hit], self._scale.flat[hit]
        with np.errstate(all="ignore"):
            parts = energy / scale
            terms = log_bessel_i1(2.0 * np.sqrt(rate * parts)) + 0.5 * np.log(rate / (scale * energy)) - parts
            total = float(terms.sum()) - float(self._rate.sum())
        return total if total == total else -math.inf

    def parameters(self) -> FloatArray:
        """Return the rates, then the scales, as flat float64."""
        return np.concatenate([self._rate.ravel(), self._scale.ravel()])

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"rate": self._rate, "scale": self._scale}


def log_bessel_i1(x: FloatArray) -> FloatArray:
    """Return the log of the modified Bessel function of order one.

    Parameters
    ----------
    x
        Not negative, shape ``(n,)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(n,)``, right to 3e-7; minus infinity at zero.

    Examples
    --------
    >>> [round(value, 4) for value in log_bessel_i1(np.array([1.0, 10.0, 1000.0])).tolist()]
    [-0.5706, 7.8902, 995.6268]
    """
    result = np.empty(x.shape)
    is_small = x < _BORDER
    small, large = x[is_small], x[~is_small]
    result[is_small] = np.log(small * np.polyval(_SMALL, (small / _BORDER) ** 2))
    result[~is_small] = large - 0.5 * np.log(large) + np.log(np.polyval(_LARGE, _BORDER / large))
    return result
