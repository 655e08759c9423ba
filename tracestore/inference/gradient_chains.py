"""Markov chains that follow gradients, all together: each gradient is one call of a batched program.

A step draws a momentum, follows Hamilton's equations by leapfrog (Neal 2011, section 2) in coordinates on the real
line, and accepts where it arrives with the probability that corrects for the energy it gained. With a single leapfrog
step this is the Metropolis-adjusted Langevin algorithm (Roberts and Tweedie 1996).

The numbers of a step are a function of seed, chain and position in the chain; step size and shape are learned in the
warm-up from all chains together. How many leapfrog steps are taken is drawn for all chains at once, without a look at
where they stand, so that each step keeps the posterior.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.execution.streams import TraceStreams
from tracestore.inference.gradient_adaptation import DualAveraging, Shape, estimate_shape, window_ends
from tracestore.inference.gradient_config import MOST_DENSE, GradientConfig, HMCConfig
from tracestore.inference.gradient_start import Start
from tracestore.inference.gradient_tally import GradientTally
from tracestore.inference.gradient_target import Found, GradientTarget

__all__ = ["MAX_ENERGY_ERROR", "GradientChains"]

Table = NDArray[np.float64]

MAX_ENERGY_ERROR = 1000.0
"""Gain of energy from which on a trajectory counts as divergent and is given up, as in Hoffman and Gelman (2014)."""
_EARLY_STEPS = 10
"""Most leapfrog steps before anything is known of the shape of the posterior."""
_CHAIN_BITS = 40
_GUESSES = 60


class _Moved(NamedTuple):
    """Where a trajectory of each chain ended."""

    points: Table
    found: Found
    probability: Table
    """Of acceptance; zero where the trajectory diverged."""
    energy_before: Table
    energy_after: Table
    is_divergent: NDArray[np.bool_]


class GradientChains:
    """Many chains that step together.

    Parameters
    ----------
    target
        The log density.
    num_chains
        Chains.
    config
        Warm-up, thinning, lengths of trajectories.
    seed
        Seed of the job.
    engine
        Name of the engine and of its only move.
    """

    def __init__(self, target: GradientTarget, num_chains: int, config: GradientConfig, seed: int, engine: str) -> None:
        self.target = target
        self.num_chains = num_chains
        self.config = config
        self.step_size = 1.0
        self.shape = Shape(np.ones(target.num_coordinates), 1.0)
        self.tally = GradientTally(num_chains, engine)
        self._engine = engine
        self._metric = config.metric or ("dense" if target.num_coordinates <= MOST_DENSE else "diagonal")
        self._noise, self._lengths = TraceStreams(seed, engine), TraceStreams(seed, f"{engine}-lengths")
        self._guesses = TraceStreams(seed, f"{engine}-guesses")
        self._num_guesses = 0
        circles = [range(draw.start, draw.stop) for draw in target.draws if "VonMises" in draw.site.family]
        self._circle = np.array([column for part in circles for column in part], np.int64)

    def start(self, start: Start) -> None:
        """Stand where chains start."""
        self.points, self.values = start.points, start.values
        self.log_density, self.gradient = start.log_density, start.gradient
        self.shape = Shape(start.scales, 1.0)

    def warm_up(self, report: Callable[[], None]) -> None:
        """Walk to where the posterior is, learning its shape and the step size.

        Parameters
        ----------
        report
            Called after each step.
        """
        total = self.config.warmup
        ends = window_ends(total)
        self.step_size = self._guess_step_size(0.1)
        if not total:
            return
        tuning = DualAveraging(self.step_size, self.config.target_acceptance)
        seen: list[Table] = []
        for number in range(total):
            is_early = bool(ends) and number < ends[0]
            self.step_size = tuning.step_size
            moved, _ = self._step(number, _EARLY_STEPS if is_early else None)
            tuning.update(float(moved.probability.mean()))
            if not is_early or 2 * number >= ends[0]:  # at first the chains are on their way
                seen.append(self.points.copy())
            if number + 1 in ends:
                self.shape = estimate_shape(np.concatenate(seen), self.shape, self._metric)
                seen = []
                tuning.restart(self._guess_step_size(tuning.averaged))
            report()
        self.step_size = tuning.averaged
        self.tally = GradientTally(self.num_chains, self._engine)

    def draw(self, number: int) -> NDArray[np.bool_]:
        """Step on to the next draw of each chain; returns which chains moved.

        Parameters
        ----------
        number
            Position of the draws within their chains.
        """
        has_moved = np.zeros(self.num_chains, np.bool_)
        first = self.config.warmup + number * self.config.thinning
        for position in range(first, first + self.config.thinning):
            moved, accepted = self._step(position, None)
            has_moved |= accepted
            energy = np.where(accepted, moved.energy_after, moved.energy_before)
            self.tally.count(accepted, moved.is_divergent, moved.probability, self._num_gradients, energy)
        return has_moved

    def learned(self) -> dict[str, Any]:
        """Return what the warm-up has learned, as JSON."""
        return {"step_size": self.step_size, "extent": self.shape.extent, "factor": self.shape.factor.tolist()}

    def states(self) -> list[dict[str, Any]]:
        """Return the state of each chain, as JSON."""
        standing = zip(
            self.points.tolist(), self.values.tolist(), self.log_density.tolist(), self.gradient.tolist(), strict=True
        )
        return [
            {"point": point, "values": values, "log_density": log_density, "gradient": gradient,
             "step_size": self.step_size, **counts}
            for (point, values, log_density, gradient), counts in zip(standing, self.tally.to_json(), strict=True)
        ]  # fmt: skip

    def restore(self, learned: Mapping[str, Any], states: Sequence[Mapping[str, Any]]) -> None:
        """Stand where chains stood when their states were written."""
        self.step_size = learned["step_size"]
        self.shape = Shape(np.array(learned["factor"]), learned["extent"])
        size = self.target.num_coordinates
        self.points, self.values, self.gradient = (
            np.array([state[name] for state in states]).reshape(self.num_chains, size)
            for name in ("point", "values", "gradient")
        )
        self.log_density = np.array([state["log_density"] for state in states])
        self.tally.restore(states)

    def _step(self, position: int, most_steps: int | None) -> tuple[_Moved, NDArray[np.bool_]]:
        """Move all chains once; returns where they wanted to go and which of them went."""
        size = self.target.num_coordinates
        noise = np.empty((self.num_chains, size + 1))
        for chain in range(self.num_chains):
            rng = self._noise.rewind((chain << _CHAIN_BITS) + position)
            noise[chain, :size] = rng.standard_normal(size)
            noise[chain, size] = rng.random()
        self._num_gradients = self._choose_num_steps(position, most_steps)
        moved = self._follow(noise[:, :size], self._num_gradients)
        accepted: NDArray[np.bool_] = noise[:, size] < moved.probability
        self._take_over(moved, accepted)
        return moved, accepted

    def _take_over(self, moved: _Moved, rows: NDArray[np.bool_]) -> None:
        found = moved.found
        self.points[rows], self.values[rows] = moved.points[rows], found.values[rows]
        self.log_density[rows], self.gradient[rows] = found.log_density[rows], found.gradient[rows]
        if len(self._circle):  # an angle that went around is the same one
            self.points[:, self._circle] = self.values[:, self._circle]

    def _choose_num_steps(self, position: int, most_steps: int | None) -> int:
        config = self.config
        if not isinstance(config, HMCConfig):
            return 1
        length = config.length
        if length is None:
            length = 0.5 * math.pi * self.shape.extent
        length *= 1.0 + config.jitter * (2.0 * self._lengths.rewind(position).random() - 1.0)
        most = config.max_steps if most_steps is None else min(most_steps, config.max_steps)
        return max(1, min(round(length / self.step_size), most))

    def _follow(self, momentum: Table, num_steps: int) -> _Moved:
        """Follow trajectories by leapfrog; those that diverge stay behind, where the program is known to run."""
        shape, step = self.shape, self.step_size
        points, pull = self.points.copy(), shape.pull_back(self.gradient)
        before = 0.5 * (momentum**2).sum(axis=1) - self.log_density
        is_alive = np.ones(self.num_chains, np.bool_)
        after = before
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(num_steps):
                momentum = momentum + 0.5 * step * pull
                points = np.where(is_alive[:, None], points + step * shape.stretch(momentum), self.points)
                found = self.target.evaluate(points, self.points)
                pull = shape.pull_back(found.gradient)
                momentum = momentum + 0.5 * step * pull
                after = 0.5 * (momentum**2).sum(axis=1) - found.log_density
                is_alive &= np.isfinite(pull).all(axis=1) & (after - before < MAX_ENERGY_ERROR)
                if not is_alive.any():
                    break
            probability = np.where(is_alive, np.exp(np.minimum(before - after, 0.0)), 0.0)
        return _Moved(points, found, probability, before, after, ~is_alive)

    def _guess_step_size(self, first: float) -> float:
        """Return a step size of which one leapfrog step is accepted about half of the time (algorithm 4)."""
        self.step_size = first
        direction = 0.0
        for _ in range(_GUESSES):
            rng = self._guesses.rewind(self._num_guesses)
            self._num_guesses += 1
            momentum = rng.standard_normal((self.num_chains, self.target.num_coordinates))
            is_long = float(self._follow(momentum, 1).probability.mean()) > 0.5
            if not direction:
                direction = 1.0 if is_long else -1.0
            elif is_long != (direction > 0.0):
                break
            self.step_size *= 2.0**direction
        return self.step_size
