"""What a simulator calls: `sample`, `observe` and `tag`.

A run is recorded by one `Recorder`, which is the process's current run while the simulator executes. The current run is
a module global on purpose: simulators draw in worker threads too, and their draws belong to the trace. Outside a run
the three functions work as plain calls.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from tracestore.simulators.addresses import current_place
from tracestore.simulators.recorder import Controller, Recorder, StopTrace, Value
from tracestore.traces.distributions import Distribution

__all__ = [
    "Controller",
    "Recorder",
    "StopTrace",
    "Value",
    "activate",
    "current_recorder",
    "fatal",
    "observe",
    "sample",
    "tag",
]

Error = TypeVar("Error", bound=Exception)

_current: Recorder | None = None
_outside_rng: np.random.Generator | None = None


def sample(prior: Distribution, *, name: str | None = None, address: str | None = None, control: bool = True) -> Any:  # noqa: ANN401
    """Draw from a prior; inside a run the draw is recorded and inference may choose its value.

    Parameters
    ----------
    prior
        Distribution of the draw.
    name
        Makes the value available by name, and conditionable: an observation of this name fixes the draw.
    address
        Identity of the place in the program, instead of the one derived from the calling code.
    control
        False keeps inference from choosing the value: it always comes from the prior.

    Returns
    -------
    Any
        The value: a float or int, or an array of the prior's shape. Untyped on purpose, so that simulators compute with
        it as with any number.

    Examples
    --------
    >>> import tracestore as ts
    >>> 0.0 <= ts.sample(ts.Uniform(0.0, 1.0), name="u") <= 1.0
    True
    """
    if _current is None:
        return prior.sample(_plain_rng())
    return _current.sample(prior, name or "", current_place() if address is None else address, control)


def observe(
    likelihood: Distribution,
    value: ArrayLike | None = None,
    *,
    name: str | None = None,
    address: str | None = None,
    dtype: DTypeLike | None = None,
) -> Any:  # noqa: ANN401
    """Condition on a value; while generating data, draw it from the likelihood.

    The value comes from the observations given to the inference engine, else from ``value``, else (when generating)
    from the likelihood.

    Parameters
    ----------
    likelihood
        Distribution of the observed value.
    value
        The value, when the program itself knows it.
    name
        Name by which observations are given and stored.
    address
        Identity of the place in the program, instead of the one derived from the calling code.
    dtype
        Floating type in which the value is scored and stored; float32 halves a large array.

    Returns
    -------
    Any
        The value that was scored: a number, or an array of the likelihood's shape.

    Examples
    --------
    >>> import tracestore as ts
    >>> ts.observe(ts.Normal(0.0, 1.0), 0.5, name="y")
    0.5
    """
    if _current is None:
        return likelihood.sample(_plain_rng()) if value is None else value
    place = current_place() if address is None else address
    return _current.observe(likelihood, value, name or "", place, dtype)


def tag(value: ArrayLike, *, name: str | None = None, address: str | None = None) -> None:
    """Record a number or an array of numbers that is never scored.

    Parameters
    ----------
    value
        What to record.
    name
        Name by which the value is found.
    address
        Identity of the place in the program, instead of the one derived from the calling code.

    Examples
    --------
    >>> import tracestore as ts
    >>> ts.tag(3, name="channel")
    """
    if _current is not None:
        _current.tag(value, name or "", current_place() if address is None else address)


def current_recorder() -> Recorder | None:
    """Return what records the present run, if there is one."""
    return _current


def fatal(error: Error) -> Error:
    """Make an error end the job, and not the present trace only.

    Parameters
    ----------
    error
        What is wrong with the simulator, as opposed to one run of it.

    Returns
    -------
    Exception
        The error, to be raised.
    """
    if _current is not None:
        _current.fatal = error
    return error


def activate(recorder: Recorder | None) -> Recorder | None:
    """Make a recorder the current run and return the previous one."""
    global _current  # the one piece of process state, see the module docstring
    previous, _current = _current, recorder
    return previous


def _plain_rng() -> np.random.Generator:
    global _outside_rng
    if _outside_rng is None:
        _outside_rng = np.random.default_rng()
    return _outside_rng
