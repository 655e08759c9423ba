"""Batched simulators: one call of the program runs many traces at once, as vectors.

The program is written with the same `sample`, `observe` and `tag`; inside a batched run the first axis of everything is
the trace axis. A prior of shape ``()`` is drawn once for each trace, independently. A prior of shape ``(n, ...)``, of
which each parameter may have a row a trace, or ``(1, ...)``, the same row for each, gives one draw of shape ``(...)`` a
trace. Any other first axis is refused. What is recorded is what *n* runs of the program for one trace would record.

Programs compute with numpy, or, with ``arrays="torch"``, with tensors: then engines that follow gradients can run them.

A batch has one random stream: its traces are a function of the stream and of their number, and a single trace is not
found again without the others.
"""

import inspect
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, MissingExtraError
from tracestore.simulators.addresses import mark_root
from tracestore.simulators.base import MAX_SITES, PriorController, Simulator
from tracestore.simulators.batch_arrays import BatchArrays, batch_arrays
from tracestore.simulators.batch_recorder import BatchController, BatchPrior, BatchRecorder, Resumed
from tracestore.simulators.recorder import Controller, StopTrace
from tracestore.simulators.runtime import activate, current_recorder
from tracestore.simulators.single_row import SingleRow
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions.base import plain_array
from tracestore.traces.trace import TraceStatus

__all__ = ["BATCH_SIZE", "BatchedSimulator", "batched_simulator", "num_traces", "run_batch"]

logger = logging.getLogger(__name__)

BATCH_SIZE = 16_384
"""Most traces in one call of a program, unless asked otherwise: as many as processors have cache for."""


class BatchedSimulator(Simulator):
    """A stochastic program that runs many traces at once.

    Whatever runs simulators for one trace runs it, too, as a batch of one. It is not reentrant.

    Parameters
    ----------
    function
        Called with the number of traces, when it takes an argument, or without; `num_traces` tells the number anywhere.
        A numeric return value, one a trace, becomes the result of each.
    name
        Identity in jobs; ``module:qualified name`` when not given.
    batch_size
        Most traces in one call when traces are generated.
    arrays
        What draws and observations are handed to the program as: ``numpy``, or ``torch`` for tensors of float64 (whole
        numbers for discrete draws), with which distributions are parametrized as well.

    Raises
    ------
    InvalidInputError
        When the function needs more than one argument, the batch size is not positive, or there are no such arrays.
    MissingExtraError
        When the arrays are those of torch, and it is not installed.

    Examples
    --------
    >>> import tracestore as ts
    >>> def gum(n):
    ...     mu = ts.sample(ts.Normal(1.0, 5.0**0.5), name="mu")
    ...     ts.observe(ts.Normal(mu, 2.0**0.5), name="seen")
    ...     return mu
    >>> batch = run_batch(BatchedSimulator(gum), 1000, np.random.default_rng(1))
    >>> len(batch), batch.named("mu")[0].shape, batch.observations["seen"].shape
    (1000, (1000,), (1000,))
    """

    def __init__(
        self,
        function: Callable[..., object],
        *,
        name: str | None = None,
        batch_size: int = BATCH_SIZE,
        arrays: str = "numpy",
    ) -> None:
        if batch_size < 1:
            message = f"`batch_size` must be at least 1; got {batch_size}."
            raise InvalidInputError(message, argument="batch_size", found=batch_size)
        self.batched_function = _takes_number(function)
        self.arrays = batch_arrays(arrays)
        self.is_differentiable = arrays == "torch"
        super().__init__(_OneTrace(function, self.batched_function, self.arrays), name=name)
        self.batch_size = batch_size

    def __call__(self, num_traces: int = 1) -> object:
        """Run the program outside of any recording, for some traces."""
        recorder = BatchRecorder(BatchPrior(), np.random.default_rng(), num_traces, None, MAX_SITES, self.arrays)
        previous = activate(recorder)
        try:
            with self.arrays.running():
                return self.batched_function(num_traces)
        finally:
            activate(previous)


