"""Independent draws from the prior: as they are, or weighted by the likelihood of an observation."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.events import Observer
from tracestore.execution.streams import TraceStreams
from tracestore.execution.workers import Chunk, plan_chunks, run_chunks
from tracestore.inference.conditioning import condition, require_positive
from tracestore.inference.lanes import SEAL_SECONDS
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import MAX_SITES, PriorController, Simulator, as_simulator, run_trace
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.trace import TraceStatus

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["importance", "prior"]


def importance(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    *,
    num_draws: int,
    seed: int = 0,
    workers: int = 1,
    max_sites: int = MAX_SITES,
    observer: Observer | None = None,
) -> Posterior:
    """Estimate the posterior by importance sampling from the prior.

    The draws are a function of (simulator, observation, seed, draw number) and do not depend on the number of workers.
    A run that the simulator failed is recorded with its reason and has weight zero.

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
    conditioning = condition(program, observations, seed=seed, max_sites=max_sites)
    return _draw(
        "is",
        program,
        conditioning.observations,
        conditioning.digest,
        path,
        num_draws,
        seed,
        workers,
        max_sites,
        observer,
    )


def prior(
    simulator: Simulator | Callable[[], object],
    path: StorePath,
    *,
    num_draws: int,
    seed: int = 0,
    workers: int = 1,
    max_sites: int = MAX_SITES,
    observer: Observer | None = None,
) -> Posterior:
    """Draw from the prior, observations included: the prior predictive distribution, all draws weighing the same.

    Parameters
    ----------
    simulator, path, num_draws, seed, workers, max_sites, observer
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
    return _draw("prior", as_simulator(simulator), None, None, path, num_draws, seed, workers, max_sites, observer)


def _draw(
    engine: str,
    program: Simulator,
    observations: Mapping[str, NDArray[np.generic]] | None,
    digest: str | None,
    path: StorePath,
    num_draws: int,
    seed: int,
    workers: int,
    max_sites: int,
    observer: Observer | None,
) -> Posterior:
    require_positive(num_draws=num_draws, workers=workers)
    chunks = plan_chunks(num_draws)
    streams = TraceStreams(seed, engine)
    fields: dict[str, JSON] = {
        "engine": engine,
        "simulator": program.name,
        "fingerprint": program.fingerprint,
        "observation": digest,
        "num_draws": num_draws,
        "seed": int(seed),
        "max_sites": max_sites,
    }
    store = TraceStore.open_or_create(path, Job("infer", fields))
    controller = PriorController()

    def task(chunk: Chunk) -> TraceBatch:
        traces = []
        for stream in range(chunk.first, chunk.first + chunk.num_traces):
            rng = streams.rewind(stream)
            trace = run_trace(program, controller, rng, observations=observations, max_sites=max_sites, stream=stream)
            trace.draw = stream
            if trace.status is not TraceStatus.OK:
                trace.log_weight = -np.inf
            elif observations is not None:
                trace.log_weight = trace.log_likelihood
            traces.append(trace)
        return TraceBatch.from_traces(traces)

    run_chunks(store, chunks, task, workers=workers, segment_seconds=SEAL_SECONDS, observer=observer, phase="infer")
    return Posterior(store)
