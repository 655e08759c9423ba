"""How a run gets its values from proposals: it asks at each controlled draw, and adds up their density."""

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InferenceError
from tracestore.simulators.runtime import Value
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site

__all__ = ["Ask", "Previous", "ProposalController"]

Previous = float | NDArray[np.float64] | None


class Ask(Protocol):
    """Asks the proposal session for one site; given to the controller of a run."""

    def __call__(self, site: Site, prior: Distribution, previous: Previous) -> Distribution | None:
        """Return the proposal, or None for the prior."""


class ProposalController:
    """Draws controlled sites from the proposals, adding up their density, and the others from the prior.

    Parameters
    ----------
    ask
        Returns the proposal for a site.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.previous: Previous = None
        self.log_proposal = 0.0
        """Log density of the controlled draws so far under what they were drawn from."""

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Draw from the proposal of the session."""
        if not site.is_controlled:
            value = prior.sample(rng)
            return value, prior.log_prob(value)
        proposal = self.ask(site, prior, self.previous)
        if proposal is None:
            value = prior.sample(rng)
            log_prob = log_proposal = prior.log_prob(value)
        else:
            value = proposal.sample(rng)
            log_prob, log_proposal = prior.log_prob(value), proposal.log_prob(value)
            if not math.isfinite(log_proposal):
                message = (
                    f"The network's proposal {proposal.family} at {site.address!r} gives its own draw {value!r} the log"
                    f" density {log_proposal!r}; train it again, or report the case."
                )
                raise InferenceError(message, address=site.address)
        self.log_proposal += log_proposal
        self.previous = value
        return value, log_prob
