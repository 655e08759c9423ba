"""One Markov chain on the traces of a simulator: where it stands, how it steps, what it needs to go on later."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InferenceError, SimulatorProtocolError
from tracestore.inference.moves import BlockMove, Entry, Fresh, Move, Replay, SingleSite
from tracestore.inference.rmh_config import RMHConfig
from tracestore.inference.walk import WalkScales
from tracestore.simulators.base import Simulator, execute, run_trace
from tracestore.simulators.runtime import Recorder
from tracestore.traces.batch import TraceBatch
from tracestore.traces.trace import Trace, TraceStatus

__all__ = ["Chain", "Target"]

MAX_START_DRAWS = 10_000
"""Prior draws after which a chain without a possible start gives up."""

_CHAIN_BITS = 40
"""A draw's stream number is its chain, shifted by this, plus its position in the chain."""
# what BlockMove does in each move: walk, redraw the unnamed, redraw the named
_BLOCKS = {
    "walk": (True, False, False),
    "redraw": (False, True, False),
    "walk_redraw": (True, True, False),
    "independent": (False, True, True),
}


@dataclass(frozen=True, slots=True)
class Target:
    """What the chains of one job have in common."""

    program: Simulator
    observations: Mapping[str, NDArray[np.generic]]
    max_sites: int
    config: RMHConfig
    moves: tuple[tuple[str, float], ...]
    """Names of the moves in use and their probabilities."""
    joint_names: frozenset[str] | None = None
    """Names that walk together; None for all named controlled continuous draws."""

    def run(self, move: Move, rng: np.random.Generator) -> Trace:
        """Rerun the simulator under a move."""
        return run_trace(self.program, move, rng, observations=self.observations, max_sites=self.max_sites)


class _Rerun(Recorder):
    """Records the rerun of a move and decides about it: the trace of a rejected move is never built."""

    def __init__(
        self, target: Target, move: Move, rng: np.random.Generator, standing: Trace, log_choices: float | None
    ) -> None:
        super().__init__(move, rng, target.observations, target.max_sites)
        self.move = move
        self.standing = standing
        self.log_choices = log_choices
        self.probability = 0.0
        self.has_failed = False

    def finish(self, result: object, status: TraceStatus, failure: str, stream: int, seconds: float) -> Trace:
        """Return the new trace when the move is accepted, else the one that stands."""
        if self.move.is_rejected:
            return self.standing
        if status is not TraceStatus.OK or math.isnan(self.log_prior + self.log_likelihood):
            self.has_failed = True
            return self.standing
        log_ratio = self.move.log_ratio + self.log_likelihood - self.standing.log_likelihood
        if self.log_choices is not None:
            # a site was chosen among as many as there were, and would be among as many as there are
            log_ratio += self.log_choices - math.log(len(self.move.entries))
        self.probability = math.exp(min(log_ratio, 0.0))
        if self.probability < 1.0 and self.rng.random() >= self.probability:
            return self.standing
        return super().finish(result, status, failure, stream, seconds)


