"""Proposal forms for priors on an interval: bins for uniform priors, and mixtures of truncated normals.

Shapes: P sites, O raw outputs, K mixture components, B bins, M parameters of a proposal.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tracestore.networks.config import NetworkConfig
from tracestore.networks.line_proposals import INITIAL_SCALE, MixtureForm, normal_log_prob
from tracestore.networks.proposals import Parts, ProposalForm
from tracestore.traces.distributions import Distribution, PiecewiseUniform, TruncatedNormal

__all__ = ["BinnedForm", "TruncatedForm"]

FAR = 100.0
"""An infinite bound is replaced by one this many box widths away, where no component has mass."""
RESOLUTION = 2.0**-48
"""Bins narrower than this, relative to the larger bound, are not told apart: the prior proposes."""
NARROWEST_BOX = 1e-300
WIDEST_BOX = 1e300
"""Limits of the widths that are reckoned with, so that no scale is zero or infinite."""


class BinnedForm(ProposalForm):
    """Piecewise uniform densities on the range of uniform priors; parameters are log probabilities of bins."""

    def __init__(self, config: NetworkConfig) -> None:
        self.num_bins = config.num_bins
        self.output_bias = torch.zeros(config.num_bins)

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Normalize the log probabilities of the bins."""
        return functional.log_softmax(raw_PO, dim=1)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Subtract the logarithm of the bin's width from its log probability."""
        low_P, high_P = priors[:, 0], priors[:, 1]
        step_P = (high_P - low_P) / self.num_bins
        is_resolved_P = step_P > RESOLUTION * torch.maximum(low_P.abs(), high_P.abs())
        safe_P = torch.where(is_resolved_P, step_P, 1.0)
        bin_P = ((values - low_P) / safe_P).floor().clamp(0.0, self.num_bins - 1.0)
        # the edges as numpy's linspace has them: a value beside one belongs where `PiecewiseUniform` has it
        bin_P = (
            bin_P - (values < low_P + bin_P * safe_P).to(bin_P) + (values >= low_P + (bin_P + 1.0) * safe_P).to(bin_P)
        )
        bin_P1 = bin_P.clamp(0.0, self.num_bins - 1.0).long().unsqueeze(1)
        density_P = proposal_PM.gather(1, bin_P1).squeeze(1) - torch.log(safe_P)
        return torch.where(is_resolved_P, density_P, -torch.log(high_P - low_P))

    def parts(self, proposal: NDArray[np.float64], prior: Distribution) -> Parts:
        """Return a histogram."""
        low, high = prior.parameters().tolist()
        if not (high - low) / self.num_bins > RESOLUTION * max(abs(low), abs(high)):
            return [prior], [1.0]
        return [PiecewiseUniform(_edges(low, high, self.num_bins), np.exp(proposal))], [1.0]

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Return the fraction of the range."""
        return ((values - priors[:, 0]) / (priors[:, 1] - priors[:, 0])).clamp(0.0, 1.0)


class TruncatedForm(MixtureForm):
    """Mixtures of normals truncated to the support of Uniform, Beta and TruncatedNormal priors.

    Locations lie in a box: the support where it is bounded, else where the prior has its mass.
    """

    NARROWEST = 1e-3
    WIDEST = 2.0

    def __init__(self, family: str, config: NetworkConfig) -> None:
        self.family = family
        spread = torch.logit((torch.arange(config.mixture_size) + 0.5) / config.mixture_size)
        span = math.log(self.WIDEST / self.NARROWEST)
        share = math.log(INITIAL_SCALE / self.NARROWEST) / span
        super().__init__(spread, torch.full_like(spread, math.log(share / (1.0 - share))))

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Put locations inside the box and scales between fixed fractions of its width."""
        weight_PK, location_PK, scale_PK = raw_PO.chunk(3, dim=1)
        low_P, high_P = self._box(priors)
        width_P1 = (high_P - low_P).clamp(NARROWEST_BOX, WIDEST_BOX).unsqueeze(1)
        span = math.log(self.WIDEST / self.NARROWEST)
        return torch.cat(
            [
                functional.log_softmax(weight_PK, dim=1),
                low_P.unsqueeze(1) + width_P1 * torch.sigmoid(location_PK),
                width_P1 * self.NARROWEST * torch.exp(span * torch.sigmoid(scale_PK)),
            ],
            dim=1,
        )

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Mix the truncated densities."""
        weight_PK, location_PK, scale_PK = proposal_PM.chunk(3, dim=1)
        low_P, high_P = self._finite_bounds(priors)
        # locations lie inside the bounds: the two terms have different signs, so nothing cancels
        above_PK = torch.erf((high_P.unsqueeze(1) - location_PK) / (scale_PK * math.sqrt(2.0)))
        below_PK = torch.erf((low_P.unsqueeze(1) - location_PK) / (scale_PK * math.sqrt(2.0)))
        mass_PK = 0.5 * (above_PK - below_PK)
        density_PK = normal_log_prob(values.unsqueeze(1), location_PK, scale_PK) - torch.log(mass_PK)
        return torch.logsumexp(weight_PK + density_PK, dim=1)

    def components(self, locations: list[float], scales: list[float], prior: Distribution) -> list[Distribution]:
        """Return truncated normals on the prior's support."""
        low, high = prior.support
        return [TruncatedNormal(loc, scale, low, high) for loc, scale in zip(locations, scales, strict=True)]

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Return the fraction of the box."""
        low_P, high_P = self._box(priors)
        width_P = (high_P - low_P).clamp(min=NARROWEST_BOX)
        return ((values - low_P) / width_P).clamp(0.0, 1.0)

    def _bounds(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        return priors[:, -2], priors[:, -1]  # the bounds are the last parameters of all three families

    def _box(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        low_P, high_P = self._bounds(priors)
        if self.family != "TruncatedNormal":
            return low_P, high_P
        loc_P, scale_P = priors[:, 0], priors[:, 1].clamp(max=0.01 * WIDEST_BOX)
        center_P = torch.minimum(torch.maximum(loc_P, low_P), high_P)
        # a tail that begins this many standard deviations from the mean falls the faster, the farther out it is
        distance_P = (loc_P - center_P).abs() / scale_P
        reach_P = scale_P * torch.minimum(torch.full_like(distance_P, 4.0), 6.0 / distance_P)
        return torch.maximum(low_P, center_P - reach_P), torch.minimum(high_P, center_P + reach_P)

    def _finite_bounds(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        low_P, high_P = self._bounds(priors)
        if self.family != "TruncatedNormal":
            return low_P, high_P
        box_low_P, box_high_P = self._box(priors)
        far_P = FAR * (box_high_P - box_low_P).clamp(min=NARROWEST_BOX)
        return torch.maximum(low_P, box_low_P - far_P), torch.minimum(high_P, box_high_P + far_P)


@lru_cache(maxsize=1024)
def _edges(low: float, high: float, num_bins: int) -> NDArray[np.float64]:
    """Cut a range into equal bins; programs draw from the same ranges again and again."""
    return np.linspace(low, high, num_bins + 1)
