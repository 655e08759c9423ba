"""Simulators as objects, and the one function that runs them: `run_trace`."""

import hashlib
import inspect
import time
from collections.abc import Callable, Mapping
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError, MissingExtraError
from tracestore.simulators.addresses import mark_root, source_text
from tracestore.simulators.recorder import CollapsedLoop, Controller, Recorder, StopTrace, Value
from tracestore.simulators.runtime import activate
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.traces.trace import Trace, TraceStatus

__all__ = [
    "BUILD",
    "MAX_SITES",
    "PriorController",
    "ReplayController",
    "Simulator",
    "as_simulator",
    "execute",
    "run_trace",
    "simulator",
]

MAX_SITES = 100_000
"""Default length cap of a trace, in sites."""
BUILD = "build-"
"""Beginning of the fingerprint of a simulator whose addresses hold for one build of it only."""


class Simulator:
    """A stochastic program whose draws go through `sample` and `observe`.

    Parameters
    ----------
    function
        Called without arguments for each trace; a numeric return value becomes the trace's result.
    reentrant
        Several runs may be in flight in one process, each suspended inside a draw. True only for programs without
        state of their own outside local variables.
    name
        Identity in jobs; ``module:qualified name`` when not given.
    build
        What fixes the addresses of a program that is not written in Python, such as the build ids of its binaries. The
        same address means another place in another build, so networks and stores of one are refused for another.
    max_in_flight
        Most runs that may be in flight from one process, for a reentrant program whose runs compute outside of it, as
        programs behind sockets do.

    Examples
    --------
    >>> import tracestore as ts
    >>> @ts.simulator
    ... def coin():
    ...     return ts.sample(ts.Bernoulli(0.5), name="heads")
    >>> coin.name.endswith(":coin"), coin() in (0, 1)
    (True, True)
    """

    def __init__(
        self,
        function: Callable[[], object],
        *,
        reentrant: bool = False,
        name: str | None = None,
        build: str = "",
        max_in_flight: int | None = None,
    ) -> None:
        self.function = function
        self.is_reentrant = reentrant
        self.build = build
        self.max_in_flight = max_in_flight
        self.name = name or _qualified_name(function)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__wrapped__ = function

    def __call__(self) -> object:
        """Run the program outside of any recording."""
        return self.function()

    def __repr__(self) -> str:
        return f"Simulator({self.name!r})"

    @property
    def is_rerouted(self) -> bool:
        """Whether random numbers of existing code are rerouted, so that some may have been missed."""
        return bool(self.build) or _names_hijack(self.function)

    @property
    def identity(self) -> dict[str, str]:
        """What jobs record of a simulator: its name, its fingerprint, and its build where there is one."""
        known = {"simulator": self.name, "fingerprint": self.fingerprint}
        return known | ({"build": self.build} if self.build else {})

    def restart(self) -> None:
        """Begin anew with whatever outlives a run: programs that are kept running are ended. Nothing here."""

    @property
    def fingerprint(self) -> str:
        """Digest of the function's source without white space and comments; of the name where there is no source.

        Begins with ``build-`` where there is a build, and is a digest of that, too.
        """
        try:
            text = source_text(inspect.getsource(inspect.unwrap(self.function)))
        except (OSError, TypeError):
            text = self.name
        found = hashlib.blake2b((self.build + text).encode(), digest_size=8).hexdigest()
        return BUILD + found if self.build else found


@overload
def simulator(function: Callable[[], object], /) -> Simulator: ...
@overload
def simulator(
    *, reentrant: bool = False, name: str | None = None, build: str = "", max_in_flight: int | None = None
) -> Callable[[Callable[[], object]], Simulator]: ...
def simulator(
    function: Callable[[], object] | None = None,
    /,
    *,
    reentrant: bool = False,
    name: str | None = None,
    build: str = "",
    max_in_flight: int | None = None,
) -> Simulator | Callable[[Callable[[], object]], Simulator]:
    """Declare a function to be a simulator; use with or without arguments.

    Parameters
    ----------
    function
        The simulator, called without arguments.
    reentrant, name, build, max_in_flight
        As in `Simulator`.

    Examples
    --------
    >>> import tracestore as ts
    >>> @ts.simulator(reentrant=True)
    ... def dice():
    ...     return ts.sample(ts.Categorical([1 / 6] * 6), name="face")
    >>> dice.is_reentrant
    True
    """
    if function is not None:
        return Simulator(function)
    return lambda function: Simulator(
        function, reentrant=reentrant, name=name, build=build, max_in_flight=max_in_flight
    )


