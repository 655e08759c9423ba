"""A global fit in small: events of a deep-inelastic cross-section with toy parton densities of six parameters.

The formulas are in `cross_section_formulas`, native kernels evaluate them. Data taking ends with a number of events
fixed before, and the integrated luminosity that this took is measured. So the events are independent draws from the
normalized cross-section, the luminosity is a Gamma draw, and together they have the extended unbinned likelihood: the
product of the cross-sections of all events times ``exp(-luminosity * total)``, up to factors without parameters.
"""

import importlib
from typing import Any, Literal

import numpy as np

from tracestore.errors import InvalidInputError
from tracestore.simulators.batched import BatchedSimulator, batched_simulator
from tracestore.simulators.cross_section_events import CollisionEventRows, total_cross_section
from tracestore.simulators.cross_section_formulas import PARAMETERS
from tracestore.simulators.runtime import observe, sample
from tracestore.traces.distributions import Gamma, LogNormal

__all__ = ["NUM_EVENTS", "PRIORS", "TRUTH", "Collisions", "cross_section", "cross_section_simulator", "pseudo_data"]

NUM_EVENTS = 10_000
"""Events of the bundled simulator."""
TRUTH = {"intercept": 0.7, "up_power": 3.5, "down_power": 4.5, "sea": 0.4, "slope": 0.15, "evolution": 0.6}
"""Parameters at which the priors are centered; those of pseudo-data."""
PRIORS = {
    name: LogNormal(float(np.log(TRUTH[name])), width)
    for name, width in zip(PARAMETERS, (0.25, 0.2, 0.25, 0.5, 0.4, 0.5), strict=True)
}
"""Priors of the parameters by name, in order."""

Arrays = Literal["numpy", "torch"]


class Collisions:
    """The program for a number of events.

    Parameters
    ----------
    num_events
        Events of one data set.
    arrays
        What it computes with, ``numpy`` or ``torch``.

    Examples
    --------
    >>> program = BatchedSimulator(Collisions(100, "numpy").run)
    >>> program(2)
    """

    def __init__(self, num_events: int, arrays: Arrays) -> None:
        self.num_events, self.arrays = num_events, arrays

    def run(self) -> None:
        """Draw parameters, and observe luminosity and events."""
        drawn = [sample(prior, name=name) for name, prior in PRIORS.items()]
        parameters = self._stacked(drawn)
        observe(Gamma(float(self.num_events), total_cross_section(parameters)), name="luminosity")
        observe(CollisionEventRows(parameters, self.num_events), name="events")

    def _stacked(self, columns: list[Any]) -> Any:  # noqa: ANN401
        if self.arrays == "numpy":
            return np.stack(columns, 1)
        return importlib.import_module("tracestore.simulators.cross_section_tensors").stack_columns(columns)


def cross_section_simulator(num_events: int = NUM_EVENTS, *, arrays: Arrays = "numpy") -> BatchedSimulator:
    """Return the program for another number of events, or with tensors for engines that follow gradients.

    Parameters
    ----------
    num_events
        Events of one data set; part of the simulator's name.
    arrays
        ``numpy``, or ``torch``.

    Raises
    ------
    InvalidInputError
        When ``num_events`` is not positive, or there are no such arrays.
    MissingExtraError
        When the arrays are those of torch, and it is not installed.

    Examples
    --------
    >>> import tracestore as ts
    >>> store = ts.simulate(cross_section_simulator(100), "collisions", num_traces=5, seed=1)
    >>> parameters, events = store.as_arrays(["sea"], observations=["events"])
    >>> parameters.shape, events.shape
    ((5, 1), (5, 100, 2))
    """
    if num_events < 1:
        message = f"`num_events` must be at least 1; got {num_events}."
        raise InvalidInputError(message, argument="num_events", found=num_events)
    changed = [f"num_events={num_events}"] if num_events != NUM_EVENTS else []
    changed += [f"arrays={arrays!r}"] if arrays != "numpy" else []
    name = f"{__name__}:cross_section_simulator({', '.join(changed)})"
    # data sets are large: batches hold some ten million numbers
    size = max(1, min(4096, 5_000_000 // num_events))
    return BatchedSimulator(Collisions(num_events, arrays).run, name=name, batch_size=size, arrays=arrays)


def pseudo_data(num_events: int = NUM_EVENTS, *, seed: int = 0) -> dict[str, Any]:
    """Draw one data set at `TRUTH`, to condition on.

    Parameters
    ----------
    num_events
        As in `cross_section_simulator`.
    seed
        The same seed gives the same data.

    Returns
    -------
    dict
        ``events``, shape ``(num_events, 2)``: ``x``, and ``Q2`` in GeV^2; ``luminosity`` in 1/pb.

    Examples
    --------
    >>> data = pseudo_data(1000, seed=1)
    >>> data["events"].shape, round(data["luminosity"], 4)
    ((1000, 2), 0.0066)
    """
    parameters = np.array([[TRUTH[name] for name in PARAMETERS]])
    rng = np.random.default_rng(seed)
    luminosity = Gamma(float(num_events), float(total_cross_section(parameters)[0])).sample(rng)
    return {"luminosity": luminosity, "events": CollisionEventRows(parameters, num_events).sample(rng)[0]}


_BUNDLED = Collisions(NUM_EVENTS, "numpy")


@batched_simulator(batch_size=512)
def cross_section() -> None:
    """Ten thousand events of a deep-inelastic cross-section with toy parton densities.

    Draws: ``intercept``, ``up_power``, ``down_power``, ``sea``, ``slope`` and ``evolution``. Observations:
    ``luminosity`` in 1/pb, and ``events`` of shape (10000, 2), float64: ``x``, and ``Q2`` in GeV^2.
    """
    _BUNDLED.run()
