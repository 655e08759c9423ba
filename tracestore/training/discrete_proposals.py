"""Proposal heads for priors on counts and categories; see `proposals` for what a head is.

Raw outputs are added to the prior's own log probabilities: an untrained head proposes from the prior, and what the
prior excludes stays excluded.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tracestore.traces.distributions import Bernoulli, Categorical, Distribution, Mixture
from tracestore.training.config import NetworkConfig
from tracestore.training.proposals import Head

__all__ = ["BernoulliHead", "CategoricalHead", "CountHead"]


class CategoricalHead(Head):
    """Categorical proposals; categories are padded to the width of the table.

    Parameters
    ----------
    family
        Family of the priors.
    config
        Sizes and the weight of the prior.
    num_categories
        Width of the table.
    """

    is_discrete = True

    def __init__(self, family: str, config: NetworkConfig, num_categories: int) -> None:
        super().__init__(family, config, torch.zeros(num_categories))
        self.prior_width = num_categories

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Find the log probability of each category; padding has the prior probability 0."""
        return functional.log_softmax(raw_PO + torch.log(priors), dim=1)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values_P: Tensor, log_prior_P: Tensor) -> Tensor:
        """Look up the category."""
        return proposal_PM.gather(1, values_P.long().unsqueeze(1)).squeeze(1)

    def distribution(self, proposal: NDArray[np.float64], prior: Distribution) -> Distribution:
        """Mix two categoricals into one."""
        prior_probs = prior.parameters()
        learned = np.exp(proposal[: len(prior_probs)])
        probs = (1.0 - self.prior_fraction) * learned + self.prior_fraction * prior_probs
        return Categorical(probs / probs.sum())

    def coordinate(self, priors: Tensor, values_P: Tensor) -> Tensor:
        """Return the category."""
        return values_P


class BernoulliHead(Head):
    """Bernoulli proposals."""

    is_discrete = True

    def __init__(self, family: str, config: NetworkConfig) -> None:
        super().__init__(family, config, torch.zeros(1))

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Add to the log odds of the prior."""
        return raw_PO + torch.logit(priors)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values_P: Tensor, log_prior_P: Tensor) -> Tensor:
        """Take the logistic function of the log odds."""
        odds_P = proposal_PM.squeeze(1)
        return functional.logsigmoid(torch.where(values_P > 0.5, odds_P, -odds_P))

    def distribution(self, proposal: NDArray[np.float64], prior: Distribution) -> Distribution:
        """Mix two Bernoullis into one."""
        learned = 1.0 / (1.0 + math.exp(-max(float(proposal[0]), -700.0)))
        return Bernoulli((1.0 - self.prior_fraction) * learned + self.prior_fraction * float(prior.parameters()[0]))

    def coordinate(self, priors: Tensor, values_P: Tensor) -> Tensor:
        """Return 0 or 1."""
        return values_P


class CountHead(Head):
    """Proposals for Poisson and Binomial priors: free below a number, with a learned share of the prior for the tail.

    Parameters of a proposal: log weight of the free part, log weight of the prior, log probabilities of the counts.
    """

    is_discrete = True
    INITIAL_TAIL = -2.0
    """Initial log odds of the prior."""

    def __init__(self, family: str, config: NetworkConfig) -> None:
        bias = torch.zeros(config.count_bins + 1)
        bias[0] = self.INITIAL_TAIL
        super().__init__(family, config, bias)
        self.num_bins = config.count_bins

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Split off the weight of the prior; normalize the counts."""
        tail_P1, counts_PB = raw_PO[:, :1], raw_PO[:, 1:]
        prior_PB = self._prior_log_prob(priors)
        # a prior that excludes all counts of the free part leaves the prior alone
        is_beyond_P1 = torch.isneginf(prior_PB).all(dim=1, keepdim=True)
        free_PB = functional.log_softmax(counts_PB + prior_PB.masked_fill(is_beyond_P1, 0.0), dim=1)
        free_P1 = functional.logsigmoid(-tail_P1).masked_fill(is_beyond_P1, -torch.inf)
        return torch.cat([free_P1, functional.logsigmoid(tail_P1).masked_fill(is_beyond_P1, 0.0), free_PB], dim=1)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values_P: Tensor, log_prior_P: Tensor) -> Tensor:
        """Add the free part and the prior's share."""
        is_free_P = values_P < self.num_bins
        count_P = torch.where(is_free_P, values_P, 0.0).long()
        free_P = proposal_PM[:, 0] + proposal_PM.gather(1, count_P.unsqueeze(1) + 2).squeeze(1)
        tail_P = proposal_PM[:, 1] + log_prior_P
        return torch.where(is_free_P, torch.logaddexp(free_P, tail_P), tail_P)

    def distribution(self, proposal: NDArray[np.float64], prior: Distribution) -> Distribution:
        """Mix a categorical and the prior."""
        counts = np.exp(proposal[2:])
        free = (1.0 - self.prior_fraction) * math.exp(proposal[0])
        return Mixture([Categorical(counts / counts.sum()), prior], [free, 1.0 - free])

    def coordinate(self, priors: Tensor, values_P: Tensor) -> Tensor:
        """Return the count."""
        return values_P

    def _prior_log_prob(self, priors: Tensor) -> Tensor:
        """Return log probabilities of 0, 1, ... under the priors, shape ``(P, B)``."""
        count_B = torch.arange(self.num_bins, dtype=priors.dtype, device=priors.device)
        if self.family == "Poisson":
            rate_P1 = priors[:, :1]
            return torch.xlogy(count_B, rate_P1) - rate_P1 - torch.lgamma(count_B + 1.0)
        total_P1, prob_P1 = priors[:, :1], priors[:, 1:2]
        rest_PB = total_P1 - count_B
        choices_PB = (
            torch.lgamma(total_P1 + 1.0) - torch.lgamma(count_B + 1.0) - torch.lgamma(rest_PB.clamp(min=0) + 1.0)
        )
        log_prob_PB = choices_PB + torch.xlogy(count_B, prob_P1) + torch.xlogy(rest_PB.clamp(min=0), 1.0 - prob_P1)
        return torch.where(rest_PB >= 0, log_prob_PB, -torch.inf)
