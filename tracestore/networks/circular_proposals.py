"""Proposal form for priors on the circle: mixtures of von Mises distributions.

Shapes: P sites, O raw outputs, K mixture components, M parameters of a proposal.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from tracestore.networks.config import NetworkConfig
from tracestore.networks.line_proposals import INITIAL_SCALE, MixtureForm, spread_locations
from tracestore.traces.distributions import Distribution, VonMises

__all__ = ["CircularForm"]

LOG_2PI = math.log(2.0 * math.pi)
UNIFORM_SD = math.pi / math.sqrt(3.0)
"""Standard deviation of a uniform angle: the widest unit."""


class CircularForm(MixtureForm):
    """Mixtures of von Mises distributions; parameters are log weights, locations and log concentrations.

    Angles are in units of the prior's width. Values are placed by their cosine and sine, so that angles beside either
    end of the range are embedded alike.
    """

    NARROWEST = 1e-3
    WIDEST = 3.0
    num_coordinates = 2

    def __init__(self, config: NetworkConfig) -> None:
        spread = spread_locations(config.mixture_size)
        super().__init__(spread, torch.full_like(spread, math.log(INITIAL_SCALE)))

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Turn locations about the prior's; a concentration is the inverse of a squared width."""
        weight_PK, location_PK, scale_PK = raw_PO.chunk(3, dim=1)
        unit_P1 = torch.rsqrt(priors[:, 1:2].clamp(UNIFORM_SD**-2, 1e300))
        angle_PK = priors[:, :1] + unit_P1 * location_PK
        log_width_PK = torch.log(unit_P1) + scale_PK.clamp(math.log(self.NARROWEST), math.log(self.WIDEST))
        return torch.cat(
            [
                functional.log_softmax(weight_PK, dim=1),
                angle_PK - 2.0 * math.pi * torch.round(angle_PK.detach() / (2.0 * math.pi)),
                torch.exp(-2.0 * log_width_PK),
            ],
            dim=1,
        )

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Mix the densities."""
        weight_PK, location_PK, concentration_PK = proposal_PM.chunk(3, dim=1)
        # cos(x) - 1 without cancellation, which a large concentration would magnify
        half_PK = torch.sin(0.5 * (values.unsqueeze(1) - location_PK))
        log_norm_PK = LOG_2PI + torch.log(torch.special.i0e(concentration_PK))
        return torch.logsumexp(weight_PK - 2.0 * (half_PK * half_PK * concentration_PK) - log_norm_PK, dim=1)

    def components(self, locations: list[float], scales: list[float], prior: Distribution) -> list[Distribution]:
        """Return von Mises distributions."""
        return [VonMises(loc, concentration) for loc, concentration in zip(locations, scales, strict=True)]

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Return cosine and sine, moved to the unit interval, shape ``(P, 2)``."""
        return 0.5 + 0.5 * torch.stack([torch.cos(values), torch.sin(values)], dim=1)
