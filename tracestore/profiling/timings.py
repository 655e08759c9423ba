"""Whole timings of a program, without a sampler: alone, recorded in memory, and written to a store.

Their differences are a check of the shares that does not rest on stacks.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import MissingExtraError, SimulatorError
from tracestore.execution.generate import simulate
from tracestore.execution.prior_draws import PriorDraws, largest_chunk
from tracestore.execution.provider import ProposalProvider
from tracestore.execution.workers import Chunk, plan_chunks
from tracestore.inference.ic import ic
from tracestore.simulators.base import Simulator
from tracestore.simulators.batched import BatchedSimulator
from tracestore.store.location import StoreLocation
from tracestore.store.trace_store import TraceStore

if TYPE_CHECKING:
    from tracestore.traces.batch import TraceBatch

__all__ = ["Timings", "Work"]

PROBE_SHARE = 0.1
"""Of the seconds asked for, after which the rate of traces counts as known."""
NETWORK_PROBES = 64
MIN_PROBES = 16
"""Traces that all fail before a program counts as failing always."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of the same number of traces, one way after the other."""

    plain_seconds: float | None
    """The program called without recording; None where it cannot run so."""
    plain_problem: str
    """Why it cannot; empty where it can."""
    recorded_seconds: float
    """Recorded in memory, with values from the prior."""
    stored_seconds: float
    """Recorded, or inferred with a network, into a store."""
    profiled_seconds: float
    """The same with the sampler."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is profiled: a program, with or without a network, for any number of traces."""

    program: Simulator
    seed: int
    max_sites: int
    backend: str
    codec: str | dict[str, str]
    network: ProposalProvider | None = None
    observations: Mapping[str, NDArray[np.float64]] | None = None

    def probe(self, folder: Path, seconds: float, most: int | None) -> float:
        """Warm up, and return seconds per trace, from a growing number of traces.

        Raises
        ------
        SimulatorError
            When all of at least sixteen traces failed.
        """
        number, elapsed, done = 1, 0.0, 0
        reasons: dict[int, str] = {}
        limit = largest_chunk(self.program)
        while True:
            begun = time.perf_counter()
            batch = self._recipe.make(self.program, Chunk(0, done, number))
            elapsed = time.perf_counter() - begun
            is_first = done == 0  # loads what the program needs, so it tells nothing
            reasons |= {done + row: reason for row, reason in batch.failures.items()}
            done += number
            if len(reasons) == done and done >= min(MIN_PROBES, most or MIN_PROBES):
                raise _all_failed(self.program, reasons)
            if not is_first and (elapsed >= PROBE_SHARE * seconds or number >= limit or done >= (most or math.inf)):
                break
            number = 1 if is_first else min(2 * number, limit)
        self.store(folder / "warm", 1)
        if self.network is None:
            return elapsed / number
        begun = time.perf_counter()
        self.store(folder / "probe", NETWORK_PROBES)
        return (time.perf_counter() - begun) / NETWORK_PROBES

    def plain(self, num_traces: int) -> tuple[float | None, str]:
        """Run the program without recording; seconds, or why that cannot be."""
        failures, problem = 0, ""
        calls = self._calls(num_traces)
        begun = time.perf_counter()
        for call in calls:
            try:
                call()
            except MissingExtraError:
                raise
            except Exception as error:  # noqa: BLE001  # whatever a program raises
                failures, problem = failures + 1, f"{type(error).__name__}: {error}"
                if failures == len(calls) or (failures >= MIN_PROBES and failures > len(calls) // 2):
                    return None, problem
        return time.perf_counter() - begun, ""

    def record(self, num_traces: int) -> float:
        """Record traces in memory; return seconds.

        Raises
        ------
        SimulatorError
            When all failed.
        """
        reasons: dict[int, str] = {}
        begun = time.perf_counter()
        for chunk in plan_chunks(num_traces, None, most=largest_chunk(self.program)):
            batch: TraceBatch = self._recipe.make(self.program, chunk)
            reasons |= {chunk.first + row: reason for row, reason in batch.failures.items()}
        seconds = time.perf_counter() - begun
        if len(reasons) == num_traces:
            raise _all_failed(self.program, reasons)
        return seconds

    def store(self, folder: Path, num_traces: int) -> TraceStore:
        """Make the traces into a store."""
        place = StoreLocation(str(folder), backend=self.backend, codec=self.codec)
        if self.network is None:
            return simulate(self.program, place, num_traces=num_traces, seed=self.seed, max_sites=self.max_sites)
        assert self.observations is not None
        ic(
            self.program, self.observations, place,
            network=self.network, num_draws=num_traces, seed=self.seed, max_sites=self.max_sites,
        )  # fmt: skip
        return TraceStore.open(str(folder))

    @property
    def _recipe(self) -> PriorDraws:
        return PriorDraws(self.seed, "simulate", self.max_sites)

    def _calls(self, num_traces: int) -> list[Callable[[], object]]:
        program = self.program
        if isinstance(program, BatchedSimulator):
            chunks = plan_chunks(num_traces, None, most=largest_chunk(program))
            return [partial(program, chunk.num_traces) for chunk in chunks]
        return [program] * num_traces


def _all_failed(program: Simulator, reasons: dict[int, str]) -> SimulatorError:
    kinds = list(reasons.values())
    most = max(set(kinds), key=lambda reason: (kinds.count(reason), reason))
    message = (
        f"All {len(kinds):,} traces of {program.name} failed, most often with {most!r}; a profile of failures says"
        " nothing about the program, so repair it first."
    )
    return SimulatorError(message, simulator=program.name, failure=most)
