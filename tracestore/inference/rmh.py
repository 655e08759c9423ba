"""Markov chains on traces: random-walk Metropolis-Hastings (RMH) and its prior-kernel special case (LMH).

Each chain's state is committed with every chunk of its draws, and each chunk has a random stream of its own, so that a
chain continued after an interruption equals the uninterrupted one bit for bit, for any number of workers.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from tracestore.errors import InvalidInputError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.execution.pieces import Piece
from tracestore.execution.streams import TraceStreams
from tracestore.inference.chain import Chain, Target
from tracestore.inference.conditioning import Conditioning, condition, require_positive
from tracestore.inference.lanes import run_lanes
from tracestore.inference.moves import Role, role_of
from tracestore.inference.rmh_config import MOVES, RMHConfig
from tracestore.posteriors.chain_states import last_states
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import MAX_SITES, Simulator, as_simulator
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces.distributions import from_parameters
from tracestore.traces.layout import SiteKind
from tracestore.traces.trace import Trace

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["lmh", "rmh"]

MAX_CHUNK = 500
"""Kept draws in a chunk."""
_STREAMS_PER_CHAIN = 1 << 32


def rmh(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    *,
    num_draws: int,
    chains: int = 4,
    seed: int = 0,
    workers: int = 1,
    config: RMHConfig | None = None,
    max_sites: int = MAX_SITES,
    observer: Observer | None = None,
) -> Posterior:
    """Sample the posterior with Markov chains on traces.

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
    config
        Moves, warm-up and thinning.
    max_sites
        Length cap of a trace; moves to longer traces are rejected.
    observer
        Told of progress.

    Returns
    -------
    Posterior
        Unweighted draws; failed runs of the simulator were rejected moves, counted in ``acceptance``.

    Raises
    ------
    InvalidInputError
        When the observations do not fit the simulator, or an argument is out of range.
    InferenceError
        When no prior draw explains the observation at all.
    StoreExistsError
        When the path holds another job's output; names the field that differs.
    SimulatorProtocolError
        When, at resumption, the simulator does not reproduce a trace from its draws.
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
    return _run_chains(
        "rmh",
        simulator,
        observations,
        path,
        num_draws,
        chains,
        seed,
        workers,
        config or RMHConfig(),
        max_sites,
        observer,
    )


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
    observer: Observer | None = None,
) -> Posterior:
    """Sample the posterior with single-site moves that propose from the prior (lightweight Metropolis-Hastings).

    Parameters
    ----------
    simulator, observations, path, num_draws, chains, seed, workers, max_sites, observer
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
        "lmh", simulator, observations, path, num_draws, chains, seed, workers, config, max_sites, observer
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the draws of each chain are cut into chunks."""

    num_chains: int
    draws_per_chain: int
    chunk_size: int

    @property
    def chunks_per_chain(self) -> int:
        return -(-self.draws_per_chain // self.chunk_size)

    def work(self, chain: int, chunk: int) -> int:
        return chain * self.chunks_per_chain + chunk

    def draws(self, chunk: int) -> tuple[int, int]:
        """First draw and number of draws."""
        first = chunk * self.chunk_size
        return first, min(self.chunk_size, self.draws_per_chain - first)


def _run_chains(
    engine: str,
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    num_draws: int,
    chains: int,
    seed: int,
    workers: int,
    config: RMHConfig,
    max_sites: int,
    observer: Observer | None,
) -> Posterior:
    require_positive(num_draws=num_draws, chains=chains, workers=workers)
    plan = _plan(num_draws, chains)
    program = as_simulator(simulator)
    conditioning = condition(program, observations, seed=seed, max_sites=max_sites)
    moves = _chosen_moves(config, program, conditioning)
    fields: dict[str, JSON] = {
        "engine": engine,
        "simulator": program.name,
        "fingerprint": program.fingerprint,
        "observation": conditioning.digest,
        "num_draws": num_draws,
        "chains": chains,
        "seed": int(seed),
        "max_sites": max_sites,
        "config": config.to_json(),
    }
    store = TraceStore.open_or_create(path, Job("infer", fields))
    names = None if config.joint_names is None else frozenset(config.joint_names)
    target = Target(program, conditioning.observations, max_sites, config, moves, names)
    progress = _Progress(store, plan, observer)
    states = last_states(store)
    lanes = [
        partial(
            _lane,
            Chain(target, number),
            plan,
            TraceStreams(seed, engine),
            progress.chunks_done(number),
            states.get(number),
        )
        for number in range(chains)
        if progress.chunks_done(number) < plan.chunks_per_chain
    ]
    if lanes:
        run_lanes(store, lanes, workers=workers, report=progress.advance)
        store.fold()
    progress.finish()
    return Posterior(store)


def _lane(
    chain: Chain, plan: _Plan, streams: TraceStreams, num_done: int, state: Mapping[str, Any] | None
) -> Iterator[Piece]:
    """Start or restore a chain and yield its chunks that are left."""
    origin = chain.number * _STREAMS_PER_CHAIN
    if state is None:
        rng = streams.generator(origin)
        chain.start(rng)
        chain.warm_up(rng)
    else:
        chain.restore(state)
    for chunk in range(num_done, plan.chunks_per_chain):
        failed = chain.num_failed
        batch = chain.run(streams.generator(origin + 1 + chunk), *plan.draws(chunk))
        state = {**chain.to_json(), "chunk": chunk}
        yield Piece(batch, plan.work(chain.number, chunk), state, chain.num_failed - failed)


def _plan(num_draws: int, chains: int) -> _Plan:
    if num_draws % chains:
        below = num_draws // chains * chains
        near = f"{below} or {below + chains}" if below else str(chains)
        divisors = ", ".join(str(count) for count in range(1, min(num_draws, 16) + 1) if num_draws % count == 0)
        message = (
            f"`num_draws` must be a multiple of `chains`; got {num_draws} draws for {chains} chains."
            f" Ask for {near} draws, or for a number of chains out of: {divisors}."
        )
        raise InvalidInputError(message, argument="num_draws")
    per_chain = num_draws // chains
    return _Plan(chains, per_chain, max(1, min(MAX_CHUNK, math.ceil(per_chain / 20))))


def _chosen_moves(config: RMHConfig, program: Simulator, conditioning: Conditioning) -> tuple[tuple[str, float], ...]:
    """Choose the moves that change something in this simulator, with probabilities."""
    names = None if config.joint_names is None else frozenset(config.joint_names)
    roles = {role for trace in conditioning.probes for role in _roles(trace, names)}
    if not roles:
        message = f"The simulator {program.name!r} makes no draw that is not observed; there is nothing to infer."
        raise InvalidInputError(message, simulator=program.name)
    if names is not None:
        _require_joint_names(names, conditioning.probes)
    usable = {
        "single": True,
        "walk": Role.WALKED in roles,
        "redraw": Role.UNNAMED in roles,
        "walk_redraw": {Role.WALKED, Role.UNNAMED} <= roles,
        "independent": True,
    }
    if config.move_weights is None:
        has_both = usable["walk_redraw"]
        weights = {
            "single": 0.5,
            "walk": 0.2,
            "redraw": 0.1 if has_both else 0.0,
            "walk_redraw": 0.1,
            "independent": 0.1,
        }
        weights = {name: weight if usable[name] else 0.0 for name, weight in weights.items()}
    else:
        weights = {name: config.move_weights.get(name, 0.0) for name in MOVES}
        idle = [name for name in MOVES if weights[name] > 0.0 and not usable[name]]
        if idle:
            message = (
                f"`move_weights` asks for {idle}, which change nothing in {program.name!r}: it needs"
                " named continuous draws to walk and unnamed draws to redraw."
            )
            raise InvalidInputError(message, argument="move_weights")
    total = sum(weights.values())
    return tuple((name, weights[name] / total) for name in MOVES if weights[name] > 0.0)


def _roles(trace: Trace, names: frozenset[str] | None) -> Iterator[Role]:
    offsets = trace.layout.parameter_offsets
    for position, site in enumerate(trace.sites):
        if site.kind is SiteKind.SAMPLE:
            parameters = trace.parameters[offsets[position] : offsets[position + 1]]
            yield role_of(site, from_parameters(site.family, parameters, site.shape), names)


def _require_joint_names(names: frozenset[str], probes: tuple[Trace, ...]) -> None:
    known = {site.name for trace in probes for site in trace.sites if site.kind is SiteKind.SAMPLE and site.name}
    unknown = sorted(names - known)
    if unknown:
        message = f"`joint_names` has {unknown}, which the simulator did not draw; it draws {sorted(known)}."
        raise InvalidInputError(message, argument="joint_names")


class _Progress:
    def __init__(self, store: TraceStore, plan: _Plan, observer: Observer | None) -> None:
        self.plan = plan
        self.completed = store.completed_work()
        self.observer = observer
        self.total = plan.num_chains * plan.draws_per_chain
        self.done = sum(
            plan.draws(chunk)[1] for chain in range(plan.num_chains) for chunk in range(self.chunks_done(chain))
        )
        self.failed = 0
        self.start = time.perf_counter()
        self._tell(PhaseStarted("infer", self.total, self.done, "draws"))

    def chunks_done(self, chain: int) -> int:
        """Chunks of a chain that are committed; chains are committed in order."""
        return sum(self.plan.work(chain, chunk) in self.completed for chunk in range(self.plan.chunks_per_chain))

    def advance(self, num_draws: int, num_failed: int) -> None:
        self.done += num_draws
        self.failed += num_failed
        self._tell(PhaseAdvanced("infer", self.done, self.total, self.failed))

    def finish(self) -> None:
        self._tell(PhaseFinished("infer", time.perf_counter() - self.start))

    def _tell(self, event: PhaseStarted | PhaseAdvanced | PhaseFinished) -> None:
        if self.observer is not None:
            self.observer(event)
