"""Proposals of whole traces that do not depend on where a chain stands: from a network, mixed with the prior.

Because they do not, they are drawn ahead, many side by side, and a few calls of the network serve all of them. A move
to such a trace is accepted with the ratio of two importance weights (Tierney 1994, independence chains). With a share
of the prior in the mixture the weights of a bounded likelihood are bounded, which makes the chain uniformly ergodic.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InferenceError
from tracestore.execution.provider import ProposalProvider
from tracestore.execution.workers import Chunk
from tracestore.inference.mixture import MixtureDraws
from tracestore.inference.moves import Entry, role_of
from tracestore.simulators.base import Simulator
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import from_parameters
from tracestore.traces.layout import SiteKind
from tracestore.traces.trace import Trace

__all__ = ["BLOCK", "IndependenceSource", "entries_of"]

BLOCK = 256
"""Proposals drawn ahead at once."""
_CHAIN_BITS, _UNIT_BITS = 44, 26
"""Where the numbers of chain and unit begin in that of a stream: 2**18 units of 2**26 proposals for each chain."""
_ONE_OBSERVATION = 1 << 63
"""So many draws an observation that all streams belong to the first one."""


class IndependenceSource:
    """Weighted traces from the mixture of a network's proposals with the prior, a function of (seed, number).

    Parameters
    ----------
    program
        The simulator.
    observations
        What it is conditioned on.
    network
        The trained network.
    seed
        Seed of the job; the proposals have random streams of their own.
    defensive
        Share of the prior.
    num_slots
        Runs in flight at once.
    max_sites
        Length cap of a trace.
    """

    def __init__(
        self,
        program: Simulator,
        observations: Mapping[str, NDArray[np.generic]],
        network: ProposalProvider,
        *,
        seed: int,
        defensive: float,
        num_slots: int,
        max_sites: int,
    ) -> None:
        self._program = program
        self._recipe = MixtureDraws(
            [observations],
            network,
            seed,
            num_draws=_ONE_OBSERVATION,
            defensive=defensive,
            num_slots=num_slots,
            max_sites=max_sites,
            purpose="rmh network",
        )

    def draw_pool(self, chain: int, unit: int, first: int, num_traces: int) -> list[Trace]:
        """Draw proposals for a unit of a chain.

        Parameters
        ----------
        chain
            Number of the chain.
        unit
            Number of the unit within the chain, from 0.
        first
            Number of the first proposal within the unit.
        num_traces
            Proposals.

        Returns
        -------
        list of Trace
            With their log weights; a failed run has minus infinity.
        """
        origin = (chain << _CHAIN_BITS) | (unit << _UNIT_BITS) | first
        return self._recipe.traces(self._program, Chunk(0, origin, num_traces))

    def log_weight(self, trace: Trace) -> float:
        """Return the log weight of a trace from elsewhere; the network scores it.

        Raises
        ------
        InferenceError
            When the score is NaN.
        """
        share = self._recipe.defensive
        session = self._recipe.start_session(self._recipe.num_slots)
        log_network = float(session.log_prob(TraceBatch.from_traces([trace]))[0])
        if math.isnan(log_network):
            message = "The network scored a trace with NaN; train it again, or report the case."
            raise InferenceError(message)
        log_prior = float(trace.log_probs[trace.layout.controlled].sum())
        prior_part = math.log(share) + log_prior
        network_part = -math.inf if share == 1.0 else math.log1p(-share) + log_network
        return trace.log_likelihood + log_prior - float(np.logaddexp(prior_part, network_part))


def entries_of(trace: Trace, joint_names: frozenset[str] | None) -> dict[int, Entry]:
    """Return the draws of a recorded trace as moves need them.

    Parameters
    ----------
    trace
        The trace.
    joint_names
        As in `role_of`.
    """
    entries = {}
    offsets = trace.layout.parameter_offsets
    for position, site in enumerate(trace.sites):
        if site.kind is SiteKind.SAMPLE:
            parameters = trace.parameters[offsets[position] : offsets[position + 1]]
            prior = from_parameters(site.family, parameters, site.shape)
            value = trace.value(position)
            if prior.is_discrete and not prior.shape:
                value = int(value)
            entries[site.id] = Entry(value, float(trace.log_probs[position]), role_of(site, prior, joint_names))
    return entries
