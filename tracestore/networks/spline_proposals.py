"""Proposal form for any scalar continuous prior with an exact distribution function: a monotone spline of it.

With the prior's density *p* and distribution function *F*, and a rational-quadratic spline *g* of the unit interval
(Durkan et al., "Neural spline flows", 2019, section 3.1), the proposal's density is ``g'(F(x)) p(x)``. Its support is
the prior's, and its tails are the prior's up to a factor.

Shapes: P sites, O raw outputs, K bins of the spline, M parameters of a proposal.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tracestore.errors import InvalidInputError
from tracestore.networks.config import NetworkConfig
from tracestore.networks.cumulative import cumulative, has_cumulative
from tracestore.networks.proposals import Parts, ProposalForm
from tracestore.traces.distributions import Distribution
from tracestore.traces.distributions.families import Structure, count_parameters, parse_structure
from tracestore.traces.distributions.splined import Splined

__all__ = ["SplineForm", "has_spline"]

SMALLEST_SHARE = 0.01
"""Share of the unit interval that all bins together have at least, in width and in height."""
SMALLEST_SLOPE = 1e-3
LARGEST_SLOPE = 1e4


class SplineForm(ProposalForm):
    """Splines with half as many bins as a piecewise uniform proposal; parameters are widths, heights and slopes.

    Parameters
    ----------
    structure
        Structure of the priors.
    config
        Number of bins.
    """

    adds_log_prior = True

    def __init__(self, structure: str, config: NetworkConfig) -> None:
        self.structure = parse_structure(structure)
        self.num_bins = max(config.num_bins // 2, 2)
        self.output_bias = torch.zeros(3 * self.num_bins + 1)
        # slopes of one: an untrained head proposes from the prior
        self.output_bias[2 * self.num_bins :] = math.log(math.expm1(1.0 - SMALLEST_SLOPE))

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Make widths, heights and slopes positive."""
        width_PK, height_PK, slopes = torch.split(raw_PO, [self.num_bins, self.num_bins, self.num_bins + 1], dim=1)
        shares = [
            SMALLEST_SHARE / self.num_bins + (1.0 - SMALLEST_SHARE) * torch.softmax(raw_PK, dim=1)
            for raw_PK in (width_PK, height_PK)
        ]
        positive = SMALLEST_SLOPE + functional.softplus(slopes)
        return torch.cat([*shares, positive.clamp(max=LARGEST_SLOPE)], dim=1)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Add the logarithm of the spline's slope to the prior's log density."""
        width_PK, height_PK, slopes = torch.split(proposal_PM, [self.num_bins, self.num_bins, self.num_bins + 1], dim=1)
        u_P1 = self.coordinate(priors, values).unsqueeze(1)
        knots_PK = torch.cumsum(width_PK, dim=1)
        bin_P1 = torch.searchsorted(knots_PK.detach()[:, :-1].contiguous(), u_P1, right=True)
        width_P1, height_P1 = width_PK.gather(1, bin_P1), height_PK.gather(1, bin_P1)
        first_P1, second_P1 = slopes.gather(1, bin_P1), slopes.gather(1, bin_P1 + 1)
        start_P1 = knots_PK.gather(1, bin_P1) - width_P1
        share_P1 = ((u_P1 - start_P1) / width_P1).clamp(0.0, 1.0)
        rest_P1 = 1.0 - share_P1
        mixed_P1 = share_P1 * rest_P1
        slope_P1 = height_P1 / width_P1
        total_P1 = slope_P1 + (first_P1 + second_P1 - 2.0 * slope_P1) * mixed_P1
        top_P1 = second_P1 * share_P1**2 + 2.0 * slope_P1 * mixed_P1 + first_P1 * rest_P1**2
        log_slope_P1 = 2.0 * torch.log(slope_P1) + torch.log(top_P1) - 2.0 * torch.log(total_P1)
        return log_slope_P1.squeeze(1) + log_prior_P

    def parts(self, proposal: NDArray[np.float64], prior: Distribution) -> Parts:
        """Return the prior, bent by the spline."""
        widths, heights, slopes = np.split(proposal, [self.num_bins, 2 * self.num_bins])
        return [Splined(prior, widths, heights, slopes)], [1.0]

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Return the prior's distribution function."""
        return cumulative(self.structure, priors, values)


def has_spline(structure: str, num_parameters: int | None = None) -> bool:
    """Tell whether scalar priors of a structure have an exact distribution function.

    Parameters
    ----------
    structure
        As `Distribution.structure` gives it.
    num_parameters
        When given, how many parameters the priors must have.

    Examples
    --------
    >>> has_spline("Mixture(Normal,Uniform)", 6), has_spline("Mixture(Normal,Poisson)"), has_spline("Gamma")
    (True, False, False)
    """
    try:
        parsed: Structure = parse_structure(structure)
        return has_cumulative(parsed) and num_parameters in (None, count_parameters(parsed, ()))
    except InvalidInputError:  # a family that this release does not know, or one without its size
        return False
