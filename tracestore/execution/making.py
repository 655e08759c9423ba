"""Make the traces of a job and write them into its store: in this process, in others, or on an executor."""

from collections.abc import Sequence
from functools import partial

from tracestore.errors import InvalidInputError
from tracestore.events import Observer
from tracestore.execution.isolation import IsolatedRecipe, Isolation, isolated_batches
from tracestore.execution.tasks import ImportableSimulator, StretchTask, run_stretches, segment_limit
from tracestore.execution.workers import Chunk, run_chunk_stream, run_chunks
from tracestore.executors import Executor
from tracestore.simulators.base import Simulator
from tracestore.store.trace_store import TraceStore

__all__ = ["make_traces", "require_one_place"]


def make_traces(
    program: Simulator,
    store: TraceStore,
    recipe: IsolatedRecipe,
    chunks: Sequence[Chunk],
    *,
    identity: str,
    workers: int = 1,
    executor: Executor | None = None,
    isolation: Isolation | None = None,
    segment_seconds: float = 600.0,
    observer: Observer | None = None,
    phase: str = "simulate",
) -> None:
    """Make the chunks that a store does not hold yet.

    Parameters
    ----------
    program
        The simulator.
    store
        Destination; its completed work says which chunks are left.
    recipe
        How the traces of a chunk are made.
    chunks
        All chunks of the job.
    identity
        Tells recipes apart, and calls whose chunks have the same numbers.
    workers
        Forked processes; 1 works in this one.
    executor
        Where to work instead.
    isolation
        Processes of their own for the simulator, beside each worker.
    segment_seconds
        Age at which a worker of this machine seals what it has: what a killed machine loses at most.
    observer
        Told of progress.
    phase
        Name of the phase in progress events.

    Raises
    ------
    InvalidInputError
        When ``workers`` and ``executor`` are given, or the simulator of an executor cannot be imported by name.
    SimulatorError
        When a worker process dies, cannot import the simulator, or has other code of it.
    ExecutorError
        When workers of an executor die.
    """
    require_one_place(workers, executor, isolation)
    if isolation is not None:
        run_chunk_stream(
            store,
            chunks,
            partial(isolated_batches, program, recipe, isolation),
            workers=workers,
            segment_seconds=segment_seconds,
            observer=observer,
            phase=phase,
        )
        return
    if executor is None:
        run_chunks(
            store,
            chunks,
            partial(recipe.make, program),
            workers=workers,
            segment_seconds=segment_seconds,
            observer=observer,
            phase=phase,
        )
        return
    task = StretchTask.into(
        store,
        ImportableSimulator.of(program),
        recipe,
        segment_bytes=segment_limit(executor),
        identity=identity,
    )
    run_stretches(store, chunks, task, executor=executor, observer=observer, phase=phase)


def require_one_place(workers: int, executor: Executor | None, isolation: Isolation | None = None) -> None:
    """Refuse two places to work at.

    Parameters
    ----------
    workers
        Processes of this machine.
    executor
        Where to work instead.
    isolation
        Processes for the simulator, on this machine.

    Raises
    ------
    InvalidInputError
        When an executor is given and something else, too.
    """
    if executor is not None and workers != 1:
        message = f"Give `workers` or `executor`, not both; got workers={workers}. An executor has workers of its own."
        raise InvalidInputError(message, argument="workers", found=workers)
    if executor is not None and isolation is not None:
        message = (
            f"Give `simulator_processes` or `executor`, not both; got simulator_processes={isolation.num_processes}."
            " The workers of an executor run the simulator themselves."
        )
        raise InvalidInputError(message, argument="simulator_processes", found=isolation.num_processes)
