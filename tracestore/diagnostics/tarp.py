"""Expected coverage of joint posteriors by random points (TARP; Lemos et al. 2023).

For one trial, the share of draws that lie nearer to a reference point than the truth does is uniform when the posterior
is calibrated, whatever the reference point is, as long as the truth did not choose it. A point that depends on the data
finds posteriors that ignore the data; points that do not, cannot. Distances are taken in units of the spread of each
variable, or the variable with the largest numbers would decide alone.
"""

import numpy as np
import numpy.typing as npt

from tracestore.diagnostics.calibration import randomized_pit
from tracestore.errors import InvalidInputError

__all__ = ["reference_points", "scales_of", "tarp_pit"]

FloatArray = npt.NDArray[np.float64]

_RIDGE = 0.01
_NOISE = 0.5


def reference_points(observations: npt.ArrayLike, truths: npt.ArrayLike, rng: np.random.Generator) -> FloatArray:
    """Return one reference point a trial: a rough guess from its observation, moved at random.

    The guess is a linear prediction of the truth from the observation, fitted to all *other* trials (ridge regression),
    so that the truth of a trial has no part in its own point.

    Parameters
    ----------
    observations
        Shape ``(trials, features)``.
    truths
        Shape ``(trials, variables)``.
    rng
        Random numbers.

    Returns
    -------
    numpy.ndarray
        Shape ``(trials, variables)``.

    Raises
    ------
    InvalidInputError
        When there is not one row a trial in both, or there are fewer than three.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> truths = rng.normal(size=(200, 1))
    >>> points = reference_points(truths + 0.1 * rng.normal(size=(200, 1)), truths, rng)
    >>> bool(np.corrcoef(points[:, 0], truths[:, 0])[0, 1] > 0.8)
    True
    """
    features, targets = np.asarray(observations, dtype=np.float64), np.asarray(truths, dtype=np.float64)
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets) or len(targets) < 3:
        message = (
            "Reference points need one row of observations and of truths a trial, for three trials or more; got shapes"
            f" {features.shape} and {targets.shape}."
        )
        raise InvalidInputError(message, observations=features.shape, truths=targets.shape)
    count = len(targets)
    spread = features.std(axis=0)
    standard = (features - features.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
    # the constant feature lets the fit without one trial have a mean of its own
    kernel = standard @ standard.T / max(standard.shape[1], 1) + 1.0
    inverse = np.linalg.inv(kernel + _RIDGE * np.eye(count))
    # residual of the fit without the trial itself, in closed form
    guesses = targets - (inverse @ targets) / np.diag(inverse)[:, None]
    points: FloatArray = guesses + _NOISE * scales_of(targets) * rng.normal(size=targets.shape)
    return points


def scales_of(truths: npt.ArrayLike) -> FloatArray:
    """Return the spread of each variable over trials, by which distances are divided; 1 for constant ones.

    Parameters
    ----------
    truths
        Shape ``(trials, variables)``.

    Examples
    --------
    >>> scales_of([[0.0, 5.0], [2.0, 5.0]]).tolist()
    [1.0, 1.0]
    """
    spread = np.asarray(truths, dtype=np.float64).std(axis=0)
    return np.where(spread > 0.0, spread, 1.0)


def tarp_pit(
    draws: npt.ArrayLike,
    truth: npt.ArrayLike,
    reference: npt.ArrayLike,
    scales: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    log_weights: npt.ArrayLike | None = None,
    size: float | None = None,
) -> float:
    """Return the share of draws that are nearer to the reference point than the truth is, ties broken at random.

    Parameters
    ----------
    draws
        Shape ``(draws, variables)``.
    truth, reference, scales
        Shape ``(variables,)``.
    rng
        Random numbers.
    log_weights, size
        As in `randomized_pit`.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> tarp_pit(rng.normal(size=(99, 2)), [9.0, 9.0], [0.0, 0.0], [1.0, 1.0], rng) > 0.98
    True
    """
    point, unit = np.asarray(reference, dtype=np.float64), np.asarray(scales, dtype=np.float64)
    distances = np.linalg.norm((np.asarray(draws, dtype=np.float64) - point) / unit, axis=1)
    own = float(np.linalg.norm((np.asarray(truth, dtype=np.float64) - point) / unit))
    return randomized_pit(distances, own, rng, log_weights=log_weights, size=size)
