"""Simulators kept apart: traces made in processes that may crash or hang without taking the job with them.

A run that kills its process, or that computes for too long, is a recorded failure like any other. The processes stay
busy across the ends of chunks: one long run holds up nothing but the chunk it belongs to.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from tracestore.errors import InvalidInputError
from tracestore.execution.process_slots import ProcessSlots
from tracestore.execution.provider import ProposalSession
from tracestore.execution.slots import Runner, WaveRun
from tracestore.execution.tasks import Recipe
from tracestore.execution.waves import MAX_WAIT, WavePolicy, WaveScheduler
from tracestore.execution.workers import Chunk
from tracestore.simulators.base import Simulator
from tracestore.traces.batch import TraceBatch
from tracestore.traces.trace import Trace

__all__ = ["IsolatedRecipe", "Isolation", "isolated_batches", "run_isolated", "running_alone"]


@dataclass(frozen=True, slots=True)
class Isolation:
    """Processes of their own for the runs of a simulator.

    Examples
    --------
    >>> Isolation.of(4, 30.0)
    Isolation(num_processes=4, timeout=30.0)
    >>> Isolation.of(0, None) is None
    True
    """

    num_processes: int
    timeout: float | None = None
    """Seconds that a run may compute; None sets no limit."""

    @classmethod
    def of(cls, simulator_processes: int, timeout: float | None) -> "Isolation | None":
        """Check the arguments of an engine; None when the simulator runs in the engine's own process.

        Parameters
        ----------
        simulator_processes
            Processes; 0 for none.
        timeout
            Seconds, or None.

        Raises
        ------
        InvalidInputError
            When a number is out of range, or there is a timeout and no process that could be stopped.
        """
        if simulator_processes < 0:
            message = f"`simulator_processes` must be at least 0; got {simulator_processes}."
            raise InvalidInputError(message, argument="simulator_processes", found=simulator_processes)
        if timeout is not None and not timeout > 0.0:
            message = f"`timeout` must be a positive number of seconds; got {timeout!r}."
            raise InvalidInputError(message, argument="timeout", found=timeout)
        if simulator_processes:
            return cls(simulator_processes, timeout)
        if timeout is not None:
            message = (
                f"`timeout` needs `simulator_processes` of at least 1; got timeout={timeout:g} and none. A simulator"
                " can be stopped only in a process of its own."
            )
            raise InvalidInputError(message, argument="timeout", found=timeout)
        return None

    @property
    def policy(self) -> WavePolicy:
        """When those that wait for proposals are served: soon, since their processes do nothing meanwhile."""
        return WavePolicy(max_ready=max(1, self.num_processes // 2), max_wait=MAX_WAIT)


class IsolatedRecipe(Recipe, Protocol):
    """How the traces of a chunk are made, also when the simulator runs elsewhere."""

    def runner(self, program: Simulator) -> Runner:
        """Say how a run is executed."""

    def start_session(self, num_slots: int) -> ProposalSession | None:
        """Start a source of proposals; None when no run asks."""

    def runs(self, chunk: Chunk) -> Iterable[WaveRun]:
        """Return the runs of a chunk, in order."""

    def finish(self, traces: Sequence[Trace]) -> TraceBatch:
        """Weigh the traces of a chunk, in the order of its runs, and gather them."""


def isolated_batches(
    program: Simulator, recipe: IsolatedRecipe, isolation: Isolation, chunks: Iterable[Chunk]
) -> Generator[tuple[Chunk, TraceBatch]]:
    """Make chunks of traces in processes; yields them as they become complete, not always in order.

    Parameters
    ----------
    program
        The simulator.
    recipe
        How they are made.
    isolation
        The processes.
    chunks
        May be endless; are read as processes become free.

    Raises
    ------
    SimulatorError
        When no process can be started.
    """
    half_made: dict[int, _HalfMade] = {}
    of_run: dict[int, tuple[_HalfMade, int]] = {}
    """What the traces in flight belong to, and their place in it."""

    def runs() -> Iterator[WaveRun]:
        position = 0
        for chunk in chunks:
            half = half_made[chunk.index] = _HalfMade(chunk, {})
            for place, run in enumerate(recipe.runs(chunk)):
                of_run[position] = (half, place)
                position += 1
                yield run

    with ProcessSlots(recipe.runner(program), isolation.num_processes, timeout=isolation.timeout) as slots:
        scheduler = WaveScheduler(slots, recipe.start_session(isolation.num_processes), isolation.policy)
        with closing(scheduler.results(runs())) as results:
            for position, trace in results:
                half, place = of_run.pop(position)
                half.traces[place] = trace
                if len(half.traces) == half.chunk.num_traces:
                    del half_made[half.chunk.index]
                    yield half.chunk, recipe.finish([half.traces[place] for place in range(half.chunk.num_traces)])


@dataclass(frozen=True, slots=True)
class _HalfMade:
    chunk: Chunk
    traces: dict[int, Trace]


def run_isolated(runner: Runner, runs: Sequence[WaveRun], isolation: Isolation) -> list[Trace]:
    """Run traces in processes, with draws from the prior; returns them in the order of ``runs``.

    Parameters
    ----------
    runner
        How a run is executed.
    runs
        The traces to run.
    isolation
        The processes.

    Raises
    ------
    SimulatorError
        When no process can be started.

    Examples
    --------
    >>> import os
    >>> import numpy as np
    >>> import tracestore as ts
    >>> def fragile():
    ...     if ts.sample(ts.Bernoulli(0.5)):
    ...         os._exit(7)  # takes the whole process with it
    >>> runner = Runner(ts.simulators.Simulator(fragile))
    >>> runs = [WaveRun(stream, np.random.default_rng(stream), {}) for stream in range(3)]
    >>> [trace.failure for trace in run_isolated(runner, runs, Isolation(2))]
    ['', '', "the simulator's process ended with exit code 7"]
    """
    with ProcessSlots(runner, isolation.num_processes, timeout=isolation.timeout) as slots:
        traces = dict(WaveScheduler(slots, None, isolation.policy).results(runs))
    return [traces[position] for position in range(len(runs))]


@contextmanager
def running_alone(runner: Runner, isolation: Isolation | None) -> Iterator[Callable[[WaveRun], Trace]]:
    """Yield a function that runs one trace from the prior: in this process, or in one of its own.

    Parameters
    ----------
    runner
        How a run is executed.
    isolation
        Whether in a process of its own, and for how long at most.

    Examples
    --------
    >>> import numpy as np
    >>> from tracestore.simulators.toys import gum
    >>> with running_alone(Runner(gum), None) as run:
    ...     len(run(WaveRun(0, np.random.default_rng(1), None, asks=False)))
    4
    """
    if isolation is None:
        yield runner.run_from_prior
        return
    with ProcessSlots(runner, 1, timeout=isolation.timeout) as slots:
        scheduler = WaveScheduler(slots, None)
        yield lambda run: next(trace for _, trace in list(scheduler.results([run])))