@dataclass(slots=True)
class Chain:
    """A Markov chain whose target is the posterior over traces.

    Parameters
    ----------
    target
        Simulator, observation and settings.
    number
        Which chain of the job it is.
    """

    target: Target
    number: int
    trace: Trace = field(init=False)
    """Where the chain stands."""
    entries: dict[int, Entry] = field(init=False)
    """Its draws by address identity, in order."""
    order: tuple[int, ...] = field(init=False)
    scales: WalkScales = field(init=False)
    counts: dict[str, list[int]] = field(init=False)
    """By move: proposed, accepted, and ended by a failure of the simulator."""

    def __post_init__(self) -> None:
        self.scales = WalkScales(self.target.config.joint_scale)
        self.counts = {name: [0, 0, 0] for name, _ in self.target.moves}

    def start(self, rng: np.random.Generator) -> None:
        """Stand at the most likely one of a few prior draws.

        Raises
        ------
        InferenceError
            When no prior draw explains the observation at all.
        """
        best: tuple[Trace, Fresh] | None = None
        for attempt in range(MAX_START_DRAWS):
            move = Fresh(self.target.joint_names)
            trace = self.target.run(move, rng)
            possible = trace.status is TraceStatus.OK and math.isfinite(trace.log_joint)
            if possible and (best is None or trace.log_likelihood > best[0].log_likelihood):
                best = trace, move
            if best is not None and attempt + 1 >= self.target.config.starts:
                self._move_to(*best)
                self.scales.learn(self.trace, self.entries)
                return
        message = (
            f"No start for a Markov chain: none of {MAX_START_DRAWS} prior draws of {self.target.program.name!r} ended"
            f" well with a likelihood above zero (the last one: {trace.failure or 'likelihood zero'})."
            " Check the observation."
        )
        raise InferenceError(message)

    def warm_up(self, rng: np.random.Generator) -> None:
        """Walk to where the posterior is, adapting the step of the joint walk."""
        steps = self.target.config.warmup
        for step in range(steps):
            name, probability = self._propose(rng)
            self.scales.learn(self.trace, self.entries)
            if name == "walk":
                self.scales.adapt(probability)
            self.scales.collect(self.entries, step / steps)
        self.scales.settle()
        for count in self.counts.values():
            count[:] = (0, 0, 0)

    def run(self, rng: np.random.Generator, first: int, num_draws: int) -> TraceBatch:
        """Step on and return the kept draws, numbered from ``first``."""
        visited: list[Trace] = []
        where: list[int] = []
        moved: list[bool] = []
        for _ in range(num_draws):
            before = self.trace
            for _ in range(self.target.config.thinning):
                self._propose(rng)
            moved.append(self.trace is not before)
            if moved[-1] or not visited:
                visited.append(self.trace)
            where.append(len(visited) - 1)
        draws = np.arange(first, first + num_draws, dtype=np.int64)
        return replace(
            _constant_observations(TraceBatch.from_traces(visited), self.target.observations).take(where),
            stream=draws + (self.number << _CHAIN_BITS),
            chain=np.full(num_draws, self.number, np.int32),
            draw=draws,
            accepted=np.array(moved, np.bool_),
        )

    def to_json(self) -> dict[str, Any]:
        """Return all that the chain needs to go on, except the position of its random stream."""
        return {
            "chain": self.number,
            "log_joint": self.trace.log_joint,
            "draws": [[ident, _plain(entry.value)] for ident, entry in self.entries.items()],
            "steps": [[ident, _plain(step)] for ident, step in self.scales.steps.items()],
            "counts": self.counts,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where an earlier process left the chain.

        Raises
        ------
        SimulatorProtocolError
            When the simulator does not reproduce the trace from its draws.
        """
        values = {ident: np.asarray(value) if isinstance(value, list) else value for ident, value in state["draws"]}
        move = Replay(self.target.joint_names, values)
        # every draw is given, so the random numbers are not used
        trace = self.target.run(move, np.random.default_rng(0))
        if trace.status is not TraceStatus.OK or trace.log_joint != state["log_joint"]:
            message = (
                f"The simulator {self.target.program.name!r} does not reproduce a trace from its draws: chain"
                f" {self.number} ended at log joint {state['log_joint']!r}, the replay found"
                f" {trace.failure or repr(trace.log_joint)}. A simulator must be a function of its draws alone."
            )
            raise SimulatorProtocolError(message, chain=self.number)
        self._move_to(trace, move)
        self.scales.steps = {
            ident: np.asarray(step) if isinstance(step, list) else step for ident, step in state["steps"]
        }
        self.counts = {name: list(count) for name, count in state["counts"].items()}

    @property
    def num_failed(self) -> int:
        """Moves since warm-up that a failure of the simulator ended."""
        return sum(count[2] for count in self.counts.values())

    def _move_to(self, trace: Trace, move: Move) -> None:
        self.trace = trace
        self.entries = move.entries
        self.order = tuple(move.entries)

    def _propose(self, rng: np.random.Generator) -> tuple[str, float]:
        """Make one step; return the move and its acceptance probability."""
        name = self._choose(rng)
        count = self.counts[name]
        count[0] += 1
        move = self._make(name, rng)
        log_choices = math.log(len(self.order)) if name == "single" else None
        rerun = _Rerun(self.target, move, rng, self.trace, log_choices)
        trace = execute(self.target.program, rerun)
        count[2] += rerun.has_failed
        if trace is not self.trace:
            count[1] += 1
            self._move_to(trace, move)
        return name, rerun.probability

    def _choose(self, rng: np.random.Generator) -> str:
        moves = self.target.moves
        if len(moves) == 1:
            return moves[0][0]
        left = rng.random()
        for name, probability in moves:
            left -= probability
            if left < 0.0:
                return name
        return moves[0][0]

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


def _plain(value: Any) -> Any:  # noqa: ANN401  # what JSON holds
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
