"""What an engine needs from a proposal network; numpy in, numpy out, so that inference never imports torch."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tracestore.store.job import Job
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site

__all__ = ["ProposalProvider", "ProposalSession"]


class ProposalSession(Protocol):
    """Proposals for one or more observations, with the recurrent state of all running simulators."""

    def assign(self, slot: int, observation: int) -> None:
        """Say for which observation a slot runs from its next trace on; for the first one until told otherwise.

        Parameters
        ----------
        slot
            The slot.
        observation
            Number of the observation, as they were given to `ProposalProvider.session`.
        """

    def save(self, slot: int) -> object:
        """Return what `restore` needs to put a slot back to where it is now in its trace."""

    def restore(self, slot: int, saved: object) -> None:
        """Put a slot back to where it was in this trace: what it visited since is forgotten."""

    def propose(
        self,
        slots: Sequence[int],
        sites: Sequence[Site],
        priors: Sequence[Distribution],
        previous: Sequence[float | NDArray[np.float64] | None],
    ) -> list[Distribution | None]:
        """Propose for the next controlled site of several runs at once.

        Called once for every controlled sample site of a run, in order.

        Parameters
        ----------
        slots
            Slot of each run, distinct numbers below ``num_slots``.
        sites
            The site each run has reached.
        priors
            Its prior there.
        previous
            The value that the slot drew at its previous call; None at the first site of a trace, which starts the
            slot's recurrent state anew.

        Returns
        -------
        list
            One proposal for each slot; None stands for the prior.
        """

    def log_prob(self, batch: TraceBatch, observation: int | NDArray[np.int64] = 0) -> NDArray[np.float64]:
        """Score recorded traces under the proposals.

        Parameters
        ----------
        batch
            N traces.
        observation
            Number of the observation to score them for: one for all, or one a trace, shape ``(N,)``.

        Returns
        -------
        ndarray
            Shape ``(N,)``: sum of the proposals' log probabilities over the controlled sites, of the prior's where the
            prior proposes.
        """


class ProposalProvider(Protocol):
    """A trained source of proposals."""

    @property
    def job(self) -> Job:
        """The job that trained it; its fields name the simulator and its fingerprint."""

    @property
    def base_addresses(self) -> Collection[str]:
        """Base addresses that it was trained on."""

    def session(
        self,
        observations: Sequence[Mapping[str, NDArray[np.generic]]],
        num_slots: int,
        *,
        amortize_rejection: bool = False,
    ) -> ProposalSession:
        """Start proposing for one or more observations, which are embedded once.

        Parameters
        ----------
        observations
            Observed values by name, for each observation.
        num_slots
            Runs that may be in flight at once.
        amortize_rejection
            Whether to propose inside rejection loops, too; otherwise the prior proposes there.

        Raises
        ------
        InvalidInputError
            When names or shapes differ from those of the training data.
        """
