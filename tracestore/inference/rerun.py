"""The rerun of a simulator under a Markov move, and the decision about it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import SimulatorProtocolError
from tracestore.inference.moves import Move, SingleSite
from tracestore.inference.rmh_config import RMHConfig
from tracestore.simulators.base import Simulator, run_trace
from tracestore.simulators.runtime import Recorder
from tracestore.traces.trace import Trace, TraceStatus

__all__ = ["Rerun", "Target"]


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


class Rerun(Recorder):
    """Records the rerun of a move and decides about it: the trace of a rejected move is never built.

    Parameters
    ----------
    target
        Simulator and observation.
    move
        The move; its log ratio covers the draws.
    rng
        Random numbers.
    standing
        The current trace.
    num_choices
        Sites among which the move chose one; 0 when it chose none.
    """

    def __init__(self, target: Target, move: Move, rng: np.random.Generator, standing: Trace, num_choices: int) -> None:
        super().__init__(move, rng, target.observations, target.max_sites)
        self.move = move
        self.standing = standing
        self.num_choices = num_choices
        self.probability = 0.0
        """Probability with which the move was accepted."""
        self.failure = ""
        """How the simulator failed, or that a score is no number."""

    def finish(self, result: object, status: TraceStatus, failure: str, stream: int, seconds: float) -> Trace:
        """Return the new trace when the move is accepted, else the one that stands."""
        move = self.move
        if move.is_rejected:
            return self.standing
        if status is not TraceStatus.OK:
            self.failure = failure
            return self.standing
        joint = self.log_prior + self.log_likelihood
        if not -math.inf < joint < math.inf:
            # an infinite density would never be left again
            if joint != -math.inf:
                self.failure = "a log probability is NaN or infinite"
            return self.standing
        log_ratio = move.log_ratio + self.log_likelihood - self.standing.log_likelihood
        if self.num_choices:
            self._require_changed()
            # a site was chosen among as many as there were, and would be among as many as there are
            log_ratio += math.log(self.num_choices / len(move.entries))
        if not log_ratio >= 0.0:
            self.probability = math.exp(log_ratio) if log_ratio > -math.inf else 0.0
            if not self.rng.random() < self.probability:
                return self.standing
        else:
            self.probability = 1.0
        return super().finish(result, status, failure, stream, seconds)

    def _require_changed(self) -> None:
        """Refuse a simulator that took another path before anything had changed."""
        if isinstance(self.move, SingleSite) and not self.move.changed:
            site = next((site for site in self.standing.sites if site.id == self.move.chosen), None)
            message = (
                f"A rerun did not reach {site.address if site else '?'!r}, although every draw before it was the same."
                " A simulator must be a function of its draws alone: draw every random number with `sample`, and keep"
                " no state from one run to the next."
            )
            raise SimulatorProtocolError(message, address=site.address if site else None)

    @property
    def impossible_at(self) -> str:
        """Name or address of the first observe of likelihood zero; empty when there is none."""
        for site, log_prob in zip(self.sites, self.log_probs, strict=True):
            if log_prob == -math.inf:
                return site.name or site.address
        return ""
