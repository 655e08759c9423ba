"""Traces whose draws come from the prior, chunk by chunk: a function of simulator, seed and stream."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.execution.slots import Runner, WaveRun
from tracestore.execution.streams import TraceStreams
from tracestore.execution.waves import run_in_flight
from tracestore.execution.workers import Chunk
from tracestore.simulators.base import Simulator
from tracestore.traces.batch import TraceBatch
from tracestore.traces.trace import Trace

__all__ = ["PriorDraws"]


@dataclass(frozen=True, slots=True)
class PriorDraws:
    """Makes prior traces; a recipe that any worker can follow.

    Examples
    --------
    >>> from tracestore.simulators.toys import gum
    >>> len(PriorDraws(seed=1, purpose="simulate", max_sites=100).make(gum, Chunk(0, 0, 3)))
    3
    """

    seed: int
    purpose: str
    """What the random numbers are for."""
    max_sites: int
    """Length cap of a trace, in sites."""
    observations: Mapping[str, NDArray[np.generic]] | None = None
    """Values of the named observes; None draws them from their likelihoods."""
    collapse_rejection: bool = False
    """Keep only the accepted pass of each rejection loop."""

    def make(self, program: Simulator, chunk: Chunk) -> TraceBatch:
        """Make the traces of a chunk."""
        return TraceBatch.from_traces(self.traces(program, chunk))

    def traces(self, program: Simulator, chunk: Chunk) -> list[Trace]:
        """Run the simulator for each stream of a chunk."""
        runner, streams = self.runner(program), TraceStreams(self.seed, self.purpose)
        if program.is_reentrant and (program.max_in_flight or 1) > 1:  # computes outside of this process
            return run_in_flight(runner, None, list(self.runs(chunk)))
        return [
            runner.run_from_prior(WaveRun(stream, streams.rewind(stream), self.observations, asks=False))
            for stream in range(chunk.first, chunk.first + chunk.num_traces)
        ]

    def runner(self, program: Simulator) -> Runner:
        """Say how a run is executed."""
        return Runner(program, self.max_sites, self.collapse_rejection)

    def start_session(self, num_slots: int) -> None:
        """Return nothing: the prior proposes."""

    def runs(self, chunk: Chunk) -> Iterator[WaveRun]:
        """Yield the runs of a chunk, with a generator of its own for each."""
        streams = TraceStreams(self.seed, self.purpose)
        for stream in range(chunk.first, chunk.first + chunk.num_traces):
            yield WaveRun(stream, streams.generator(stream), self.observations, asks=False)

    def finish(self, traces: Sequence[Trace]) -> TraceBatch:
        """Gather the traces of a chunk."""
        return TraceBatch.from_traces(traces)
