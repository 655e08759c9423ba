"""Traces whose draws come from the prior, chunk by chunk: a function of simulator, seed and stream.

A batched simulator makes a chunk in one call, with one random stream, that of the chunk's first trace: its traces are a
function of simulator, seed and chunk, and do not depend on who makes the chunk, but on how the job is cut into chunks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.execution.slots import Runner, WaveRun
from tracestore.execution.streams import TraceStreams
from tracestore.execution.waves import run_in_flight
from tracestore.execution.workers import MAX_CHUNK, Chunk
from tracestore.simulators.base import Simulator
from tracestore.simulators.batched import BatchedSimulator, run_batch
from tracestore.traces.batch import TraceBatch
from tracestore.traces.trace import Trace

__all__ = ["PriorDraws", "largest_chunk"]


def largest_chunk(program: Simulator) -> int:
    """Return the most traces that a chunk of a simulator has, unless asked otherwise.

    Examples
    --------
    >>> from tracestore.simulators.toys import gum
    >>> largest_chunk(gum)
    256
    """
    return program.batch_size if isinstance(program, BatchedSimulator) else MAX_CHUNK


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
        if isinstance(program, BatchedSimulator):
            return self.batch(program, chunk)
        return TraceBatch.from_traces(self.traces(program, chunk))

    def batch(self, program: BatchedSimulator, chunk: Chunk) -> TraceBatch:
        """Make the traces of a chunk in one call of a batched simulator."""
        return run_batch(
            program,
            chunk.num_traces,
            TraceStreams(self.seed, self.purpose).generator(chunk.first),
            observations=self.observations,
            max_sites=self.max_sites,
            stream=chunk.first,
        )

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
