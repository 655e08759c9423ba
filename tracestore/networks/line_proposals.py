"""Proposal forms for priors on the line and the half line: mixtures in units of the prior.

Shapes: P sites, O raw outputs, K mixture components, M parameters of a proposal.
"""

import math
from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tracestore.networks.config import NetworkConfig
from tracestore.networks.proposals import Parts, ProposalForm
from tracestore.traces.distributions import Distribution, LogNormal, Normal

__all__ = ["INITIAL_SCALE", "MixtureForm", "NormalForm", "PositiveForm", "normal_log_prob", "spread_locations"]

EULER_GAMMA = 0.5772156649015329
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
INITIAL_SCALE = 0.3
"""Initial width of mixture components, in units of the box or of the prior's standard deviation."""
SMALLEST = 2.2250738585072014e-308
"""Smallest draw from a density on the open half line."""
LARGEST_LOG = 750.0
"""Beyond the logarithm of every float, in either direction."""


class MixtureForm(ProposalForm):
    """Mixtures whose components have a location and a scale; parameters are log weights, locations, scales.

    Parameters
    ----------
    locations_K, scales_K
        Initial raw outputs.
    """

    def __init__(self, locations_K: Tensor, scales_K: Tensor) -> None:
        self.output_bias = torch.cat([torch.zeros(len(locations_K)), locations_K, scales_K])

    def parts(self, proposal: NDArray[np.float64], prior: Distribution) -> Parts:
        """Return the components and their weights."""
        log_weights, locations, scales = proposal.reshape(3, -1)
        return self.components(locations.tolist(), scales.tolist(), prior), np.exp(log_weights).tolist()

    @abstractmethod
    def components(self, locations: list[float], scales: list[float], prior: Distribution) -> list[Distribution]:
        """Return the learned components as distributions."""


class NormalForm(MixtureForm):
    """Mixtures of normals for Normal priors, in units of the prior."""

    NARROWEST = 1e-3
    WIDEST = 3.0

    def __init__(self, config: NetworkConfig) -> None:
        spread = spread_locations(config.mixture_size)
        super().__init__(spread, torch.full_like(spread, math.log(INITIAL_SCALE)))

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Scale locations and widths by the prior's."""
        weight_PK, location_PK, scale_PK = raw_PO.chunk(3, dim=1)
        center_P, unit_P = self.standard(priors)
        bounded_PK = scale_PK.clamp(math.log(self.NARROWEST), math.log(self.WIDEST))
        return torch.cat(
            [
                functional.log_softmax(weight_PK, dim=1),
                center_P.unsqueeze(1) + unit_P.unsqueeze(1) * location_PK,
                unit_P.unsqueeze(1) * torch.exp(bounded_PK),
            ],
            dim=1,
        )

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Mix the densities."""
        weight_PK, location_PK, scale_PK = proposal_PM.chunk(3, dim=1)
        return torch.logsumexp(weight_PK + normal_log_prob(values.unsqueeze(1), location_PK, scale_PK), dim=1)

    def components(self, locations: list[float], scales: list[float], prior: Distribution) -> list[Distribution]:
        """Return normals."""
        return [Normal(loc, scale) for loc, scale in zip(locations, scales, strict=True)]

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Return the normal distribution function of the standardized value."""
        center_P, unit_P = self.standard(priors)
        coordinate_P: Tensor = torch.special.ndtr((values - center_P) / unit_P)
        return coordinate_P

    def standard(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale that standardize a draw from the prior, shapes ``(P,)``."""
        return priors[:, 0], priors[:, 1]


class PositiveForm(NormalForm):
    """Mixtures of log-normals for priors on the half line, in units of the mean and sd of the prior's logarithm."""

    def __init__(self, family: str, config: NetworkConfig) -> None:
        super().__init__(config)
        self.family = family

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Mix the log-normal densities; at zero, where some priors have a density, there is none."""
        log_values_P = torch.log(values.clamp(min=SMALLEST))
        log_prob_P = super().learned_log_prob(proposal_PM, priors, log_values_P, log_prior_P) - log_values_P
        return torch.where(values > 0.0, log_prob_P, -torch.inf)

    def components(self, locations: list[float], scales: list[float], prior: Distribution) -> list[Distribution]:
        """Return log-normals."""
        return [LogNormal(loc, scale) for loc, scale in zip(locations, scales, strict=True)]

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Return the normal distribution function of the standardized logarithm."""
        return super().coordinate(priors, torch.log(values.clamp(min=SMALLEST)))

    def standard(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the logarithm of a draw, no larger than those of floats."""
        center_P, unit_P = self._log_moments(priors)
        return center_P.clamp(-LARGEST_LOG, LARGEST_LOG), unit_P.clamp(max=LARGEST_LOG)

    def _log_moments(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        first_P, second_P = priors[:, 0], priors[:, -1]
        gumbel_sd = math.pi / math.sqrt(6.0)
        if self.family == "Exponential":  # rate
            return -torch.log(first_P) - EULER_GAMMA, torch.full_like(first_P, gumbel_sd)
        if self.family == "Gamma":  # concentration, rate
            return torch.digamma(first_P) - torch.log(second_P), torch.sqrt(torch.polygamma(1, first_P))
        if self.family == "Weibull":  # scale, concentration
            return torch.log(first_P) - EULER_GAMMA / second_P, gumbel_sd / second_P
        return first_P, second_P  # LogNormal: loc, scale


def spread_locations(num_components: int) -> Tensor:
    """Return initial locations of components in units of the prior, shape ``(K,)``: about zero, closer than its sd."""
    return 2.0 * (torch.arange(num_components) - 0.5 * (num_components - 1)) / num_components


def normal_log_prob(values: Tensor, locations: Tensor, scales: Tensor) -> Tensor:
    """Return log densities of normals; the arguments broadcast."""
    standard = (values - locations) / scales
    return -0.5 * standard * standard - torch.log(scales) - LOG_SQRT_2PI
