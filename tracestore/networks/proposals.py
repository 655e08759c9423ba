"""Proposal heads: from a recurrent state and a prior to a distribution on the prior's own support.

A head holds one small perceptron per base address, stacked (see `tables`). A `ProposalForm` turns the raw outputs into
the parameters of a proposal, in units of each site's own prior. Every proposal is a mixture with the prior, so that
log q - log p is bounded below. The same parameters give the log probabilities of the loss (torch) and the
`Distribution` that an inference engine draws from (numpy); all density arithmetic is float64.

The forms are in `interval_proposals`, `line_proposals`, `circular_proposals`, `discrete_proposals`,
`spline_proposals` and `vector_proposals`; `heads` chooses.

Shapes: P sites, H recurrent state, O raw outputs, M parameters of a proposal, C coordinates.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, logaddexp, nn

from tracestore.networks.config import NetworkConfig
from tracestore.networks.tables import StackedMLP
from tracestore.traces.distributions import Distribution, Mixture

__all__ = ["Head", "Parts", "ProposalForm"]

Parts = tuple[list[Distribution], list[float]]
"""Distributions to mix, and their probabilities, which sum to one."""


class ProposalForm(ABC):
    """How raw outputs become proposals for one kind of prior. Holds no weights.

    Values and priors of `shape_proposal`, `learned_log_prob` and `coordinate` are float64. The values of scalar sites
    have shape ``(P,)``, those of vector-valued sites ``(P, size)``, flattened.
    """

    is_discrete: ClassVar[bool] = False
    adds_log_prior: ClassVar[bool] = False
    """Whether `learned_log_prob` is the log probability under the prior plus a correction."""
    prior_width: int = 0
    """Prior parameters are padded with zeros to at least this many."""
    num_coordinates: int = 1
    """Numbers that place a value for its embedding."""
    output_bias: Tensor
    """Initial raw outputs, shape ``(O,)``."""

    @abstractmethod
    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Turn raw outputs into the parameters of proposals, shape ``(P, M)``."""

    @abstractmethod
    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Return the log probability of values under the learned part of the proposal, shape ``(P,)``."""

    @abstractmethod
    def parts(self, proposal: NDArray[np.float64], prior: Distribution) -> Parts:
        """Return the learned part of one site's proposal as distributions and their probabilities.

        Parameters
        ----------
        proposal
            One row of what `shape_proposal` returned, shape ``(M,)``.
        prior
            The site's prior.
        """

    @abstractmethod
    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Place values for their embedding.

        Returns
        -------
        Tensor
            Places in the unit interval (continuous), or indices from 0 (discrete); of shape ``(P,)`` where
            `num_coordinates` is 1 for scalar sites, else ``(P, C)``.
        """


class Head(nn.Module):
    """Proposals for all base addresses that share a form.

    Parameters
    ----------
    form
        What the raw outputs mean.
    config
        Sizes and the weight of the prior.
    """

    def __init__(self, form: ProposalForm, config: NetworkConfig) -> None:
        super().__init__()
        self.form = form
        self.prior_fraction = config.prior_fraction
        num_outputs = len(form.output_bias)
        num_hidden = config.head_size or (config.num_head_inputs + num_outputs) // 2
        self.mlp = StackedMLP(config.num_head_inputs, num_hidden, num_outputs, form.output_bias)

    @property
    def is_discrete(self) -> bool:
        """Whether values are whole numbers and their coordinates indices."""
        return self.form.is_discrete

    @property
    def prior_width(self) -> int:
        """Prior parameters are padded with zeros to at least this many."""
        return self.form.prior_width

    @property
    def num_coordinates(self) -> int:
        """Numbers that place a value for its embedding."""
        return self.form.num_coordinates

    def forward(self, state_PH: Tensor, rows_P: Tensor, priors: Tensor) -> Tensor:
        """Return the parameters of the proposals.

        Parameters
        ----------
        state_PH
            Recurrent outputs.
        rows_P
            Row of each site's base address in this head.
        priors
            Prior parameters, float64, shape ``(P, num_parameters)``.

        Returns
        -------
        Tensor
            Float64, shape ``(P, M)``.
        """
        return self.shape_proposal(self.mlp(state_PH, rows_P).double(), priors)

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Turn raw outputs, float64, into the parameters of proposals."""
        return self.form.shape_proposal(raw_PO, priors)

    def log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Return log q of values, shape ``(P,)``.

        Parameters
        ----------
        proposal_PM
            What `forward` returned.
        priors
            Prior parameters.
        values
            Values, float64, shape ``(P,)``, or ``(P, size)`` for vector-valued sites.
        log_prior_P
            Their log probabilities under the prior.
        """
        learned_P = self.form.learned_log_prob(proposal_PM, priors, values, log_prior_P)
        return logaddexp(learned_P + math.log1p(-self.prior_fraction), log_prior_P + math.log(self.prior_fraction))

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Place values for their embedding; see `ProposalForm.coordinate`."""
        return self.form.coordinate(priors, values)

    def distribution(self, proposal: NDArray[np.float64], prior: Distribution) -> Distribution:
        """Return one site's proposal, the mixture with the prior included.

        Parameters
        ----------
        proposal
            One row of what `forward` returned, shape ``(M,)``.
        prior
            The site's prior.
        """
        parts, probs = self.form.parts(proposal, prior)
        learned = 1.0 - self.prior_fraction
        return Mixture([*parts, prior], [*(learned * prob for prob in probs), self.prior_fraction])
