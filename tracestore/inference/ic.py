"""Inference compilation: importance sampling from a trained proposal network, made safe by a share of prior draws."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from tracestore.errors import InvalidInputError
from tracestore.events import Observer
from tracestore.execution.amortized_rejection import LoopSettings
from tracestore.execution.isolation import Isolation
from tracestore.execution.making import make_traces
from tracestore.execution.provider import ProposalProvider
from tracestore.execution.workers import plan_chunks
from tracestore.executors import Executor
from tracestore.inference.conditioning import (
    condition_many,
    require_positive,
    require_same_loops,
    require_same_simulator,
)
from tracestore.inference.lanes import SEAL_SECONDS
from tracestore.inference.mixture import MixtureDraws
from tracestore.posteriors.posterior import Posterior
from tracestore.posteriors.posterior_set import PosteriorSet
from tracestore.simulators.base import MAX_SITES, Simulator, as_simulator
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["ic", "ic_many"]


def ic(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    *,
    network: ProposalProvider,
    num_draws: int,
    seed: int = 0,
    defensive: float = 0.1,
    amortize_rejection: bool = False,
    num_slots: int = 64,
    workers: int = 1,
    max_sites: int = MAX_SITES,
    simulator_processes: int = 0,
    timeout: float | None = None,
    executor: Executor | None = None,
    observer: Observer | None = None,
) -> Posterior:
    """Estimate the posterior by importance sampling from a trained network.

    Whole traces are drawn from the prior with probability ``defensive``, and all are weighted by the density of the
    mixture. A weight is therefore at most the likelihood divided by ``defensive``: with a bounded likelihood, a network
    that is wrong somewhere costs precision but never gives infinite variance.

    Parameters
    ----------
    simulator
        A simulator, or any function without arguments.
    observations
        Observed values by name.
    path
        Store for the draws. When the same job is there already it is continued, or returned when complete.
    network
        Trained on traces of this simulator.
    num_draws
        Draws.
    seed
        Seed of the job.
    defensive
        Share of the prior in the mixture, in ``[0, 1]``; with 0 nothing bounds the weights.
    amortize_rejection
        Let the network propose inside rejection loops, too (Naderiparizi et al. 2022): traces then hold the accepted
        pass of each loop alone, and each pass comes from the prior with the defensive probability. The network must
        have been trained on traces simulated with ``collapse_rejection=True``.
    num_slots
        Runs in flight at once, served by one network call, when the simulator is reentrant and runs in the workers.
    workers
        Processes; each has its own session with the network.
    max_sites
        Length cap of a trace.
    simulator_processes
        Processes that run nothing but the simulator, beside each worker, so that programs which are not reentrant run
        side by side, too; one that dies costs its run, which is recorded as failed, and is replaced. The draws are then
        the same in distribution. With 0 the simulator runs in the workers.
    timeout
        Seconds that a run in such a process may compute before it is ended and recorded as failed.
    executor
        Where the draws are made, instead of ``workers``; the simulator must be importable by name there, and the
        network is sent.
    observer
        Told of progress.

    Returns
    -------
    Posterior
        Weighted draws.

    Raises
    ------
    InvalidInputError
        When the observations or the network do not fit the simulator, or an argument is out of range.
    StoreExistsError
        When the path holds another job's output; names the field that differs.
    InferenceError
        When the network proposes a value of density zero or NaN.
    SimulatorError
        When the simulator fails in every probe, or a worker process dies.
    """
    store = _infer(
        simulator, [observations], path, network,
        num_draws=num_draws, seed=seed, defensive=defensive, amortize_rejection=amortize_rejection,
        num_slots=num_slots, workers=workers, max_sites=max_sites, isolation=Isolation.of(simulator_processes, timeout),
        executor=executor, observer=observer,
    )  # fmt: skip
    return Posterior(store)


def ic_many(
    simulator: Simulator | Callable[[], object],
    observations: Sequence[Mapping[str, ArrayLike]],
    path: StorePath,
    *,
    network: ProposalProvider,
    num_draws: int,
    seed: int = 0,
    defensive: float = 0.1,
    amortize_rejection: bool = False,
    num_slots: int = 64,
    workers: int = 1,
    max_sites: int = MAX_SITES,
    simulator_processes: int = 0,
    timeout: float | None = None,
    executor: Executor | None = None,
    observer: Observer | None = None,
) -> PosteriorSet:
    """Estimate the posteriors of many observations with one network, their runs side by side.

    Runs for different observations share the calls of the network, so that a few draws for each of many observations
    cost no more than many draws for one.

    Parameters
    ----------
    simulator, path, network, seed, defensive, amortize_rejection, num_slots, workers, max_sites,
    simulator_processes, timeout, executor, observer
        As in `ic`.
    observations
        Observed values by name, for each observation.
    num_draws
        Draws for each observation.

    Returns
    -------
    PosteriorSet
        One posterior an observation, in one store: column ``chain`` has the number of the observation.

    Raises
    ------
    InvalidInputError, StoreExistsError, InferenceError, SimulatorError
        As in `ic`.
    """
    store = _infer(
        simulator, observations, path, network,
        num_draws=num_draws, seed=seed, defensive=defensive, amortize_rejection=amortize_rejection,
        num_slots=num_slots, workers=workers, max_sites=max_sites, isolation=Isolation.of(simulator_processes, timeout),
        executor=executor, observer=observer, fields={"num_observations": len(observations)},
    )  # fmt: skip
    return PosteriorSet(store)


def _infer(
    simulator: Simulator | Callable[[], object],
    observations: Sequence[Mapping[str, ArrayLike]],
    path: StorePath,
    network: ProposalProvider,
    *,
    num_draws: int,
    seed: int,
    defensive: float,
    amortize_rejection: bool,
    num_slots: int,
    workers: int,
    max_sites: int,
    isolation: Isolation | None,
    executor: Executor | None,
    observer: Observer | None,
    fields: "Mapping[str, JSON] | None" = None,
) -> TraceStore:
    """Check everything, open the store of the job and make the draws that it lacks."""
    if not 0.0 <= defensive <= 1.0:
        message = f"`defensive` must be between 0 and 1; got {defensive!r}."
        raise InvalidInputError(message, argument="defensive")
    require_positive(num_draws=num_draws, num_slots=num_slots, workers=workers, max_sites=max_sites)
    program = as_simulator(simulator)
    conditioning = condition_many(program, observations, seed=seed, max_sites=max_sites, isolation=isolation)
    require_same_simulator(network, program, conditioning.probes)
    require_same_loops(network, amortize_rejection=amortize_rejection)
    job = Job(
        "infer",
        {
            "engine": "ic",
            **program.identity,
            "observation": conditioning.digest,
            "network": network.job.hash,
            "num_draws": num_draws,
            "seed": int(seed),
            "defensive": float(defensive),
            "num_slots": num_slots,
            "max_sites": max_sites,
            **(fields or {}),
            **({"amortize_rejection": True} if amortize_rejection else {}),
        },
    )
    store = TraceStore.open_or_create(path, job)
    loops = LoopSettings(float(defensive)) if amortize_rejection else None
    recipe = MixtureDraws(
        conditioning.several, network, int(seed), num_draws, defensive, num_slots, max_sites, loops=loops
    )
    # slots run dry at the end of a chunk: with chunks of several waves they are busy most of the time
    num_traces = num_draws * len(conditioning.several)
    shares_calls = program.is_reentrant and num_slots > 1
    make_traces(
        program,
        store,
        recipe,
        plan_chunks(num_traces, min(8 * num_slots, math.ceil(num_traces / 8)) if shares_calls else None),
        identity=job.hash,
        workers=workers,
        isolation=isolation,
        executor=executor,
        segment_seconds=SEAL_SECONDS,
        observer=observer,
        phase="infer",
    )
    return store
