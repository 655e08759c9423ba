"""Proposal forms for priors on counts and categories; see `proposals` for what a form is.

Raw outputs are added to the prior's own log probabilities: an untrained head proposes from the prior, and what the
prior excludes stays excluded.

Shapes: P sites, O raw outputs, B bins of counts, M parameters of a proposal.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tracestore.networks.config import NetworkConfig
from tracestore.networks.proposals import Parts, ProposalForm
from tracestore.traces.distributions import Categorical, Distribution
from tracestore.traces.distributions.counted import CountHistogram

__all__ = ["BernoulliForm", "CategoricalForm", "CountForm"]

MAX_COUNT = 2.0**53
"""Beyond the largest count that is a float with all whole numbers below it."""


class CategoricalForm(ProposalForm):
    """Categorical proposals; parameters are log probabilities, padded to the width of the table.

    Parameters
    ----------
    num_categories
        Width of the table.
    """

    is_discrete = True

    def __init__(self, num_categories: int) -> None:
        self.output_bias = torch.zeros(num_categories)
        self.prior_width = num_categories

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Find the log probability of each category; padding has the prior probability 0."""
        return functional.log_softmax(raw_PO + torch.log(priors), dim=1)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Look up the category."""
        return proposal_PM.gather(1, values.long().unsqueeze(1)).squeeze(1)

    def parts(self, proposal: NDArray[np.float64], prior: Distribution) -> Parts:
        """Return a categorical."""
        return [Categorical(np.exp(proposal[: prior.num_parameters]))], [1.0]

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Return the category."""
        return values


