"""Prior traces of a simulator, generated into a store."""

import logging
from collections.abc import Callable

from tracestore.errors import InvalidInputError
from tracestore.events import Observer
from tracestore.execution.streams import TraceStreams
from tracestore.execution.workers import Chunk, plan_chunks, run_chunks
from tracestore.simulators.base import MAX_SITES, PriorController, Simulator, as_simulator, run_trace
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

__all__ = ["simulate"]

logger = logging.getLogger(__name__)


def simulate(
    simulator: Simulator | Callable[[], object],
    path: StorePath,
    *,
    num_traces: int,
    workers: int = 1,
    seed: int = 0,
    append: bool = False,
    max_sites: int = MAX_SITES,
    chunk_size: int | None = None,
    observer: Observer | None = None,
) -> TraceStore:
    """Generate prior traces, with observations drawn from the likelihood, into a store.

    The traces are a function of (simulator, seed, trace number) and do not depend on the number of workers. A trace
    whose simulator raised, or that reached the length cap, is recorded as failed with its reason.

    Parameters
    ----------
    simulator
        A simulator, or any function without arguments.
    path
        The store. When the same job is there already it is continued, or returned when complete.
    num_traces
        Traces to generate.
    workers
        Processes.
    seed
        Seed of the job.
    append
        Add ``num_traces`` further traces of the same simulator to an existing store.
    max_sites
        Length cap of a trace, in sites.
    chunk_size
        Traces that are lost at most when a worker dies; by default a sixty-fourth of the job, at most 256.
    observer
        Told of progress.

    Returns
    -------
    TraceStore
        The store with all traces.

    Raises
    ------
    StoreExistsError
        When the path holds another job's store; names the field that differs.
    InvalidInputError
        When an argument is out of range.
    SimulatorError
        When a worker process dies.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     len(ts.simulate(gum, folder + "/traces", num_traces=100, seed=1))
    100
    """
    program = as_simulator(simulator)
    chunks = plan_chunks(num_traces, chunk_size)
    streams = TraceStreams(seed, "simulate")
    job = Job(
        "simulate",
        {
            "simulator": program.name,
            "fingerprint": program.fingerprint,
            "num_traces": num_traces,
            "seed": int(seed),
            "max_sites": max_sites,
            "chunk_size": chunks[0].num_traces,
        },
    )
    if append:
        store = TraceStore.open(path)
        _require_same_program(store, program)
        first = int(store.column("stream").max(initial=-1)) + 1
        first_index = max(store.completed_work(), default=-1) + 1
        chunks = plan_chunks(num_traces, chunk_size, first=first, first_index=first_index)
    else:
        store = TraceStore.open_or_create(path, job)
    controller = PriorController()

    def task(chunk: Chunk) -> TraceBatch:
        traces = [
            run_trace(program, controller, streams.rewind(stream), max_sites=max_sites, stream=stream)
            for stream in range(chunk.first, chunk.first + chunk.num_traces)
        ]
        return TraceBatch.from_traces(traces)

    run_chunks(store, chunks, task, workers=workers, observer=observer)
    return store


def _require_same_program(store: TraceStore, program: Simulator) -> None:
    found = store.job.fields.get("simulator") if store.job else None
    if found != program.name:
        message = (
            f"The store {store.storage.url} holds traces of {found!r}, not of {program.name!r}; "
            "append to a store of the same simulator, or write to another path."
        )
        raise InvalidInputError(message, field="simulator", found=found, wanted=program.name)