def as_simulator(program: object) -> Simulator:
    """Accept a simulator or any callable without arguments.

    Raises
    ------
    InvalidInputError
        When the object is not callable.
    """
    if isinstance(program, Simulator):
        return program
    if callable(program):
        return Simulator(program)
    message = f"A simulator must be a function without arguments; got {program!r}."
    raise InvalidInputError(message)


class PriorController:
    """Draws every value from its prior."""

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Draw from the prior."""
        value = prior.sample(rng)
        return value, prior.log_prob(value)


class ReplayController:
    """Gives each address the value of a recorded trace; addresses that it lacks draw from the prior.

    Parameters
    ----------
    trace
        The recorded trace.

    Examples
    --------
    >>> from tracestore.simulators import toys
    >>> first = run_trace(toys.gum, PriorController(), np.random.default_rng(1))
    >>> again = run_trace(toys.gum, ReplayController(first), np.random.default_rng(2), observations=first.observations)
    >>> again.log_joint == first.log_joint
    True
    """

    def __init__(self, trace: Trace) -> None:
        self.values = {site.id: trace.value(index) for index, site in enumerate(trace.sites) if site.num_values}

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Replay the recorded value, or draw from the prior."""
        value = self.values.get(site.id)
        if value is None:
            value = prior.sample(rng)
        elif prior.is_discrete and not prior.shape:
            value = int(value)
        return value, prior.log_prob(value)


def run_trace(
    program: Simulator,
    controller: Controller,
    rng: np.random.Generator,
    *,
    observations: Mapping[str, NDArray[np.generic]] | None = None,
    max_sites: int = MAX_SITES,
    stream: int = 0,
    collapse_rejection: bool = False,
) -> Trace:
    """Run a simulator once and record its trace.

    Parameters
    ----------
    program
        The simulator.
    controller
        Decides the value of every draw.
    rng
        Random numbers for this trace.
    observations
        Values of the named observes; None draws them from their likelihoods.
    max_sites
        Length cap: a longer run ends as a recorded failure.
    stream
        Number of the random stream, kept in the trace.
    collapse_rejection
        Keep only the accepted pass of each loop over `rejection`.

    Returns
    -------
    Trace
        Also when the simulator raised: then its status and failure tell why.

    Raises
    ------
    InvalidInputError
        When the simulator observes something for which no value is given.

    Examples
    --------
    >>> from tracestore.simulators import toys
    >>> run_trace(toys.gum, PriorController(), np.random.default_rng(1), max_sites=2).failure
    'the trace reached 2 sites'
    """
    recorder = Recorder(
        controller, rng, observations, max_sites, make_loop=CollapsedLoop if collapse_rejection else None
    )
    return execute(program, recorder, stream)


def execute(program: Simulator, recorder: Recorder, stream: int = 0) -> Trace:
    """Run a simulator under a recorder; see `run_trace`."""
    start = time.perf_counter()
    previous = activate(recorder)
    recorder.program = program.function
    result, status, failure = None, TraceStatus.OK, ""
    try:
        result = _call(program.function)
    except StopTrace as stop:
        status, failure = stop.status, stop.reason
    except MissingExtraError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a simulator raises is data
        status, failure = TraceStatus.FAILED, f"{type(error).__name__}: {error}"
    finally:
        activate(previous)
        recorder.is_over = True
    if status is TraceStatus.OK and recorder.left_loop is not None:
        raise recorder.left_loop
    if recorder.fatal is not None:  # also when the simulator swallowed it
        raise recorder.fatal
    return recorder.finish(result, status, failure, stream, time.perf_counter() - start)


@mark_root
def _call(function: Callable[[], object]) -> object:
    return function()


def _names_hijack(function: Callable[[], object]) -> bool:
    """Whether a function is decorated with `hijack`, or has a block of it, as far as its code tells."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    names = () if code is None else code.co_names + code.co_freevars
    return "hijack" in names or getattr(function, "is_hijacked", False)


def _qualified_name(function: object) -> str:
    target = function if hasattr(function, "__qualname__") else type(function)
    return f"{getattr(target, '__module__', '?')}:{getattr(target, '__qualname__', '?')}"