@overload
def batched_simulator(function: Callable[..., object], /) -> BatchedSimulator: ...
@overload
def batched_simulator(
    *, name: str | None = None, batch_size: int = BATCH_SIZE, arrays: str = "numpy"
) -> Callable[[Callable[..., object]], BatchedSimulator]: ...
def batched_simulator(
    function: Callable[..., object] | None = None,
    /,
    *,
    name: str | None = None,
    batch_size: int = BATCH_SIZE,
    arrays: str = "numpy",
) -> BatchedSimulator | Callable[[Callable[..., object]], BatchedSimulator]:
    """Declare a function to be a simulator of many traces at once; use with or without arguments.

    Parameters
    ----------
    function
        The simulator, called with the number of traces or without.
    name, batch_size, arrays
        As in `BatchedSimulator`.

    Examples
    --------
    >>> import tracestore as ts
    >>> @batched_simulator
    ... def walk(n):
    ...     steps = ts.sample(ts.Normal(np.zeros((1, 10)), 1.0), name="steps")
    ...     return steps.sum(axis=1)
    >>> run_batch(walk, 3, np.random.default_rng(1)).named("steps")[0].shape
    (3, 10)
    """
    if function is not None:
        return BatchedSimulator(function)
    return lambda function: BatchedSimulator(function, name=name, batch_size=batch_size, arrays=arrays)


def num_traces() -> int:
    """Return how many traces the present run makes: 1 outside of batched runs.

    Examples
    --------
    >>> num_traces()
    1
    """
    return int(getattr(current_recorder(), "num_traces", 1))


def run_batch(
    program: Simulator,
    num_traces: int,
    rng: np.random.Generator,
    *,
    controller: BatchController | Controller | None = None,
    observations: Mapping[str, ArrayLike] | None = None,
    max_sites: int = MAX_SITES,
    stream: int = 0,
    isolate_failures: bool = True,
) -> TraceBatch:
    """Run a batched simulator once and record its traces.

    Parameters
    ----------
    program
        A `BatchedSimulator`.
    num_traces
        Traces.
    rng
        Random numbers of the batch.
    controller
        Decides the values of the draws; the prior by default.
    observations
        Values of the named observes, the same for all traces; None draws them from their likelihoods.
    max_sites
        Length cap of a trace: a longer run ends as recorded failures.
    stream
        Number of the first trace, kept in the batch; the others count on from it.
    isolate_failures
        When the program raises, go on with each trace alone and the draws that it had, so that only the traces that
        fail by themselves are recorded as failed. Otherwise all are.

    Returns
    -------
    TraceBatch
        All traces share one layout, unless some failed.

    Raises
    ------
    InvalidInputError
        When the program is not batched, the controller decides for one trace at a time only, a prior or a value has no
        trace axis, or an observation is missing.
    SimulatorProtocolError
        When the program has a rejection loop.

    Examples
    --------
    >>> import tracestore as ts
    >>> seen = BatchedSimulator(lambda: ts.observe(ts.Normal(ts.sample(ts.Normal(0.0, 1.0), name="mu"), 1.0), name="y"))
    >>> batch = run_batch(seen, 5, np.random.default_rng(1), observations={"y": 1.0})
    >>> batch.log_likelihood.shape, batch.observations["y"].strides
    ((5,), (0,))
    """
    if not isinstance(program, BatchedSimulator):
        message = (
            f"A batch needs a batched simulator; {program!r} runs one trace at a time. Declare it so, or run it so."
        )
        raise InvalidInputError(message, simulator=program.name)
    if num_traces < 1:
        message = f"`num_traces` must be at least 1; got {num_traces}."
        raise InvalidInputError(message, argument="num_traces", found=num_traces)
    given = None
    if observations is not None:
        given = {name: np.asarray(value) for name, value in observations.items()}
    recorder = BatchRecorder(_batch_controller(controller), rng, num_traces, given, max_sites, program.arrays)
    return _run(program, recorder, stream, isolate_failures=isolate_failures)


