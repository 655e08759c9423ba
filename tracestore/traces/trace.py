"""One trace: the record of one execution of a simulator, as people look at it."""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import UnknownAddressError
from tracestore.traces.layout import Layout, Site, SiteKind

__all__ = ["RESULT", "Trace", "TraceStatus"]

RESULT = "result"
"""Name of the implicit tag that holds the simulator's numeric return value."""

Value = float | int | NDArray[np.float64]


class TraceStatus(IntEnum):
    """How an execution ended; the numbers are written to disk."""

    OK = 0
    FAILED = 1
    """The simulator raised."""
    CAPPED = 2
    """The trace reached the permitted number of sites."""


@dataclass(slots=True, eq=False)
class Trace:
    """One execution of a simulator.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> trace = run_trace(toys.gum, PriorController(), np.random.default_rng(1))
    >>> len(trace), "mu" in trace, trace.status.name
    (4, True, 'OK')
    >>> trace["mu"] == trace.result
    True
    """

    layout: Layout
    values: NDArray[np.float64]
    """All stored values, site by site, shape ``(layout.num_values,)``."""
    log_probs: NDArray[np.float64]
    """Log probability of each site under its prior or likelihood, shape ``(layout.num_sites,)``; 0 for tags."""
    parameters: NDArray[np.float64]
    """Prior and likelihood parameters, site by site, shape ``(layout.num_parameters,)``."""
    observations: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    """Values of the named observes."""
    log_prior: float = 0.0
    """Sum over the sample sites."""
    log_likelihood: float = 0.0
    """Sum over the observe sites."""
    log_proposal: float = float("nan")
    """Log density of the controlled values under the proposal they came from; NaN when they came from the prior."""
    log_weight: float = 0.0
    """Unnormalized log importance weight."""
    stream: int = 0
    """Number of the random stream within the job: the same stream gives the same trace."""
    status: TraceStatus = TraceStatus.OK
    failure: str = ""
    """Why the execution did not end well; empty for status OK."""
    seconds: float = 0.0
    """Wall time of the execution."""
    chain: int = 0
    """Markov chain the trace belongs to; 0 for independent draws."""
    draw: int = 0
    """Position within the chain or job, from 0."""
    accepted: bool = True
    """Whether the last Markov move was accepted."""

    def __len__(self) -> int:
        return self.layout.num_sites

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.observations or bool(self.layout.index_of(name)))

    def __getitem__(self, name: str) -> Value:
        """Value by name or address; the last site wins when a name repeats.

        Raises
        ------
        UnknownAddressError
            When no site of this trace carries the name or address.
        """
        positions = self.layout.index_of(name)
        if positions:
            return self.value(positions[-1])
        if name in self.observations:
            return _plain(self.observations[name])
        names = sorted({site.name for site in self.layout.sites if site.name})
        message = f"This trace has no site {name!r}; its names are: {', '.join(names) or 'none'}."
        raise UnknownAddressError(message, name=name)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites in order of execution."""
        return self.layout.sites

    @property
    def log_joint(self) -> float:
        """Log prior plus log likelihood."""
        return self.log_prior + self.log_likelihood

    @property
    def result(self) -> Value | None:
        """The simulator's return value, when it was numeric."""
        return self[RESULT] if RESULT in self else None

    def value(self, index: int) -> Value:
        """Value at a site position: a plain number, or an array of the site's shape."""
        site = self.layout.sites[index]
        if site.kind is SiteKind.OBSERVE and site.name:
            return _plain(self.observations[site.name])
        start, stop = self.layout.value_offsets[index : index + 2]
        return _plain(self.values[start:stop].reshape(site.shape))

    def __repr__(self) -> str:
        named = [site.name for site in self.layout.sites if site.name]
        shown = ", ".join(dict.fromkeys(named[:8]))
        return f"Trace({len(self)} sites, {self.status.name}, log_joint={self.log_joint:.6g}, names: {shown})"


def _plain(value: NDArray[np.generic]) -> Value:
    return value.item() if value.ndim == 0 else value  # type: ignore[return-value]  # numeric arrays only
