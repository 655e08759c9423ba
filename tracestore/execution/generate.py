"""Prior traces of a simulator, generated into a store."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from tracestore.errors import InvalidInputError
from tracestore.events import Observer
from tracestore.execution.isolation import Isolation
from tracestore.execution.making import make_traces, require_one_place
from tracestore.execution.prior_draws import PriorDraws, largest_chunk
from tracestore.execution.tasks import ImportableSimulator
from tracestore.execution.workers import plan_chunks
from tracestore.executors import Executor
from tracestore.simulators.base import MAX_SITES, Simulator, as_simulator
from tracestore.simulators.replay_check import require_reproducible
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["simulate", "simulate_job"]

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
    collapse_rejection: bool = False,
    simulator_processes: int = 0,
    timeout: float | None = None,
    executor: Executor | None = None,
    observer: Observer | None = None,
) -> TraceStore:
    """Generate prior traces, with observations drawn from the likelihood, into a store.

    The traces are a function of (simulator, seed, trace number) and do not depend on the number of workers, nor on
    where they run: a job that was begun in one way may be finished in another. A trace whose simulator raised, or that
    reached the length cap, is recorded as failed with its reason. A batched simulator makes a chunk in one call: its
    traces are a function of (simulator, seed, chunk), and of ``chunk_size`` with it.

    Parameters
    ----------
    simulator
        A simulator, or any function without arguments.
    path
        The store. When the same job is there already it is continued, or returned when complete.
    num_traces
        Traces to generate.
    workers
        Forked processes of this machine, for any function. Each seals what it has every ten minutes.
    seed
        Seed of the job.
    append
        Add ``num_traces`` further traces of the same simulator to an existing store.
    max_sites
        Length cap of a trace, in sites.
    chunk_size
        Traces that are done or not done as a whole; by default a sixty-fourth of the job, at most 256, or the
        ``batch_size`` of a batched simulator. With an executor a task makes one to four chunks, more in jobs of over
        4,096 chunks, and is lost when its worker dies: give slow simulators small chunks.
    collapse_rejection
        Keep only the accepted pass of each loop over `rejection`, as training for ``ic(amortize_rejection=True)`` needs
        it. Such traces are no samples of the program's joint density: the probability of acceptance is missing.
    simulator_processes
        Processes that run nothing but the simulator, beside each worker; one that dies costs its run, which is recorded
        as failed, and is replaced. With 0 the simulator runs in the workers.
    timeout
        Seconds that a run in such a process may take before it is ended and recorded as failed.
    executor
        Where the traces are made, instead of ``workers``. The simulator must be importable by name there, from a module
        with the same code.
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
        When an argument is out of range; when ``workers`` and ``executor`` are given; when the simulator of an executor
        cannot be imported by name.
    SimulatorError
        When a worker process dies, cannot import the simulator, or has other code of it.
    SimulatorProtocolError
        When a rerouted simulator does not repeat a run, see `require_reproducible`.
    ExecutorError
        When workers of an executor die.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     len(ts.simulate(gum, folder + "/traces", num_traces=100, seed=1))
    100
    """
    program = as_simulator(simulator)
    isolation = Isolation.of(simulator_processes, timeout)
    require_one_place(workers, executor, isolation)
    if executor is not None:
        ImportableSimulator.of(program)  # refuse what cannot be done before anything is written
    most = largest_chunk(program)
    chunks = plan_chunks(num_traces, chunk_size, most=most)
    job = simulate_job(
        program,
        num_traces,
        seed=seed,
        max_sites=max_sites,
        chunk_size=chunks[0].num_traces,
        collapse_rejection=collapse_rejection,
    )
    recipe = PriorDraws(int(seed), "simulate", max_sites, collapse_rejection=collapse_rejection)
    if isolation is None:
        require_reproducible(program, int(seed), max_sites=max_sites)
    if append:
        store = TraceStore.open(path)
        store.fold()  # streams and chunks go on after all that was sealed
        _require_same_program(store, program)
        first = int(store.column("stream").max(initial=-1)) + 1
        first_index = max(store.completed_work(), default=-1) + 1
        chunks = plan_chunks(num_traces, chunk_size, first=first, first_index=first_index, most=most)
    else:
        store = TraceStore.open_or_create(path, job)
    identity = f"{job.hash} from chunk {chunks[0].index}, stream {chunks[0].first}"
    make_traces(
        program, store, recipe, chunks, identity=identity,
        workers=workers, isolation=isolation, executor=executor, observer=observer,
    )  # fmt: skip
    return store


def simulate_job(
    program: Simulator,
    num_traces: int,
    *,
    seed: int,
    max_sites: int,
    chunk_size: int,
    collapse_rejection: bool = False,
) -> Job:
    """Describe the making of a store of prior traces; whoever makes the same chunks may continue it."""
    fields: dict[str, JSON] = {
        **program.identity,
        "num_traces": num_traces,
        "seed": int(seed),
        "max_sites": max_sites,
        "chunk_size": chunk_size,
    }
    # told only where it is so: older stores do not say
    return Job("simulate", fields | ({"collapse_rejection": True} if collapse_rejection else {}))


def _require_same_program(store: TraceStore, program: Simulator) -> None:
    fields = store.job.fields if store.job else {}
    found, fingerprint = fields.get("simulator"), fields.get("fingerprint")
    if found != program.name:
        message = (
            f"The store {store.storage.url} holds traces of {found!r}, not of {program.name!r}; "
            "append to a store of the same simulator, or write to another path."
        )
        raise InvalidInputError(message, field="simulator", found=found, wanted=program.name)
    if program.build and fingerprint != program.fingerprint:
        message = (
            f"The store {store.storage.url} holds traces of another build of {found!r}: {fingerprint}, not"
            f" {program.fingerprint}, and addresses of one build are other places in another; write to another path."
        )
        raise InvalidInputError(message, field="fingerprint", found=fingerprint, wanted=program.fingerprint)