def _run(program: BatchedSimulator, recorder: BatchRecorder, stream: int, *, isolate_failures: bool) -> TraceBatch:
    start = time.perf_counter()
    previous = activate(recorder)
    result, status, failure = None, TraceStatus.OK, ""
    try:
        with program.arrays.running():
            result = program.batched_function(recorder.num_traces)
    except StopTrace as stop:
        status, failure = stop.status, stop.reason
    except MissingExtraError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a simulator raises is data
        status, failure = TraceStatus.FAILED, f"{type(error).__name__}: {error}"
    finally:
        activate(previous)
    if recorder.fatal is not None:  # also when the simulator swallowed it
        raise recorder.fatal
    if status is TraceStatus.FAILED and isolate_failures and recorder.num_traces > 1:
        return _one_by_one(program, recorder, stream, failure)
    return recorder.finish_batch(result, status, failure, stream, time.perf_counter() - start)


def _one_by_one(program: BatchedSimulator, unfinished: BatchRecorder, stream: int, failure: str) -> TraceBatch:
    """Go on with each trace of a batch alone: what it had drawn is kept, what follows is drawn from the same stream."""
    batches = []
    for row in range(unfinished.num_traces):
        resumed = Resumed(unfinished, row)
        recorder = BatchRecorder(resumed, unfinished.rng, 1, unfinished.given, unfinished.max_sites, unfinished.arrays)
        batches.append(_run(program, recorder, stream + row, isolate_failures=False))
    joined = TraceBatch.concatenate(batches)
    logger.warning(
        "%s raised in a batch of %d traces (%s) and was run trace by trace: %d of them failed",
        program.name, unfinished.num_traces, failure, len(joined.failures),
    )  # fmt: skip
    return joined


def _batch_controller(controller: BatchController | Controller | None) -> BatchController:
    if controller is None or type(controller) is PriorController:
        return BatchPrior()
    if not hasattr(controller, "draw_rows"):
        message = (
            f"{type(controller).__name__} decides the draws of one trace at a time; a batch needs a controller with"
            " `draw_rows`. Run the program with `run_trace`, which makes a batch of one."
        )
        raise InvalidInputError(message, argument="controller")
    return cast("BatchController", controller)


class _OneTrace:
    """A batched program as one that is called without arguments, for one trace."""

    def __init__(
        self, function: Callable[..., object], batched_function: Callable[[int], object], arrays: BatchArrays
    ) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self.__module__ = function.__module__
        self._batched_function = batched_function
        self._arrays = arrays

    def __call__(self) -> object:
        recorder = current_recorder()
        if recorder is None:
            return self._batched_function(1)
        single = SingleRow(recorder, self._arrays)
        activate(single)
        try:
            with self._arrays.running():
                result: Any = self._batched_function(1)
        finally:
            activate(recorder)
        if isinstance(result, np.ndarray) or hasattr(result, "__array__"):
            array: NDArray[np.generic] = plain_array(result)
            return single.row(array, "what the program returns") if array.dtype.kind in "biuf" else result
        return result


def _takes_number(function: Callable[..., object]) -> Callable[[int], object]:
    """Return the function as one of the number of traces, whose callees' addresses begin with the function."""
    signature = inspect.signature(function)
    takes_number = _accepts(signature, 1)
    if not takes_number and not _accepts(signature):
        message = f"A batched simulator takes the number of traces or nothing; {function!r} takes {signature}."
        raise InvalidInputError(message, argument="function")
    return _Batched(function, takes_number=takes_number)


def _accepts(signature: inspect.Signature, *arguments: object) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


class _Batched:
    """Calls a function with the number of traces, or without."""

    def __init__(self, function: Callable[..., object], *, takes_number: bool) -> None:
        self.function = function
        self.takes_number = takes_number

    @mark_root
    def __call__(self, num_traces: int) -> object:
        return self.function(num_traces) if self.takes_number else self.function()
