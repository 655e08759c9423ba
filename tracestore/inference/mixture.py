"""Weighted draws from the mixture of a network's proposals with the prior, for one or more observations.

A trace comes whole from the prior with the defensive probability, else draw by draw from the proposals; its weight is
its joint density over the density of the mixture (Hesterberg 1995, defensive mixtures). Prior draws are scored by the
network in one batch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InferenceError
from tracestore.execution.amortized_rejection import AmortizedController, LoopSettings, log_mixture
from tracestore.execution.proposing import Ask, ProposalController
from tracestore.execution.provider import ProposalProvider, ProposalSession
from tracestore.execution.slots import Runner
from tracestore.execution.streams import TraceStreams
from tracestore.execution.waves import WaveRun, run_waves
from tracestore.execution.workers import Chunk
from tracestore.simulators.base import Simulator
from tracestore.traces.batch import TraceBatch
from tracestore.traces.trace import Trace, TraceStatus

__all__ = ["MixtureDraws"]


@dataclass
class MixtureDraws:
    """Makes chunks of weighted draws; a recipe that any worker can follow.

    Streams are numbered observation by observation; a draw is a function of (seed, stream, the draws of its chunk).
    """

    observations: Sequence[Mapping[str, NDArray[np.generic]]]
    network: ProposalProvider
    seed: int
    num_draws: int
    """Draws for each observation."""
    defensive: float
    """Share of the prior in the mixture."""
    num_slots: int
    max_sites: int
    loops: LoopSettings | None = None
    """How rejection loops are amortized; None leaves them to the prior."""
    purpose: str = "ic"
    """What the random numbers are for."""
    session: ProposalSession | None = None
    """Made where it is used: every worker has its own."""

    def __getstate__(self) -> dict[str, object]:
        """Leave the session behind."""
        return {**self.__dict__, "session": None}

    def make(self, program: Simulator, chunk: Chunk) -> TraceBatch:
        """Draw and weight one chunk."""
        return TraceBatch.from_traces(self.traces(program, chunk))

    def traces(self, program: Simulator, chunk: Chunk) -> list[Trace]:
        """Draw and weight the streams of a chunk, in their order."""
        session = self.start_session(self.num_slots)
        runs = list(self.runs(chunk))
        traces = run_waves(
            program,
            session,
            runs,
            num_slots=self.num_slots,
            max_sites=self.max_sites,
            make_controller=self._make_controller,
        )
        return self._weighted(traces, session)

    def runner(self, program: Simulator) -> Runner:
        """Say how a run is executed."""
        return Runner(program, self.max_sites, make_controller=self._make_controller)

    def start_session(self, num_slots: int) -> ProposalSession:
        """Return the session of this process."""
        if self.session is None:
            amortizes = self.loops is not None
            self.session = self.network.session(self.observations, num_slots, amortize_rejection=amortizes)
        return self.session

    def runs(self, chunk: Chunk) -> Iterator[WaveRun]:
        """Yield the runs of a chunk; those that come from the prior do not ask."""
        streams = TraceStreams(self.seed, self.purpose)
        for stream in range(chunk.first, chunk.first + chunk.num_traces):
            rng = streams.generator(stream)
            number = stream // self.num_draws
            # with amortized loops the controller chooses, for the trace and for each pass of its loops
            asks = self.loops is not None or bool(rng.random() >= self.defensive)
            yield WaveRun(stream, rng, self.observations[number], number, asks=asks)

    def finish(self, traces: Sequence[Trace]) -> TraceBatch:
        """Weight the traces of a chunk, and gather them."""
        return TraceBatch.from_traces(self._weighted(traces, self.start_session(self.num_slots)))

    def _make_controller(self, ask: Ask) -> ProposalController:
        return ProposalController(ask) if self.loops is None else AmortizedController(ask, self.loops)

    def _weighted(self, traces: Sequence[Trace], session: ProposalSession) -> list[Trace]:
        self._score([trace for trace in traces if math.isnan(trace.log_proposal)], session)
        for trace in traces:
            self._weigh(trace)
        return list(traces)

    def _score(self, traces: Sequence[Trace], session: ProposalSession) -> None:
        """Give prior draws the density that the network has for them."""
        # failed runs have weight zero whatever the network thinks of them
        scored = [trace for trace in traces if trace.status is TraceStatus.OK]
        if not scored:
            return
        numbers = np.array([trace.stream // self.num_draws for trace in scored])
        scores = session.log_prob(TraceBatch.from_traces(scored), numbers)
        for trace, score in zip(scored, scores, strict=True):
            trace.log_proposal = float(score)

    def _weigh(self, trace: Trace) -> None:
        """Turn the density under the network into that under the mixture, and into a weight."""
        trace.chain, trace.draw = divmod(trace.stream, self.num_draws)
        if trace.status is not TraceStatus.OK:
            trace.log_proposal, trace.log_weight = math.nan, -math.inf
            return
        log_prior = float(trace.log_probs[trace.layout.controlled].sum())
        if self.loops is None:
            trace.log_proposal = _log_mixture(self.defensive, trace.log_proposal, log_prior)
        trace.log_weight = trace.log_likelihood + log_prior - trace.log_proposal if log_prior > -math.inf else -math.inf


def _log_mixture(share: float, log_network: float, log_prior: float) -> float:
    """Log of ``share * prior + (1 - share) * network``."""
    if math.isnan(log_network):
        message = "The network scored a trace with NaN; train it again, or report the case."
        raise InferenceError(message)
    return log_mixture(share, log_network, log_prior)
