"""The log density of a batched program in coordinates on the real line, and its gradient."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.errors import InferenceError, MissingExtraError
from tracestore.simulators.batched import BatchedSimulator
from tracestore.simulators.recorder import StopTrace
from tracestore.simulators.runtime import activate
from tracestore.simulators.tensor_recorder import DrawColumns, TensorRecorder
from tracestore.traces.layout import Layout, SiteKind

with extra("train"):
    import torch

__all__ = ["Evaluation", "TensorTarget"]

Table = NDArray[np.float64]


class Evaluation(NamedTuple):
    """What one run of the program said about many points, a row each."""

    log_density: Table
    """In coordinates, with the slopes of the curves to the values; minus infinity where there is none."""
    gradient: Table
    """Shape ``(num_points, num_coordinates)``; empty when not asked for."""
    log_joint: Table
    """Log prior plus log likelihood of the values."""
    values: Table
    """Values of the draws, shape ``(num_points, num_coordinates)``."""


class TensorTarget:
    """Evaluates a program at points; each call is one batched run with a trace for each point.

    Parameters
    ----------
    program
        A batched simulator with tensors.
    observations
        Values of the named observes.
    layout
        Layout of its traces; all runs must have the same draws.
    max_sites
        Length cap of a trace.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.batched import run_batch
    >>> program = BatchedSimulator(lambda: ts.sample(ts.Normal(3.0, 1.0), name="mu"), arrays="torch")
    >>> layout = run_batch(program, 1, np.random.default_rng(1)).layouts[0]
    >>> found = TensorTarget(program, {}, layout, 100).evaluate(np.array([[3.0], [4.0]]))
    >>> found.log_density.round(3).tolist(), found.gradient.tolist()
    ([-0.919, -1.419], [[-0.0], [-1.0]])
    """

    def __init__(
        self,
        program: BatchedSimulator,
        observations: Mapping[str, NDArray[np.generic]],
        layout: Layout,
        max_sites: int,
    ) -> None:
        self.program = program
        self.observations = observations
        self.max_sites = max_sites
        self.failure = ""
        """What the program raised last."""
        self.draws: list[DrawColumns] = []
        """The draws, in order."""
        stop = 0
        for site in layout.sites:
            if site.kind is SiteKind.SAMPLE:
                start, stop = stop, stop + site.num_values
                self.draws.append(DrawColumns(site, start, stop))
        self.num_coordinates = stop

    def evaluate(self, points: Table, standing: Table | None = None, *, with_gradient: bool = True) -> Evaluation:
        """Evaluate points.

        Where the program raises, the points are evaluated in halves, so that those that it fails for are found.

        Parameters
        ----------
        points
            Coordinates, shape ``(num_points, num_coordinates)``.
        standing
            Points at which the program is known to run: they stand in where a coordinate leads to no number.
        with_gradient
            Whether the gradient is wanted.

        Raises
        ------
        InferenceError
            When the draws are not those of the layout, or have no gradient.
        """
        known = np.zeros_like(points) if standing is None else standing
        try:
            return self._evaluate(points, known, with_gradient=with_gradient)
        except _FailedRunError as error:
            self.failure = str(error)
        if len(points) == 1:
            nothing = np.full(1, -np.inf)
            return Evaluation(nothing, np.zeros_like(points), nothing.copy(), np.full_like(points, np.nan))
        halves = np.array_split(np.arange(len(points)), 2)
        found = [self.evaluate(points[half], known[half], with_gradient=with_gradient) for half in halves]
        return Evaluation(*[np.concatenate(parts) for parts in zip(*found, strict=True)])

    def coordinates(self, values: Table) -> Table:
        """Return the coordinates of values, both of shape ``(num_points, num_coordinates)``.

        Raises
        ------
        InferenceError
            As `evaluate`, and when the program raises.
        """
        recorder = TensorRecorder(
            len(values), self.observations, self.max_sites, self.draws, torch.from_numpy(values.copy()), None
        )
        try:
            with torch.no_grad():
                self._run(recorder)
        except _FailedRunError as error:
            message = f"The program {self.program.name!r} failed with values that it had drawn before: {error}."
            raise InferenceError(message) from error
        return np.concatenate([np.empty((len(values), 0)), *[part.numpy() for part in recorder.coordinates]], axis=1)

    def _evaluate(self, points: Table, standing: Table, *, with_gradient: bool) -> Evaluation:
        table = torch.from_numpy(points.copy()).requires_grad_(with_gradient)
        recorder = TensorRecorder(
            len(points), self.observations, self.max_sites, self.draws, table, torch.from_numpy(standing.copy())
        )
        with torch.set_grad_enabled(with_gradient):
            self._run(recorder)
            log_joint = recorder.log_prior_N + recorder.log_likelihood_N
            log_density = log_joint + recorder.log_jacobian_N
            gradient = torch.zeros_like(table)
            if with_gradient and log_density.requires_grad:
                (gradient,) = torch.autograd.grad(log_density.sum(), table)
        scores = np.where(recorder.is_outside.numpy(), -np.inf, log_density.detach().numpy())
        scores[np.isnan(scores)] = -np.inf
        values = np.concatenate([np.empty((len(points), 0)), *[part.numpy() for part in recorder.made]], axis=1)
        return Evaluation(scores, gradient.numpy(), log_joint.detach().numpy(), values)

    def _run(self, recorder: TensorRecorder) -> None:
        previous = activate(recorder)
        failure: Exception | None = None
        try:
            self.program.batched_function(recorder.num_traces)
        except StopTrace as stop:
            failure = RuntimeError(stop.reason)
        except MissingExtraError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a simulator raises is data
            failure = error
        finally:
            activate(previous)
        if recorder.fatal is not None:
            if isinstance(recorder.fatal, InferenceError):
                raise recorder.fatal
            failure = recorder.fatal
        if failure is not None:
            raise _FailedRunError(f"{type(failure).__name__}: {failure}") from failure
        if recorder.num_drawn != len(self.draws):
            missing = self.draws[recorder.num_drawn].label
            message = (
                f"The draws of the program differ from one run to another: this one ended before the draw {missing!r}."
                " Gradients need the same draws in every run."
            )
            raise InferenceError(message, missing=missing)


class _FailedRunError(Exception):
    """The program raised."""
