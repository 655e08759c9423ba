"""How the steps of Markov chains are cut into units that are done or not done, and how their progress is told.

A chain does its units in order: it starts, warms up in a few pieces, and makes its draws in chunks. Each unit has a
random stream of its own, and each commits the state of the chain, so that a chain goes on after any of them.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracestore.errors import InvalidInputError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted

__all__ = ["ChainPlan", "ChainProgress", "plan_chains"]

_MAX_CHUNK = 500
"""Kept draws in a chunk of a run of usual length."""
_MAX_LONG_CHUNK = 5000
"""The same in a long run, whose states would add up otherwise."""
_MAX_CHUNKS = 200
"""Chunks of a chain that the chunks of a run get longer to keep to."""
_MAX_WARM_PIECE = 500
_STREAMS_PER_CHAIN = 1 << 32
_WARM_STREAMS = 1 << 31


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """Units of each chain: from ``first_unit`` to -1 the start and the warm-up, from 0 the chunks of draws.

    Examples
    --------
    >>> plan = plan_chains(num_draws=400, chains=4, warmup=100)
    >>> plan.first_unit, plan.warm_steps(-1), plan.chunks_per_chain, plan.draws(19)
    (-21, range(95, 100), 20, (95, 5))
    """

    num_chains: int
    draws_per_chain: int
    chunk_size: int
    """Draws of a chunk."""
    warmup: int
    """Steps of the warm-up."""
    warm_size: int
    """Steps of a piece of it."""

    @property
    def chunks_per_chain(self) -> int:
        """Chunks of draws."""
        return -(-self.draws_per_chain // self.chunk_size)

    @property
    def first_unit(self) -> int:
        """Number of the unit that starts a chain."""
        return -1 - -(-self.warmup // self.warm_size)

    def draws(self, unit: int) -> tuple[int, int]:
        """Return first draw and number of draws of a chunk."""
        first = unit * self.chunk_size
        return first, min(self.chunk_size, self.draws_per_chain - first)

    def warm_steps(self, unit: int) -> range:
        """Return the steps of a piece of the warm-up."""
        first = (unit - self.first_unit - 1) * self.warm_size
        return range(first, min(first + self.warm_size, self.warmup))

    def work(self, chain: int, unit: int) -> int:
        """Return the number of a unit within the job: first all chunks, then all that comes before them."""
        if unit >= 0:
            return chain * self.chunks_per_chain + unit
        return self.num_chains * self.chunks_per_chain + chain * -self.first_unit + unit - self.first_unit

    def stream(self, chain: int, unit: int) -> int:
        """Return the number of a unit's random stream."""
        origin = chain * _STREAMS_PER_CHAIN
        return origin + unit if unit >= 0 else origin + _WARM_STREAMS + unit - self.first_unit


def plan_chains(*, num_draws: int, chains: int, warmup: int) -> ChainPlan:
    """Cut a job into units.

    Parameters
    ----------
    num_draws
        Draws of all chains together.
    chains
        Chains.
    warmup
        Steps of each chain before its first draw.

    Raises
    ------
    InvalidInputError
        When the draws do not divide among the chains.
    """
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
    usual = max(1, min(_MAX_CHUNK, math.ceil(per_chain / 20)))
    chunk_size = max(usual, min(_MAX_LONG_CHUNK, per_chain // _MAX_CHUNKS))
    return ChainPlan(chains, per_chain, chunk_size, warmup, max(1, min(_MAX_WARM_PIECE, math.ceil(warmup / 20))))


class ChainProgress:
    """Counts the draws of a job and tells an observer.

    Parameters
    ----------
    plan
        The plan.
    states
        Newest committed state of each chain that has one.
    observer
        Told of progress.
    """

    def __init__(self, plan: ChainPlan, states: Mapping[int, Mapping[str, Any]], observer: Observer | None) -> None:
        self.observer = observer
        self.total = plan.num_chains * plan.draws_per_chain
        self.done = sum(plan.draws(unit)[1] for state in states.values() for unit in range(state["chunk"] + 1))
        self.failed = 0
        self.start = time.perf_counter()
        self._tell(PhaseStarted("infer", self.total, self.done, "draws"))

    def advance(self, num_draws: int, num_failed: int) -> None:
        """Count some draws more, and failed runs behind them; a piece of a warm-up has no draws."""
        self.done += num_draws
        self.failed += num_failed
        note = "" if num_draws else "warm-up"
        self._tell(PhaseAdvanced("infer", self.done, self.total, self.failed, note))

    def finish(self) -> None:
        """Tell that all is done."""
        self._tell(PhaseFinished("infer", time.perf_counter() - self.start))

    def _tell(self, event: PhaseStarted | PhaseAdvanced | PhaseFinished) -> None:
        if self.observer is not None:
            self.observer(event)
