"""One Markov chain on the traces of a simulator: where it stands, how it steps, what it needs to go on later."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore.inference.chain_start import start_from_prior
from tracestore.inference.independence import BLOCK, IndependenceSource, entries_of
from tracestore.inference.moves import BlockMove, Entry, Move, SingleSite
from tracestore.inference.rerun import Rerun, Target
from tracestore.inference.stall import StallWatch
from tracestore.inference.standing import bring_back, plain, standing_to_json
from tracestore.inference.tally import Tally
from tracestore.inference.walk import WalkScales
from tracestore.simulators.base import execute
from tracestore.simulators.replay_check import require_deterministic
from tracestore.traces.batch import TraceBatch
from tracestore.traces.trace import Trace, TraceStatus

__all__ = ["Chain"]

_IC_STARTS = 64
"""Draws of a network among which a chain starts."""
_CHAIN_BITS = 40
"""A draw's stream number is its chain, shifted by this, plus its position in the chain."""
# what BlockMove does in each move: walk, redraw the unnamed, redraw the named
_BLOCKS = {
    "walk": (True, False, False),
    "redraw": (False, True, False),
    "walk_redraw": (True, True, False),
    "independent": (False, True, True),
}


@dataclass(slots=True)
class Chain:
    """A Markov chain whose target is the posterior over traces.

    Parameters
    ----------
    target
        Simulator, observation and settings.
    number
        Which chain of the job it is.
    source
        Proposals of whole traces by a network, for ``ic`` moves.
    """

    target: Target
    number: int
    source: IndependenceSource | None = None
    trace: Trace = field(init=False)
    """Where the chain stands."""
    entries: dict[int, Entry] = field(init=False)
    """Its draws by address identity, in order."""
    order: tuple[int, ...] = field(init=False)
    log_weight: float | None = field(init=False, default=None)
    """Log importance weight of the trace under the network's mixture; None until it is asked for."""
    scales: WalkScales = field(init=False)
    tally: Tally = field(init=False)
    watch: StallWatch = field(init=False)
    warm: int = field(init=False, default=0)
    """Steps of the warm-up that are done."""

    def __post_init__(self) -> None:
        self.scales = WalkScales(self.target.config.joint_scale)
        self.tally = Tally(name for name, _ in self.target.moves)
        self.watch = StallWatch(self.number, self.tally)

    def start(self, rng: np.random.Generator) -> None:
        """Stand at a draw of the network, chosen by weight, or at the most likely one of a few prior draws.

        Raises
        ------
        InferenceError
            When no prior draw explains the observation at all.
        SimulatorProtocolError
            When the simulator does not reproduce the draw.
        """
        if not (self.target.config.starts_from_ic and self._start_from_ic(rng)):
            self._move_to(*start_from_prior(self.target, rng, self.number), None)
        require_deterministic(
            self.target.program, self.trace, self.target.observations, max_sites=self.target.max_sites
        )
        self.scales.learn(self.trace, self.entries)

    def warm_up(self, rng: np.random.Generator, steps: range | None = None, *, unit: int = 0) -> None:
        """Walk to where the posterior is, adapting the step of the joint walk.

        Parameters
        ----------
        rng
            Random numbers.
        steps
            The steps of the warm-up to take, all by default; with the last one the adaptation ends.
        unit
            Number of this piece of work within the chain, which its proposals are numbered by.
        """
        total = self.target.config.warmup
        taken = range(total) if steps is None else steps
        for step, (name, probability) in zip(taken, self._steps(rng, len(taken), unit), strict=True):
            self.scales.learn(self.trace, self.entries)
            if name == "walk":
                self.scales.adapt(probability)
            self.scales.collect(self.entries, step / total)
        self.warm = taken.stop
        if self.warm >= total:
            self.scales.settle()
            self.watch.end_warm_up()
            self.tally.reset()
        self.tally.prune()

    def run(self, rng: np.random.Generator, first: int, num_draws: int, *, unit: int = 0) -> TraceBatch:
        """Step on and return the kept draws, numbered from ``first``.

        Parameters
        ----------
        rng
            Random numbers.
        first
            Number of the first draw.
        num_draws
            Kept draws.
        unit
            Number of this piece of work within the chain, which its proposals are numbered by.
        """
        thinning = self.target.config.thinning
        visited: list[Trace] = []
        where: list[int] = []
        moved: list[bool] = []
        before: Trace | None = None
        standing = self.trace
        for step, _ in enumerate(self._steps(rng, num_draws * thinning, unit), start=1):
            if step % thinning:
                continue
            moved.append(self.trace is not standing)
            if self.trace is not before:
                visited.append(self.trace)
            standing = before = self.trace
            where.append(len(visited) - 1)
        self.tally.prune()
        draws = np.arange(first, first + num_draws, dtype=np.int64)
        return replace(
            _constant_observations(TraceBatch.from_traces(visited), self.target.observations).take(where),
            stream=draws + (self.number << _CHAIN_BITS),
            chain=np.full(num_draws, self.number, np.int32),
            draw=draws,
            accepted=np.array(moved, np.bool_),
        )

    def nothing(self) -> TraceBatch:
        """Return no draws, to go with a state in the warm-up."""
        return TraceBatch.from_traces([self.trace]).take([])

    def to_json(self) -> dict[str, Any]:
        """Return all that the chain needs to go on, except the position of its random stream."""
        is_warm = self.warm >= self.target.config.warmup
        tally = self.tally if is_warm else Tally(name for name, _ in self.target.moves)
        state = {
            "chain": self.number,
            **standing_to_json(self.trace, self.entries),
            "log_weight": self.log_weight,
            "steps": [[ident, plain(step)] for ident, step in self.scales.steps.items()],
            **tally.to_json(),
        }
        if not is_warm:
            state["warmup"] = {"done": self.warm, "scales": self.scales.to_json(), **self.tally.to_json()}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where an earlier process left the chain.

        Raises
        ------
        SimulatorProtocolError
            When the simulator does not reproduce the trace from its draws.
        """
        trace, entries = bring_back(self.target, state, self.number)
        self._move_to(trace, entries, state["log_weight"])
        warmup = state.get("warmup")
        if warmup is None:
            self.warm = self.target.config.warmup
            self.scales.steps = {
                ident: np.asarray(step) if isinstance(step, list) else step for ident, step in state["steps"]
            }
        else:
            self.warm = warmup["done"]
            self.scales.restore(warmup["scales"])
        self.tally.restore(warmup or state)
        self.watch.is_quiet = self.tally.num_accepted > 0

    @property
    def num_failed(self) -> int:
        """Moves that a failure of the simulator ended, since the warm-up or in it."""
        return self.tally.num_failed

    def _start_from_ic(self, rng: np.random.Generator) -> bool:
        """Stand at a draw of the network; returns whether one is possible."""
        if self.source is None:
            return False
        pool = self.source.draw_pool(self.number, 0, 0, _IC_STARTS)
        highest = max(trace.log_weight for trace in pool)
        if highest == -math.inf:
            return False
        ends = list(accumulate(math.exp(trace.log_weight - highest) for trace in pool))
        self._stand_at(pool[bisect_right(ends, rng.random() * ends[-1])])
        return True

    def _stand_at(self, proposal: Trace) -> None:
        """Move to a weighted trace; as a state of the chain it has no weight."""
        trace = replace(proposal, log_weight=0.0, log_proposal=math.nan)
        self._move_to(trace, entries_of(trace, self.target.joint_names), proposal.log_weight)

    def _move_to(self, trace: Trace, entries: dict[int, Entry], log_weight: float | None) -> None:
        self.trace = trace
        self.entries = entries
        self.order = tuple(entries)
        self.log_weight = log_weight

    def _steps(self, rng: np.random.Generator, num_steps: int, unit: int) -> Iterator[tuple[str, float]]:
        """Make steps; yields the move and the acceptance probability of each."""
        names = self._schedule(rng, num_steps)
        pool = self._pool(names.count("ic"), unit)
        watch = self.watch
        for name in names:
            standing = self.trace
            probability = self._step_ic(next(pool), rng) if name == "ic" else self._step(name, rng)
            if not watch.is_quiet:
                watch.step(has_moved=self.trace is not standing)
            yield name, probability

    def _schedule(self, rng: np.random.Generator, num_steps: int) -> list[str]:
        """Choose the move of each step."""
        names, shares = zip(*self.target.moves, strict=True)
        if len(names) == 1:
            return [names[0]] * num_steps
        bounds = np.cumsum(shares)[:-1]
        return [names[index] for index in np.searchsorted(bounds, rng.random(num_steps), side="right").tolist()]

    def _pool(self, num_traces: int, unit: int) -> Iterator[Trace]:
        """Proposals for the ``ic`` moves of a unit, drawn a block at a time."""
        for first in range(0, num_traces, BLOCK):
            if self.source is not None:
                yield from self.source.draw_pool(self.number, unit, first, min(BLOCK, num_traces - first))

    def _step(self, name: str, rng: np.random.Generator) -> float:
        """Rerun the simulator under a move; returns the acceptance probability."""
        move = self._make(name, rng)
        rerun = Rerun(self.target, move, rng, self.trace, len(self.order) if name == "single" else 0)
        trace = execute(self.target.program, rerun)
        has_moved = trace is not self.trace
        counts = self.tally.moves[name]
        counts[0] += 1
        if isinstance(move, SingleSite):
            self.tally.count_address(move.changed, has_moved=has_moved)
        if has_moved:
            counts[1] += 1
            self._move_to(trace, move.entries, None)
        elif rerun.failure:
            counts[2] += 1
            self.tally.count_reason(self.tally.failures, rerun.failure)
        elif move.is_rejected:
            self.tally.count_reason(self.tally.unscored, move.rejected_at)
        elif rerun.log_likelihood == -math.inf:
            self.tally.count_reason(self.tally.impossible, rerun.impossible_at)
        return rerun.probability

    def _step_ic(self, proposal: Trace, rng: np.random.Generator) -> float:
        """Move to a draw of the network, or stay; returns the acceptance probability."""
        counts = self.tally.moves["ic"]
        counts[0] += 1
        if proposal.status is not TraceStatus.OK:
            counts[2] += 1
            self.tally.count_reason(self.tally.failures, proposal.failure)
            return 0.0
        if not -math.inf < proposal.log_weight < math.inf or self.source is None:
            return 0.0
        if self.log_weight is None:
            self.log_weight = self.source.log_weight(self.trace)
        log_ratio = proposal.log_weight - self.log_weight
        probability = math.exp(min(log_ratio, 0.0))
        if rng.random() < probability:
            counts[1] += 1
            self._stand_at(proposal)
        return probability

    def _make(self, name: str, rng: np.random.Generator) -> Move:
        config = self.target.config
        if name == "single":
            chosen = self.order[int(rng.random() * len(self.order))]
            return SingleSite(self.target.joint_names, self.entries, chosen, config.kernel_share, config.single_scale)
        walk, redraw_unnamed, redraw_named = _BLOCKS[name]
        return BlockMove(
            self.target.joint_names,
            self.entries,
            self.scales.steps,
            walk=walk,
            redraw_unnamed=redraw_unnamed,
            redraw_named=redraw_named,
        )


def _constant_observations(batch: TraceBatch, observations: Mapping[str, NDArray[np.generic]]) -> TraceBatch:
    """Hold an observation that all traces share once, also when the batch has a single row."""
    shared = {
        name: np.broadcast_to(column[0], column.shape)
        for name, column in batch.observations.items()
        if name in observations and all(name in layout.observed_names for layout in batch.layouts)
    }
    return replace(batch, observations={**batch.observations, **shared})
