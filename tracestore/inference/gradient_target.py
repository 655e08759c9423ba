"""What the engines that follow gradients ask of a program; torch answers, and is loaded when asked for."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.simulators.base import Simulator
from tracestore.simulators.batched import BatchedSimulator
from tracestore.traces.layout import Layout, Site

__all__ = ["Draw", "Found", "GradientTarget", "load_target", "require_differentiable"]

Table = NDArray[np.float64]


class Draw(Protocol):
    """A draw and where its coordinates stand."""

    @property
    def site(self) -> Site:
        """The draw."""

    @property
    def start(self) -> int:
        """Its first coordinate."""

    @property
    def stop(self) -> int:
        """The coordinate after its last."""

    @property
    def label(self) -> str:
        """How messages call it."""


class Found(Protocol):
    """What one run of the program said about many points, a row each."""

    @property
    def log_density(self) -> Table:
        """In coordinates; minus infinity where there is none."""

    @property
    def gradient(self) -> Table:
        """Of the log density, shape ``(num_points, num_coordinates)``."""

    @property
    def log_joint(self) -> Table:
        """Log prior plus log likelihood of the values."""

    @property
    def values(self) -> Table:
        """Values of the draws, shape ``(num_points, num_coordinates)``."""


class GradientTarget(Protocol):
    """The log density of a program in coordinates on the real line."""

    @property
    def draws(self) -> Sequence[Draw]:
        """The draws, in order."""

    @property
    def num_coordinates(self) -> int:
        """Numbers of a trace that are inferred."""

    @property
    def failure(self) -> str:
        """What the program raised last."""

    def evaluate(self, points: Table, standing: Table | None = None, *, with_gradient: bool = True) -> Found:
        """Evaluate points; standing ones take the place of those that lead to no number."""

    def coordinates(self, values: Table) -> Table:
        """Return the coordinates of values."""


def require_differentiable(program: Simulator, engine: str) -> BatchedSimulator:
    """Refuse a program that has no gradients.

    Parameters
    ----------
    program
        The simulator.
    engine
        Who asks.

    Raises
    ------
    InvalidInputError
        Saying how to declare one that has.

    Examples
    --------
    >>> from tracestore.simulators.toys import gum
    >>> require_differentiable(gum, "hmc")
    Traceback (most recent call last):
        ...
    tracestore.errors.InvalidInputError: The engine 'hmc' follows gradients, which Simulator(...) does not have. ...
    """
    if isinstance(program, BatchedSimulator) and program.is_differentiable:
        return program
    message = (
        f"The engine {engine!r} follows gradients, which {program!r} does not have. Write the program with torch, for"
        ' many traces at once, and declare it with `batched_simulator(arrays="torch")`; or infer with `rmh`.'
    )
    raise InvalidInputError(message, simulator=program.name)


def load_target(
    program: BatchedSimulator, observations: Mapping[str, NDArray[np.generic]], layout: Layout, max_sites: int
) -> GradientTarget:
    """Make the target of a program, with torch.

    Parameters
    ----------
    program
        A batched simulator with tensors.
    observations
        Values of the named observes.
    layout
        Layout of its traces.
    max_sites
        Length cap of a trace.

    Raises
    ------
    MissingExtraError
        When torch is not installed.
    """
    leaf = importlib.import_module("tracestore.simulators.tensor_target")
    target: GradientTarget = leaf.TensorTarget(program, observations, layout, max_sites)
    return target
