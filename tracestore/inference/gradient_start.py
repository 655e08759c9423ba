"""Where gradient-based chains start: prior draws that explain the observation, and that have a gradient."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InferenceError
from tracestore.execution.streams import TraceStreams
from tracestore.inference.gradient_config import GradientConfig
from tracestore.inference.gradient_target import GradientTarget, load_target
from tracestore.simulators.batched import BatchedSimulator, run_batch
from tracestore.traces.batch import TraceBatch
from tracestore.traces.layout import SiteKind
from tracestore.traces.trace import TraceStatus

__all__ = ["Start", "draw_columns", "find_starts"]

Table = NDArray[np.float64]

_MAX_STARTS = 200
"""Prior draws of a chain after which it has no start."""


@dataclass(slots=True)
class Start:
    """Where chains start, a row each."""

    points: Table
    """Coordinates, shape ``(num_chains, num_coordinates)``."""
    values: Table
    """Values of the draws, of the same shape."""
    log_density: Table
    gradient: Table
    scales: Table
    """Standard deviation of each coordinate under the prior."""


def draw_columns(batch: TraceBatch) -> Table:
    """Return the values of all draws of a batch of one layout, shape ``(num_traces, num_coordinates)``."""
    layout = batch.layouts[0]
    offsets = layout.value_offsets
    table = batch.values.reshape(len(batch), -1)
    parts = [
        table[:, offsets[index] : offsets[index + 1]]
        for index, site in enumerate(layout.sites)
        if site.kind is SiteKind.SAMPLE
    ]
    return np.concatenate([np.empty((len(batch), 0)), *parts], axis=1)


def find_starts(
    program: BatchedSimulator,
    observations: Mapping[str, NDArray[np.generic]],
    num_chains: int,
    config: GradientConfig,
    seed: int,
    max_sites: int,
) -> tuple[GradientTarget, Start]:
    """Draw from the prior until each chain has a start, and make the target of the program.

    Parameters
    ----------
    program, observations, max_sites
        What is inferred.
    num_chains, config, seed
        How.

    Raises
    ------
    InferenceError
        When the program has nothing to infer, its draws differ between runs, a draw has no gradient, or a chain finds
        no start; names the draw whose gradient is no number.
    """
    streams = TraceStreams(seed, "gradient-starts")
    search: _Search | None = None
    failure = "the likelihood was zero"
    for attempt in range(_MAX_STARTS):
        rng = streams.generator(attempt)
        batch = run_batch(
            program, num_chains, rng, observations=observations, max_sites=max_sites, isolate_failures=False
        )
        ok = (batch.status == TraceStatus.OK) & np.isfinite(batch.log_prior + batch.log_likelihood)
        failure = next(iter(batch.failures.values()), failure)
        if ok.any():
            if search is None:
                target = load_target(program, observations, batch.layouts[0], max_sites)
                _require_draws(target, program)
                search = _Search(target, num_chains)
            search.consider(batch, ok)
        if search is not None and attempt + 1 >= config.starts and np.isfinite(search.best).all():
            return search.target, search.start()
    if search is None:
        raise _no_start(num_chains, num_chains, failure, "")
    if search.target.failure:
        failure = f"with gradients the program raised {search.target.failure}"
    raise _no_start(int((~np.isfinite(search.best)).sum()), num_chains, failure, search.troubled)


class _Search:
    """The best place that was found for each chain."""

    def __init__(self, target: GradientTarget, num_chains: int) -> None:
        shape = (num_chains, target.num_coordinates)
        self.target = target
        self.points, self.values, self.gradient = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self.log_density = np.full(num_chains, -np.inf)
        self.best = np.full(num_chains, -np.inf)
        """Highest log likelihood of a place where a chain could start."""
        self.troubled = ""
        """A draw at which a gradient was no number."""
        self._seen: list[Table] = []

    def consider(self, batch: TraceBatch, ok: NDArray[np.bool_]) -> None:
        """Move chains to more likely draws that have a gradient."""
        points = self.target.coordinates(draw_columns(batch))
        usable: NDArray[np.bool_] = ok & np.isfinite(points).all(axis=1)
        self._seen.append(points[usable])
        better: NDArray[np.bool_] = usable & (batch.log_likelihood > self.best)
        if not better.any():
            return
        found = self.target.evaluate(np.where(usable[:, None], points, self.points), self.points)
        has_gradient = np.isfinite(found.gradient)
        troubled = np.argwhere(better[:, None] & ~has_gradient)
        if len(troubled):
            self.troubled = _label(self.target, int(troubled[0, 1]))
        better &= has_gradient.all(axis=1) & np.isfinite(found.log_density)
        self.points[better], self.values[better] = points[better], found.values[better]
        self.log_density[better], self.gradient[better] = found.log_density[better], found.gradient[better]
        self.best[better] = batch.log_likelihood[better]

    def start(self) -> Start:
        """Return where the chains start."""
        return Start(self.points, self.values, self.log_density, self.gradient, _scales(self._seen))


def _scales(seen: list[Table]) -> Table:
    table = np.concatenate(seen)
    scales = table.std(axis=0) if len(table) > 1 else np.ones(table.shape[1])
    return np.where((scales > 0.0) & np.isfinite(scales), scales, 1.0)


def _require_draws(target: GradientTarget, program: BatchedSimulator) -> None:
    if not target.num_coordinates:
        message = f"The simulator {program.name!r} makes no draw that is not observed; there is nothing to infer."
        raise InferenceError(message, simulator=program.name)


def _label(target: GradientTarget, column: int) -> str:
    return next(draw.label for draw in target.draws if draw.start <= column < draw.stop)


def _no_start(num_lost: int, num_chains: int, failure: str, troubled: str) -> InferenceError:
    reason = f"the gradient at the draw {troubled!r} was no finite number" if troubled else failure.rstrip(".")
    message = (
        f"No start for {num_lost} of {num_chains} chains in {_MAX_STARTS} prior draws of each: {reason}. Check the"
        " observation, and that the program computes with torch throughout; observe with a distribution of unbounded"
        " support."
    )
    return InferenceError(message, draw=troubled, failure=failure)
