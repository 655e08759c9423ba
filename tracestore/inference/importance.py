"""Independent draws from the prior: as they are, or weighted by the likelihood of an observation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tracestore.events import Observer
from tracestore.execution.isolation import Isolation
from tracestore.execution.making import make_traces, require_one_place
from tracestore.execution.prior_draws import PriorDraws, largest_chunk
from tracestore.execution.slots import Runner, WaveRun
from tracestore.execution.workers import Chunk, plan_chunks
from tracestore.executors import Executor
from tracestore.inference.conditioning import Conditioning, condition, require_positive
from tracestore.inference.lanes import SEAL_SECONDS
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import MAX_SITES, Simulator, as_simulator
from tracestore.simulators.batched import BatchedSimulator
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.trace import Trace, TraceStatus

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["WeightedDraws", "importance", "prior"]


def importance(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    *,
    num_draws: int,
    seed: int = 0,
    workers: int = 1,
    max_sites: int = MAX_SITES,
    simulator_processes: int = 0,
    timeout: float | None = None,
    executor: Executor | None = None,
    observer: Observer | None = None,
) -> Posterior:
    """Estimate the posterior by importance sampling from the prior.

    The draws are a function of (simulator, observation, seed, draw number) and do not depend on the number of workers.
    A batched simulator makes a chunk of draws in one call, and they are a function of the chunk. A run that the
    simulator failed is recorded with its reason and has weight zero.

    Parameters
    ----------
    simulator
        A simulator, or any function without arguments.
    observations
        Observed values by name.
    path
        Store for the draws. When the same job is there already it is continued, or returned when complete.
    num_draws
        Draws.
    seed
        Seed of the job.
    workers
        Processes.
    max_sites
        Length cap of a trace.
    simulator_processes
        Processes that run nothing but the simulator, beside each worker; one that dies costs its run, which is recorded
        as failed, and is replaced. With 0 the simulator runs in the workers.
    timeout
        Seconds that a run in such a process may take before it is ended and recorded as failed.
    executor
        Where the draws are made, instead of ``workers``; the simulator must be importable by name there.
    observer
        Told of progress.

    Returns
    -------
    Posterior
        Weighted draws; the log weight is the log likelihood.

    Raises
    ------
    InvalidInputError
        When the observations do not fit the simulator, or an argument is out of range.
    StoreExistsError
        When the path holds another job's output; names the field that differs.
    SimulatorError
        When the simulator fails in every probe, or a worker process dies.

    Examples
    --------
    >>> import tempfile
    >>> from tracestore.simulators.toys import gum
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     posterior = importance(gum, {"obs0": 8.0, "obs1": 9.0}, folder + "/post", num_draws=2000, seed=1)
    ...     bool(abs(posterior.log_evidence + 8.24) < 4 * posterior.log_evidence_se)
    True
    """
    program = as_simulator(simulator)
    isolation = Isolation.of(simulator_processes, timeout)
    conditioning = condition(program, observations, seed=seed, max_sites=max_sites, isolation=isolation)
    return _draw(
        "is", program, conditioning, path, num_draws=num_draws, seed=seed, max_sites=max_sites,
        workers=workers, isolation=isolation, executor=executor, observer=observer,
    )  # fmt: skip


def prior(
    simulator: Simulator | Callable[[], object],
    path: StorePath,
    *,
    num_draws: int,
    seed: int = 0,
    workers: int = 1,
    max_sites: int = MAX_SITES,
    simulator_processes: int = 0,
    timeout: float | None = None,
    executor: Executor | None = None,
    observer: Observer | None = None,
) -> Posterior:
    """Draw from the prior, observations included: the prior predictive distribution, all draws weighing the same.

    Parameters
    ----------
    simulator, path, num_draws, seed, workers, max_sites, simulator_processes, timeout, executor, observer
        As in `importance`.

    Returns
    -------
    Posterior
        Draws of weight one; failed runs of the simulator have weight zero.

    Raises
    ------
    InvalidInputError, StoreExistsError, SimulatorError
        As in `importance`.

    Examples
    --------
    >>> import tempfile
    >>> from tracestore.simulators.toys import gum
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bool(abs(prior(gum, folder + "/prior", num_draws=2000, seed=1).mean("mu") - 1.0) < 0.2)
    True
    """
    return _draw(
        "prior", as_simulator(simulator), None, path, num_draws=num_draws, seed=seed, max_sites=max_sites,
        workers=workers, isolation=Isolation.of(simulator_processes, timeout), executor=executor, observer=observer,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class WeightedDraws:
    """Makes prior traces and weighs them by the likelihood of the observation, if there is one."""

    prior: PriorDraws

    def make(self, program: Simulator, chunk: Chunk) -> TraceBatch:
        """Make the traces of a chunk."""
        if isinstance(program, BatchedSimulator):
            return self._weighted(self.prior.batch(program, chunk))
        return self.finish(self.prior.traces(program, chunk))

    def runner(self, program: Simulator) -> Runner:
        """Say how a run is executed."""
        return self.prior.runner(program)

    def start_session(self, num_slots: int) -> None:
        """Return nothing: the prior proposes."""

    def runs(self, chunk: Chunk) -> Iterator[WaveRun]:
        """Yield the runs of a chunk."""
        return self.prior.runs(chunk)

    def finish(self, traces: Sequence[Trace]) -> TraceBatch:
        """Weigh the traces of a chunk, and gather them."""
        for trace in traces:
            trace.draw = trace.stream
            if trace.status is not TraceStatus.OK:
                trace.log_weight = -np.inf
            elif self.prior.observations is not None:
                trace.log_weight = trace.log_likelihood
        return TraceBatch.from_traces(traces)

    def _weighted(self, batch: TraceBatch) -> TraceBatch:
        weight = batch.log_weight if self.prior.observations is None else batch.log_likelihood
        log_weight = np.where(batch.status == TraceStatus.OK, weight, -np.inf)
        return replace(batch, draw=batch.stream, log_weight=log_weight)


def _draw(
    engine: str,
    program: Simulator,
    conditioning: Conditioning | None,
    path: StorePath,
    *,
    num_draws: int,
    seed: int,
    max_sites: int,
    workers: int,
    isolation: Isolation | None,
    executor: Executor | None,
    observer: Observer | None,
) -> Posterior:
    require_positive(num_draws=num_draws, workers=workers)
    require_one_place(workers, executor, isolation)
    fields: dict[str, JSON] = {
        "engine": engine,
        **program.identity,
        "observation": None if conditioning is None else conditioning.digest,
        "num_draws": num_draws,
        "seed": int(seed),
        "max_sites": max_sites,
    }
    observations = None if conditioning is None else conditioning.observations
    job = Job("infer", fields)
    store = TraceStore.open_or_create(path, job)
    make_traces(
        program,
        store,
        WeightedDraws(PriorDraws(int(seed), engine, max_sites, observations)),
        plan_chunks(num_draws, most=largest_chunk(program)),
        identity=job.hash,
        workers=workers,
        isolation=isolation,
        executor=executor,
        segment_seconds=SEAL_SECONDS,
        observer=observer,
        phase="infer",
    )
    return Posterior(store)
