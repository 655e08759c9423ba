"""Random-walk Metropolis-Hastings with many chains of a batched simulator, one call of it a step for all of them.

All chains run in this process, from one random stream: the draws are a function of (simulator, observation, seed,
number of chains, configuration). A job that was interrupted is done again from its start, which leads to the same
draws, and only the chunks that its store lacks are written.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from tracestore.errors import InvalidInputError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.execution.streams import TraceStreams
from tracestore.inference.batched_chains import BatchedChains
from tracestore.inference.conditioning import condition, require_positive
from tracestore.inference.lanes import SEAL_SECONDS
from tracestore.inference.rmh_config import RMHConfig
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import MAX_SITES, Simulator, as_simulator
from tracestore.simulators.batched import BatchedSimulator
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["MANY_CHAINS", "batched_rmh", "steps_together"]

MANY_CHAINS = 16
"""Chains from which those of a batched simulator step together."""
_ROWS_PER_CHUNK = 65_536
_MOVES = ("single", "walk")


def batched_rmh(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    *,
    num_draws: int,
    chains: int = 1024,
    seed: int = 0,
    config: RMHConfig | None = None,
    max_sites: int = MAX_SITES,
    observer: Observer | None = None,
) -> Posterior:
    """Sample the posterior with many Markov chains that step together.

    Half of the steps are a joint random walk on the named continuous draws, with the covariance of all chains; the
    others change one draw for each chain, by a local step or from the prior. Positive numbers walk on a logarithmic
    scale. Steps adapt in the warm-up, from all chains together, and stay fixed afterwards.

    Parameters
    ----------
    simulator
        A `BatchedSimulator` whose runs all have the same sites.
    observations
        Observed values by name.
    path
        Store for the draws. When the same job is there already it is continued, or returned when complete.
    num_draws
        Kept draws of all chains together; a multiple of `chains`.
    chains
        Markov chains, each from a start of its own.
    seed
        Seed of the job.
    config
        Warm-up, thinning, starts, shares; of ``move_weights`` only ``single`` and ``walk``.
    max_sites
        Length cap of a trace.
    observer
        Told of progress.

    Returns
    -------
    Posterior
        Unweighted draws. Moves are counted for all chains together, as those of chain 0.

    Raises
    ------
    InvalidInputError
        When the simulator is not batched, the observations do not fit it, or an argument is out of range.
    InferenceError
        When a chain finds no start, the sites of runs differ, or the simulator fails in many steps in a row.
    StoreExistsError
        When the path holds another job's output; names the field that differs.
    SimulatorProtocolError
        When the simulator does not reproduce a trace from its draws; says what differs.

    Examples
    --------
    >>> import math, tempfile
    >>> import tracestore as ts
    >>> def program():
    ...     mu = ts.sample(ts.Normal(1.0, math.sqrt(5.0)), name="mu")
    ...     for name in ("obs0", "obs1"):
    ...         ts.observe(ts.Normal(mu, math.sqrt(2.0)), name=name)
    >>> config = RMHConfig(warmup=100)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     posterior = batched_rmh(
    ...         BatchedSimulator(program), {"obs0": 8.0, "obs1": 9.0}, folder + "/post",
    ...         num_draws=20_000, chains=1000, seed=1, config=config,
    ...     )
    ...     bool(abs(posterior.mean("mu") - 7.25) < 0.1)
    True
    """
    config = config or RMHConfig()
    program = _require_batched(as_simulator(simulator), config)
    require_positive(num_draws=num_draws, chains=chains)
    if num_draws % chains:
        message = f"`num_draws` must be a multiple of `chains`; got {num_draws} draws for {chains} chains."
        raise InvalidInputError(message, argument="num_draws")
    conditioning = condition(program, observations, seed=seed, max_sites=max_sites)
    fields: dict[str, JSON] = {
        "engine": "rmh",
        "batched": True,
        **program.identity,
        "observation": conditioning.digest,
        "num_draws": num_draws,
        "chains": chains,
        "seed": int(seed),
        "max_sites": max_sites,
        "config": config.to_json(),
    }
    store = TraceStore.open_or_create(path, Job("infer", fields))
    rng = TraceStreams(seed, "batched-rmh").generator(0)
    made = BatchedChains(program, conditioning.observations, chains, config, rng, max_sites)
    _write(store, made, num_draws // chains, observer)
    return Posterior(store)


def steps_together(program: object, config: RMHConfig, chains: int) -> bool:
    """Tell whether `rmh` lets the chains of a simulator step together.

    Parameters
    ----------
    program
        What `rmh` was given.
    config
        Its moves; batched chains know only some.
    chains
        Chains.

    Examples
    --------
    >>> from tracestore.simulators.toys import gum
    >>> steps_together(gum, RMHConfig(), 1000)
    False
    """
    return isinstance(program, BatchedSimulator) and chains >= MANY_CHAINS and not _other_moves(config)


def _write(store: TraceStore, chains: BatchedChains, draws_per_chain: int, observer: Observer | None) -> None:
    """Make all draws, and write the chunks that the store lacks."""
    size = max(1, _ROWS_PER_CHUNK // chains.num_chains)
    completed, total = store.completed_work(), draws_per_chain * chains.num_chains
    begun, done = time.perf_counter(), 0
    if observer is not None:
        observer(PhaseStarted("infer", total, 0, "draws"))
    if len(completed) < -(-draws_per_chain // size):
        chains.start()
        chains.warm_up()
        with store.writer(segment_seconds=SEAL_SECONDS) as writer:
            try:
                for unit, batch in enumerate(_chunks(chains, draws_per_chain, size)):
                    if unit not in completed:
                        chains.tally.prune()
                        writer.append(batch, work=[unit], state={"chain": 0, "chunk": unit, **chains.tally.to_json()})
                    done += len(batch)
                    if observer is not None:
                        observer(PhaseAdvanced("infer", done, total))
            except BaseException:
                writer.close()  # only whole chunks were appended, and readers may see them
                raise
        store.fold()
    if observer is not None:
        observer(PhaseFinished("infer", time.perf_counter() - begun))


def _chunks(chains: BatchedChains, draws_per_chain: int, size: int) -> Iterator[TraceBatch]:
    for first in range(0, draws_per_chain, size):
        numbers = range(first, min(first + size, draws_per_chain))
        yield TraceBatch.concatenate([chains.draw(number) for number in numbers])


def _require_batched(program: Simulator, config: RMHConfig) -> BatchedSimulator:
    if not isinstance(program, BatchedSimulator):
        message = f"Batched chains need a batched simulator; {program!r} runs one trace at a time. Use `rmh`."
        raise InvalidInputError(message, simulator=program.name)
    others = _other_moves(config)
    if others:
        message = f"Batched chains have the moves {', '.join(_MOVES)}; `move_weights` asks for {', '.join(others)}."
        raise InvalidInputError(message, argument="move_weights", found=tuple(others))
    return program


def _other_moves(config: RMHConfig) -> list[str]:
    weights = config.move_weights or {}
    return [name for name, weight in weights.items() if weight > 0.0 and name not in _MOVES]
