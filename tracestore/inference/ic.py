"""Inference compilation: importance sampling from a trained proposal network, made safe by a share of prior draws."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InferenceError, InvalidInputError
from tracestore.events import Observer
from tracestore.execution.provider import ProposalProvider, ProposalSession
from tracestore.execution.streams import TraceStreams
from tracestore.execution.waves import Ask, WaveRun, run_waves
from tracestore.execution.workers import Chunk, plan_chunks, run_chunks
from tracestore.inference.conditioning import condition, require_positive, require_same_simulator
from tracestore.inference.lanes import SEAL_SECONDS
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import MAX_SITES, PriorController, Simulator, as_simulator, run_trace
from tracestore.simulators.runtime import Value
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.traces.trace import Trace, TraceStatus

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["ic"]


def ic(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    *,
    network: ProposalProvider,
    num_draws: int,
    seed: int = 0,
    defensive: float = 0.1,
    num_slots: int = 64,
    workers: int = 1,
    max_sites: int = MAX_SITES,
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
    num_slots
        Runs in flight at once, served by one network call, when the simulator is reentrant.
    workers
        Processes; each has its own session with the network.
    max_sites
        Length cap of a trace.
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
    if not 0.0 <= defensive <= 1.0:
        message = f"`defensive` must be between 0 and 1; got {defensive!r}."
        raise InvalidInputError(message, argument="defensive")
    require_positive(num_draws=num_draws, num_slots=num_slots, workers=workers)
    program = as_simulator(simulator)
    conditioning = condition(program, observations, seed=seed, max_sites=max_sites)
    require_same_simulator(network, program, conditioning.probes)
    fields: dict[str, JSON] = {
        "engine": "ic",
        "simulator": program.name,
        "fingerprint": program.fingerprint,
        "observation": conditioning.digest,
        "network": network.job.hash,
        "num_draws": num_draws,
        "seed": int(seed),
        "defensive": float(defensive),
        "num_slots": num_slots,
        "max_sites": max_sites,
    }
    store = TraceStore.open_or_create(path, Job("infer", fields))
    sampler = _MixtureSampler(
        program, conditioning.observations, network, TraceStreams(seed, "ic"), defensive, num_slots, max_sites
    )
    # slots run dry at the end of a chunk: with chunks of several waves they are busy most of the time
    shares_calls = program.is_reentrant and num_slots > 1
    chunks = plan_chunks(num_draws, min(8 * num_slots, math.ceil(num_draws / 8)) if shares_calls else None)
    run_chunks(
        store, chunks, sampler.draw, workers=workers, segment_seconds=SEAL_SECONDS, observer=observer, phase="infer"
    )
    return Posterior(store)


class _ProposalController:
    """Draws controlled sites from the proposals, adding up their density, and the others from the prior."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.previous: Value | None = None
        self.log_proposal = 0.0

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Draw from the proposal of the session."""
        if not site.is_controlled:
            value = prior.sample(rng)
            return value, prior.log_prob(value)
        proposal = self.ask(site, prior, self.previous)
        if proposal is None:
            value = prior.sample(rng)
            log_prob = log_proposal = prior.log_prob(value)
        else:
            value = proposal.sample(rng)
            log_prob, log_proposal = prior.log_prob(value), proposal.log_prob(value)
            if not math.isfinite(log_proposal):
                message = (
                    f"The network's proposal {proposal.family} at {site.address!r} gives its own draw {value!r} the log"
                    f" density {log_proposal!r}; train it again, or report the case."
                )
                raise InferenceError(message, address=site.address)
        self.log_proposal += log_proposal
        self.previous = value
        return value, log_prob


@dataclass(slots=True)
class _MixtureSampler:
    """Makes chunks of draws from the mixture of network and prior."""

    program: Simulator
    observations: Mapping[str, NDArray[np.generic]]
    network: ProposalProvider
    streams: TraceStreams
    defensive: float
    num_slots: int
    max_sites: int
    session: ProposalSession | None = None

    def draw(self, chunk: Chunk) -> TraceBatch:
        """Draw and weight one chunk."""
        if self.session is None:
            # made where it is used: a forked worker has its own
            self.session = self.network.session(self.observations, self.num_slots)
        from_prior: list[Trace] = []
        runs: list[WaveRun] = []
        controllers: dict[int, _ProposalController] = {}
        for stream in range(chunk.first, chunk.first + chunk.num_traces):
            rng = self.streams.generator(stream)
            if rng.random() < self.defensive:
                from_prior.append(self._run_prior(stream, rng))
            else:
                runs.append(WaveRun(stream, rng, _remembered(controllers, stream)))
        from_network = (
            run_waves(
                self.program,
                self.session,
                runs,
                observations=self.observations,
                num_slots=self.num_slots,
                max_sites=self.max_sites,
            )
            if runs
            else []
        )
        log_network = {trace.stream: controllers[trace.stream].log_proposal for trace in from_network}
        # failed runs have weight zero whatever the network thinks of them
        scored = [trace for trace in from_prior if trace.status is TraceStatus.OK]
        if scored:
            scores = self.session.log_prob(TraceBatch.from_traces(scored))
            log_network |= {trace.stream: float(score) for trace, score in zip(scored, scores, strict=True)}
        traces = sorted([*from_prior, *from_network], key=lambda trace: trace.stream)
        for trace in traces:
            self._weigh(trace, log_network.get(trace.stream, math.nan))
        return TraceBatch.from_traces(traces)

    def _run_prior(self, stream: int, rng: np.random.Generator) -> Trace:
        return run_trace(
            self.program,
            PriorController(),
            rng,
            observations=self.observations,
            max_sites=self.max_sites,
            stream=stream,
        )

    def _weigh(self, trace: Trace, log_network: float) -> None:
        trace.draw = trace.stream
        if trace.status is not TraceStatus.OK:
            trace.log_weight = -math.inf
            return
        log_prior = float(trace.log_probs[trace.layout.controlled].sum())
        trace.log_proposal = _log_mixture(self.defensive, log_network, log_prior)
        trace.log_weight = trace.log_likelihood + log_prior - trace.log_proposal if log_prior > -math.inf else -math.inf


def _remembered(controllers: dict[int, _ProposalController], stream: int) -> Callable[[Ask], _ProposalController]:
    def make(ask: Ask) -> _ProposalController:
        controllers[stream] = _ProposalController(ask)
        return controllers[stream]

    return make


def _log_mixture(share: float, log_network: float, log_prior: float) -> float:
    """Log of ``share * prior + (1 - share) * network``."""
    if math.isnan(log_network):
        message = "The network scored a trace with NaN; train it again, or report the case."
        raise InferenceError(message)
    prior_part = -math.inf if share == 0.0 else math.log(share) + log_prior
    network_part = -math.inf if share == 1.0 else math.log1p(-share) + log_network
    return float(np.logaddexp(prior_part, network_part))
