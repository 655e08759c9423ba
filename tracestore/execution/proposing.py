"""How a run gets its values from proposals: it asks at each controlled draw, and adds up their density."""

import math
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InferenceError
from tracestore.simulators.recorder import LoopRule, Recorder, Value
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site

__all__ = ["Ask", "Asking", "Mark", "Previous", "ProposalController"]

Previous = float | NDArray[np.float64] | None


class Ask(Protocol):
    """Asks the proposal session for one site; given to the controller of a run."""

    def __call__(self, site: Site, prior: Distribution, previous: Previous) -> Distribution | None:
        """Return the proposal, or None for the prior."""

    def save(self) -> object:
        """Return where the run is; only the place returned last can be restored."""

    def restore(self, saved: object) -> None:
        """Go back to where the run was: what it asked for since is forgotten."""


class Mark(Enum):
    """What the session shall do with a slot before it proposes there."""

    SAVE = "save"
    RESTORE = "restore"


class Asking:
    """Asks by a function, which learns of places to save and to restore with the next question.

    Nothing happens to a slot between two questions, so that saving a place may wait for the next one.

    Parameters
    ----------
    put
        Puts the question; takes site, prior, previous value and the marks that come before it.
    """

    __slots__ = ("_marks", "_put")

    def __init__(self, put: Callable[[Site, Distribution, Previous, tuple[Mark, ...]], Distribution | None]) -> None:
        self._put = put
        self._marks: tuple[Mark, ...] = ()

    def __call__(self, site: Site, prior: Distribution, previous: Previous) -> Distribution | None:
        """Return the proposal, or None for the prior."""
        marks, self._marks = self._marks, ()
        return self._put(site, prior, previous, marks)

    def save(self) -> None:
        """Remember the present place."""
        self._marks += (Mark.SAVE,)

    def restore(self, saved: object) -> None:
        """Go back to the place that was saved last."""
        if not self._marks or self._marks[-1] is not Mark.RESTORE:
            self._marks += (Mark.RESTORE,)


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

    @property
    def make_loop(self) -> Callable[[Recorder], LoopRule] | None:
        """What conducts rejection loops; None keeps all their passes."""
        return None

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
