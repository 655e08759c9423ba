"""Which traces take part: the good ones, split into training and validation by a hash that never changes."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.samplers.hashing import derive_key, keyed_hash, unit_interval

__all__ = ["Subset", "select_traces", "validation_mask"]

Subset = Literal["train", "validation", "all"]
"""Which half of a store a loader reads."""

_SPLIT_PURPOSE = 0x53504C4954
_STATUS_OK = 0


def validation_mask(stream: NDArray[np.integer], fraction: float) -> NDArray[np.bool_]:
    """Decide which traces are for validation.

    The decision hashes each trace's random stream: it survives sorting, appending and copying, needs no seed that two
    loaders could set differently, and a larger fraction contains every smaller one. Traces of one stream stay together.

    Parameters
    ----------
    stream
        Random stream of each trace, shape ``(N,)``.
    fraction
        Expected share of validation traces, in ``[0, 1)``.

    Returns
    -------
    ndarray of bool
        Shape ``(N,)``.

    Raises
    ------
    InvalidInputError
        When the fraction is outside ``[0, 1)``.

    Examples
    --------
    >>> mask = validation_mask(np.arange(10_000), 0.1)
    >>> bool(abs(mask.mean() - 0.1) < 0.01)
    True
    """
    if not 0 <= fraction < 1:
        message = f"`validation_fraction` must be at least 0 and below 1; got {fraction!r}."
        raise InvalidInputError(message, argument="validation_fraction", found=fraction)
    return unit_interval(keyed_hash(stream, derive_key(_SPLIT_PURPOSE))) < fraction


def select_traces(
    status: NDArray[np.integer], stream: NDArray[np.integer], subset: Subset, fraction: float
) -> NDArray[np.bool_]:
    """Mark the traces of a subset; traces that failed belong to none.

    Parameters
    ----------
    status
        Status of each trace, shape ``(N,)``.
    stream
        Random stream of each trace, shape ``(N,)``.
    subset
        ``train``, ``validation``, or ``all`` for both.
    fraction
        Expected share of validation traces, in ``[0, 1)``.

    Returns
    -------
    ndarray of bool
        Shape ``(N,)``.

    Raises
    ------
    InvalidInputError
        When the subset is unknown or the fraction outside ``[0, 1)``.
    """
    if subset not in get_args(Subset):
        message = f"`subset` must be one of {', '.join(get_args(Subset))}; got {subset!r}."
        raise InvalidInputError(message, argument="subset", found=subset)
    good: NDArray[np.bool_] = status == _STATUS_OK
    if subset == "all":
        return good
    held_out = validation_mask(stream, fraction)
    return good & (held_out if subset == "validation" else ~held_out)