class BernoulliForm(ProposalForm):
    """Bernoulli proposals; the parameter is the log odds."""

    is_discrete = True

    def __init__(self) -> None:
        self.output_bias = torch.zeros(1)

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Add to the log odds of the prior."""
        return raw_PO + torch.logit(priors)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Take the logistic function of the log odds."""
        odds_P = proposal_PM.squeeze(1)
        return functional.logsigmoid(torch.where(values > 0.5, odds_P, -odds_P))

    def parts(self, proposal: NDArray[np.float64], prior: Distribution) -> Parts:
        """Return a categorical of both values: it keeps a probability close to one apart from one."""
        odds = float(proposal[0])
        rarer = math.exp(-abs(odds)) / (1.0 + math.exp(-abs(odds)))
        return [Categorical([1.0 - rarer, rarer] if odds < 0.0 else [rarer, 1.0 - rarer])], [1.0]

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Return 0 or 1."""
        return values


class CountForm(ProposalForm):
    """Proposals for Poisson and Binomial priors: a histogram where the prior has its mass, and a share of the prior.

    The histogram begins at zero and has a bin for every count where that suffices. Else it covers `REACH` standard
    deviations on both sides of the prior's mean, with equally many counts in each bin. Parameters of a proposal: log
    weight of the histogram, log weight of the prior, first count, counts in a bin, log probabilities of the bins.

    Parameters
    ----------
    family
        Family of the priors.
    config
        Number of bins.
    has_tail
        Whether the prior has a learned share, for counts outside the histogram.
    """

    is_discrete = True
    INITIAL_TAIL = -2.0
    """Initial log odds of the prior."""
    REACH = 6.0

    def __init__(self, family: str, config: NetworkConfig, *, has_tail: bool = True) -> None:
        self.family = family
        self.num_bins = config.count_bins
        self.has_tail = has_tail
        self.output_bias = torch.zeros(config.count_bins + 1)
        self.output_bias[0] = self.INITIAL_TAIL

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Split off the weight of the prior; normalize the bins."""
        tail_P1, bins_PB = raw_PO[:, :1], raw_PO[:, 1:]
        first_P1, stride_P1 = self._window(priors)
        prior_PB = self._prior_log_prob(priors, first_P1, stride_P1)
        weights_P2 = torch.cat([functional.logsigmoid(-tail_P1), functional.logsigmoid(tail_P1)], dim=1)
        if not self.has_tail:
            weights_P2 = torch.cat([torch.zeros_like(tail_P1), torch.full_like(tail_P1, -torch.inf)], dim=1)
        return torch.cat([weights_P2, first_P1, stride_P1, functional.log_softmax(bins_PB + prior_PB, dim=1)], dim=1)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Add the histogram and the prior's share."""
        first_P, stride_P = proposal_PM[:, 2], proposal_PM[:, 3]
        bin_P = torch.floor((values - first_P) / stride_P)
        is_inside_P = (bin_P >= 0.0) & (bin_P < self.num_bins)
        bin_P = bin_P.clamp(0.0, self.num_bins - 1.0)
        start_P = first_P + bin_P * stride_P
        size_P = (torch.minimum(start_P + stride_P, self._end(priors)) - start_P).clamp(min=1.0)
        in_bin_P = proposal_PM.gather(1, bin_P.long().unsqueeze(1) + 4).squeeze(1)
        free_P = proposal_PM[:, 0] + in_bin_P - torch.log(size_P)
        if not self.has_tail:
            return torch.where(is_inside_P, free_P, -torch.inf)
        tail_P = proposal_PM[:, 1] + log_prior_P
        return torch.where(is_inside_P, torch.logaddexp(free_P, tail_P), tail_P)

    def parts(self, proposal: NDArray[np.float64], prior: Distribution) -> Parts:
        """Return the histogram and the prior."""
        first, stride = proposal[2:4]
        end = min(prior.support[1] + 1.0, MAX_COUNT)
        edges = np.minimum(first + stride * np.arange(self.num_bins + 1), end)
        is_filled = edges[1:] > edges[:-1]
        histogram = CountHistogram([*edges[:-1][is_filled], edges[1:][is_filled][-1]], np.exp(proposal[4:])[is_filled])
        return [histogram, prior], np.exp(proposal[:2]).tolist()

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Return the bin."""
        first_P1, stride_P1 = self._window(priors)
        bin_P = torch.floor((values - first_P1.squeeze(1)) / stride_P1.squeeze(1))
        return bin_P.clamp(0.0, self.num_bins - 1.0)

    def _end(self, priors: Tensor) -> Tensor:
        """Return the number after the largest count, shape ``(P,)``."""
        if self.family == "Poisson":
            return torch.full_like(priors[:, 0], MAX_COUNT)
        return (priors[:, 0] + 1.0).clamp(max=MAX_COUNT)

    def _window(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        """Return first count and counts in a bin, whole numbers of shape ``(P, 1)``."""
        mean_P, sd_P = self._moments(priors)
        low_P = torch.floor(mean_P - self.REACH * sd_P).clamp(min=0.0)
        high_P = torch.minimum(torch.ceil(mean_P + self.REACH * sd_P), self._end(priors) - 1.0)
        from_zero_P = high_P < self.num_bins
        stride_P = torch.ceil((high_P - low_P + 1.0) / self.num_bins).clamp(min=1.0)
        first_P = torch.where(from_zero_P, 0.0, low_P)
        return first_P.unsqueeze(1), torch.where(from_zero_P, 1.0, stride_P).unsqueeze(1)

    def _moments(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        if self.family == "Poisson":
            return priors[:, 0], torch.sqrt(priors[:, 0])
        mean_P = priors[:, 0] * priors[:, 1]
        return mean_P, torch.sqrt(mean_P * (1.0 - priors[:, 1]))

    def _prior_log_prob(self, priors: Tensor, first_P1: Tensor, stride_P1: Tensor) -> Tensor:
        """Return log probabilities of the bins under the priors up to a constant, shape ``(P, B)``.

        Those of single counts are exact; bins of several counts follow a normal density, and lose no digits.
        """
        start_PB = first_P1 + stride_P1 * torch.arange(self.num_bins, dtype=priors.dtype, device=priors.device)
        end_P1 = self._end(priors).unsqueeze(1)
        size_PB = torch.minimum(start_PB + stride_P1, end_P1) - start_PB
        mean_P, sd_P = self._moments(priors)
        z_PB = (start_PB + 0.5 * (size_PB - 1.0) - mean_P.unsqueeze(1)) / sd_P.clamp(min=1e-3).unsqueeze(1)
        wide_PB = torch.log(size_PB.clamp(min=1.0)) - 0.5 * z_PB * z_PB
        log_prob_PB = torch.where(stride_P1 > 1.0, wide_PB, self._count_log_prob(priors, start_PB))
        return torch.where(size_PB > 0.0, log_prob_PB, -torch.inf)

    def _count_log_prob(self, priors: Tensor, count_PB: Tensor) -> Tensor:
        if self.family == "Poisson":
            rate_P1 = priors[:, :1]
            return torch.xlogy(count_PB, rate_P1) - rate_P1 - torch.lgamma(count_PB + 1.0)
        total_P1, prob_P1 = priors[:, :1], priors[:, 1:2]
        rest_PB = (total_P1 - count_PB).clamp(min=0.0)
        choices_PB = torch.lgamma(total_P1 + 1.0) - torch.lgamma(count_PB + 1.0) - torch.lgamma(rest_PB + 1.0)
        return choices_PB + torch.xlogy(count_PB, prob_P1) + torch.xlogy(rest_PB, 1.0 - prob_P1)
