"""Markov chains on traces: random-walk Metropolis-Hastings (RMH) and its prior-kernel special case (LMH).

Each chain's state is committed after its start, with every piece of its warm-up and with every chunk of its draws, and
each of these has a random stream of its own, so that a chain continued after an interruption equals the uninterrupted
one bit for bit, for any number of workers.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from tracestore.events import Observer
from tracestore.execution.making import require_one_place
from tracestore.execution.provider import ProposalProvider
from tracestore.execution.tasks import ImportableSimulator
from tracestore.executors import Executor
from tracestore.inference.batched_rmh import batched_rmh, steps_together
from tracestore.inference.chain_plan import ChainProgress, plan_chains
from tracestore.inference.chain_recipe import ChainRecipe
from tracestore.inference.chain_tasks import run_chain_tasks
from tracestore.inference.conditioning import condition, require_positive, require_same_loops, require_same_simulator
from tracestore.inference.lanes import run_lanes
from tracestore.inference.move_choice import choose_moves
from tracestore.inference.rmh_config import RMHConfig
from tracestore.posteriors.chain_states import last_states
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import MAX_SITES, Simulator, as_simulator
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["lmh", "rmh"]


def rmh(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    *,
    num_draws: int,
    chains: int = 4,
    seed: int = 0,
    workers: int = 1,
    network: ProposalProvider | None = None,
    config: RMHConfig | None = None,
    max_sites: int = MAX_SITES,
    executor: Executor | None = None,
    observer: Observer | None = None,
) -> Posterior:
    """Sample the posterior with Markov chains on traces.

    Sixteen and more chains of a batched simulator step together, see `batched_rmh`, unless there is a network, an
    executor, or a move that it does not know.

    Parameters
    ----------
    simulator
        A simulator, or any function without arguments.
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
    workers
        Processes; each runs whole chains. The draws do not depend on their number.
    network
        A network trained on this simulator: chains start from its draws, and a share of the moves propose whole traces
        from it (see `RMHConfig`). The draws stay exact however wrong it is.
    config
        Moves, warm-up and thinning.
    max_sites
        Length cap of a trace; moves to longer traces are rejected.
    executor
        Where the chains run, instead of ``workers``; the simulator must be importable by name there, and the network is
        sent.
    observer
        Told of progress.

    Returns
    -------
    Posterior
        Unweighted draws; failed runs of the simulator were rejected moves, counted in ``acceptance``.

    Raises
    ------
    InvalidInputError
        When the observations or the network do not fit the simulator, or an argument is out of range.
    InferenceError
        When no prior draw explains the observation at all, or the network proposes a value of density zero or NaN.
    StoreExistsError
        When the path holds another job's output; names the field that differs.
    SimulatorProtocolError
        When the simulator does not reproduce a trace from its draws; says what differs.
    SimulatorError
        When a worker process dies.

    Examples
    --------
    >>> import tempfile
    >>> from tracestore.simulators.toys import gum
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     posterior = rmh(gum, {"obs0": 8.0, "obs1": 9.0}, folder + "/post", num_draws=4000, seed=1)
    ...     bool(abs(posterior.mean("mu") - 7.25) < 0.2)
    True
    """
    config = config or RMHConfig()
    if network is None and executor is None and steps_together(simulator, config, chains):
        return batched_rmh(
            simulator, observations, path,
            num_draws=num_draws, chains=chains, seed=seed, config=config, max_sites=max_sites, observer=observer,
        )  # fmt: skip
    return _run_chains(
        "rmh", simulator, observations, path, network, config, observer,
        num_draws=num_draws, chains=chains, seed=seed, workers=workers, executor=executor, max_sites=max_sites,
    )  # fmt: skip


def lmh(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    *,
    num_draws: int,
    chains: int = 4,
    seed: int = 0,
    workers: int = 1,
    warmup: int = 1000,
    thinning: int = 1,
    max_sites: int = MAX_SITES,
    executor: Executor | None = None,
    observer: Observer | None = None,
) -> Posterior:
    """Sample the posterior with single-site moves that propose from the prior (lightweight Metropolis-Hastings).

    Parameters
    ----------
    simulator, observations, path, num_draws, chains, seed, workers, max_sites, executor, observer
        As in `rmh`.
    warmup, thinning
        As in `RMHConfig`.

    Returns
    -------
    Posterior
        Unweighted draws.

    Raises
    ------
    InvalidInputError, InferenceError, StoreExistsError, SimulatorProtocolError
        As in `rmh`.

    Examples
    --------
    >>> import tempfile
    >>> from tracestore.simulators.toys import geometric
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     posterior = lmh(geometric, {"obs": 3.0}, folder + "/post", num_draws=2000, seed=1)
    ...     bool(abs(posterior.mean("result") - 2.31) < 0.3)
    True
    """
    config = RMHConfig(move_weights={"single": 1.0}, kernel_share=0.0, warmup=warmup, thinning=thinning)
    return _run_chains(
        "lmh", simulator, observations, path, None, config, observer,
        num_draws=num_draws, chains=chains, seed=seed, workers=workers, executor=executor, max_sites=max_sites,
    )  # fmt: skip


def _run_chains(
    engine: str,
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    network: ProposalProvider | None,
    config: RMHConfig,
    observer: Observer | None,
    *,
    num_draws: int,
    chains: int,
    seed: int,
    workers: int,
    executor: Executor | None,
    max_sites: int,
) -> Posterior:
    require_positive(num_draws=num_draws, chains=chains, workers=workers)
    require_one_place(workers, executor)
    plan = plan_chains(num_draws=num_draws, chains=chains, warmup=config.warmup)
    program = as_simulator(simulator)
    conditioning = condition(program, observations, seed=seed, max_sites=max_sites)
    moves = choose_moves(config, program, conditioning.probes, has_network=network is not None)
    fields: dict[str, JSON] = {
        "engine": engine,
        **program.identity,
        "observation": conditioning.digest,
        "num_draws": num_draws,
        "chains": chains,
        "seed": int(seed),
        "max_sites": max_sites,
        "config": config.to_json(),
    }
    if network is not None:
        require_same_simulator(network, program, conditioning.probes)
        require_same_loops(network)
        fields["network"] = network.job.hash
    if executor is not None:
        ImportableSimulator.of(program)  # refuse what cannot be done before anything is written
    store = TraceStore.open_or_create(path, Job("infer", fields))
    recipe = ChainRecipe(engine, int(seed), plan, config, moves, conditioning.observations, max_sites, network=network)
    states = last_states(store)
    progress = ChainProgress(plan, states, observer)
    if executor is not None:
        run_chain_tasks(store, program, recipe, states, executor=executor, progress=progress)
    else:
        lanes = [
            partial(recipe.units, program, number, states.get(number))
            for number in range(chains)
            if number not in states or states[number]["chunk"] + 1 < plan.chunks_per_chain
        ]
        if lanes:
            run_lanes(store, lanes, workers=workers, report=progress.advance)
            store.fold()
    progress.finish()
    return Posterior(store)
