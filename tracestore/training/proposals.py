"""Proposal heads: from a recurrent state and a prior to a distribution on the prior's own support.

A head serves one prior family. It holds one small perceptron per base address, stacked (see `tables`), whose raw
outputs it turns into the parameters of a proposal, in units of each site's own prior. Every proposal is a mixture with
the prior, so that log q - log p is bounded below. The same parameters give the log probabilities of the loss (torch)
and the `Distribution` that an inference engine draws from (numpy); all density arithmetic is float64.

This module holds the continuous families; `discrete_proposals` the others; `heads` chooses.

Shapes: P sites, H recurrent state, O raw outputs, K mixture components, B bins, M parameters of a proposal.
"""

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tracestore.traces.distributions import (
    Distribution,
    LogNormal,
    Mixture,
    Normal,
    PiecewiseUniform,
    TruncatedNormal,
)
from tracestore.training.config import NetworkConfig
from tracestore.training.tables import StackedMLP

__all__ = ["BinnedHead", "Head", "NormalHead", "PositiveHead", "TruncatedHead"]

EULER_GAMMA = 0.5772156649015329
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
FAR = 100.0
"""An infinite bound is replaced by one this many box widths away, where no component has mass."""
INITIAL_SCALE = 0.3
"""Initial width of mixture components, in units of the box or of the prior's standard deviation."""


class Head(nn.Module):
    """Proposals for all base addresses of one prior family.

    Parameters
    ----------
    family
        Family of the priors.
    config
        Sizes and the weight of the prior.
    output_bias
        Initial raw outputs, shape ``(O,)``.
    """

    is_discrete: ClassVar[bool] = False
    prior_width: int = 0
    """Prior parameters are padded with zeros to at least this many."""

    def __init__(self, family: str, config: NetworkConfig, output_bias: Tensor) -> None:
        super().__init__()
        self.family = family
        self.prior_fraction = config.prior_fraction
        num_outputs = len(output_bias)
        num_hidden = config.head_size or (config.recurrent_size + num_outputs) // 2
        self.mlp = StackedMLP(config.recurrent_size, num_hidden, num_outputs, output_bias)

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

    def log_prob(self, proposal_PM: Tensor, priors: Tensor, values_P: Tensor, log_prior_P: Tensor) -> Tensor:
        """Return log q of values, shape ``(P,)``.

        Parameters
        ----------
        proposal_PM
            What `forward` returned.
        priors
            Prior parameters.
        values_P
            Values, float64.
        log_prior_P
            Their log probabilities under the prior.
        """
        learned_P = self.learned_log_prob(proposal_PM, priors, values_P, log_prior_P)
        return torch.logaddexp(
            learned_P + math.log1p(-self.prior_fraction), log_prior_P + math.log(self.prior_fraction)
        )

    @abstractmethod
    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Turn raw outputs into the parameters of proposals."""

    @abstractmethod
    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values_P: Tensor, log_prior_P: Tensor) -> Tensor:
        """Return the log probability of values under the learned part of the proposal."""

    @abstractmethod
    def distribution(self, proposal: NDArray[np.float64], prior: Distribution) -> Distribution:
        """Return one site's proposal, the mixture with the prior included.

        Parameters
        ----------
        proposal
            One row of what `forward` returned, shape ``(M,)``.
        prior
            The site's prior.
        """

    @abstractmethod
    def coordinate(self, priors: Tensor, values_P: Tensor) -> Tensor:
        """Place values on the unit interval by their prior (continuous), or give their index (discrete)."""


class BinnedHead(Head):
    """Piecewise uniform densities on the range of uniform priors."""

    def __init__(self, family: str, config: NetworkConfig) -> None:
        super().__init__(family, config, torch.zeros(config.num_bins))
        self.num_bins = config.num_bins

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Normalize the log probabilities of the bins."""
        return functional.log_softmax(raw_PO, dim=1)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values_P: Tensor, log_prior_P: Tensor) -> Tensor:
        """Subtract the logarithm of the bin's width from its log probability."""
        bin_P = (self.coordinate(priors, values_P) * self.num_bins).long().clamp(max=self.num_bins - 1)
        log_width_P = torch.log((priors[:, 1] - priors[:, 0]) / self.num_bins)
        return proposal_PM.gather(1, bin_P.unsqueeze(1)).squeeze(1) - log_width_P

    def distribution(self, proposal: NDArray[np.float64], prior: Distribution) -> Distribution:
        """Mix two histograms into one."""
        low, high = prior.parameters()
        probs = (1.0 - self.prior_fraction) * np.exp(proposal) + self.prior_fraction / self.num_bins
        return PiecewiseUniform(np.linspace(low, high, self.num_bins + 1), probs / probs.sum())

    def coordinate(self, priors: Tensor, values_P: Tensor) -> Tensor:
        """Return the fraction of the range."""
        return ((values_P - priors[:, 0]) / (priors[:, 1] - priors[:, 0])).clamp(0.0, 1.0)


class _MixtureHead(Head):
    """Mixtures whose components have a location and a scale; parameters are log weights, locations, scales."""

    def __init__(self, family: str, config: NetworkConfig, locations_K: Tensor, scales_K: Tensor) -> None:
        super().__init__(family, config, torch.cat([torch.zeros(config.mixture_size), locations_K, scales_K]))

    def distribution(self, proposal: NDArray[np.float64], prior: Distribution) -> Distribution:
        """Mix the components and the prior."""
        log_weights, locations, scales = proposal.reshape(3, -1)
        probs = np.append((1.0 - self.prior_fraction) * np.exp(log_weights), self.prior_fraction)
        components = self.components(locations.tolist(), scales.tolist(), prior)
        return Mixture([*components, prior], probs / probs.sum())

    @abstractmethod
    def components(self, locations: list[float], scales: list[float], prior: Distribution) -> list[Distribution]:
        """Return the learned components as distributions."""


class TruncatedHead(_MixtureHead):
    """Mixtures of normals truncated to the support of Uniform, Beta and TruncatedNormal priors.

    Locations lie in a box: the support where it is bounded, else where the prior has its mass.
    """

    NARROWEST = 1e-3
    WIDEST = 2.0

    def __init__(self, family: str, config: NetworkConfig) -> None:
        spread = torch.logit((torch.arange(config.mixture_size) + 0.5) / config.mixture_size)
        span = math.log(self.WIDEST / self.NARROWEST)
        share = math.log(INITIAL_SCALE / self.NARROWEST) / span
        super().__init__(family, config, spread, torch.full_like(spread, math.log(share / (1.0 - share))))

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Put locations inside the box and scales between fixed fractions of its width."""
        weight_PK, location_PK, scale_PK = raw_PO.chunk(3, dim=1)
        low_P, high_P = self._box(priors)
        width_P1 = (high_P - low_P).unsqueeze(1)
        span = math.log(self.WIDEST / self.NARROWEST)
        return torch.cat(
            [
                functional.log_softmax(weight_PK, dim=1),
                low_P.unsqueeze(1) + width_P1 * torch.sigmoid(location_PK),
                width_P1 * self.NARROWEST * torch.exp(span * torch.sigmoid(scale_PK)),
            ],
            dim=1,
        )

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values_P: Tensor, log_prior_P: Tensor) -> Tensor:
        """Mix the truncated densities."""
        weight_PK, location_PK, scale_PK = proposal_PM.chunk(3, dim=1)
        low_P, high_P = self._finite_bounds(priors)
        # locations lie inside the bounds: the two terms have different signs, so nothing cancels
        above_PK = torch.erf((high_P.unsqueeze(1) - location_PK) / (scale_PK * math.sqrt(2.0)))
        below_PK = torch.erf((low_P.unsqueeze(1) - location_PK) / (scale_PK * math.sqrt(2.0)))
        mass_PK = 0.5 * (above_PK - below_PK)
        density_PK = _normal_log_prob(values_P.unsqueeze(1), location_PK, scale_PK) - torch.log(mass_PK)
        return torch.logsumexp(weight_PK + density_PK, dim=1)

    def components(self, locations: list[float], scales: list[float], prior: Distribution) -> list[Distribution]:
        """Return truncated normals on the prior's support."""
        low, high = prior.support
        return [TruncatedNormal(loc, scale, low, high) for loc, scale in zip(locations, scales, strict=True)]

    def coordinate(self, priors: Tensor, values_P: Tensor) -> Tensor:
        """Return the fraction of the box."""
        low_P, high_P = self._box(priors)
        return ((values_P - low_P) / (high_P - low_P)).clamp(0.0, 1.0)

    def _bounds(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        low_P, high_P = priors[:, -2], priors[:, -1]  # the bounds are the last parameters of all three families
        return low_P, high_P

    def _box(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        low_P, high_P = self._bounds(priors)
        if self.family != "TruncatedNormal":
            return low_P, high_P
        center_P = torch.minimum(torch.maximum(priors[:, 0], low_P), high_P)
        reach_P = 4.0 * priors[:, 1]
        return torch.maximum(low_P, center_P - reach_P), torch.minimum(high_P, center_P + reach_P)

    def _finite_bounds(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        low_P, high_P = self._bounds(priors)
        if self.family != "TruncatedNormal":
            return low_P, high_P
        box_low_P, box_high_P = self._box(priors)
        far_P = FAR * (box_high_P - box_low_P)
        return torch.maximum(low_P, box_low_P - far_P), torch.minimum(high_P, box_high_P + far_P)


class NormalHead(_MixtureHead):
    """Mixtures of normals for Normal priors, in units of the prior."""

    NARROWEST = 1e-3
    WIDEST = 3.0

    def __init__(self, family: str, config: NetworkConfig) -> None:
        num_components = config.mixture_size
        spread = 2.0 * (torch.arange(num_components) - 0.5 * (num_components - 1)) / num_components
        super().__init__(family, config, spread, torch.full((num_components,), math.log(INITIAL_SCALE)))

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

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values_P: Tensor, log_prior_P: Tensor) -> Tensor:
        """Mix the densities."""
        weight_PK, location_PK, scale_PK = proposal_PM.chunk(3, dim=1)
        return torch.logsumexp(weight_PK + _normal_log_prob(values_P.unsqueeze(1), location_PK, scale_PK), dim=1)

    def components(self, locations: list[float], scales: list[float], prior: Distribution) -> list[Distribution]:
        """Return normals."""
        return [Normal(loc, scale) for loc, scale in zip(locations, scales, strict=True)]

    def coordinate(self, priors: Tensor, values_P: Tensor) -> Tensor:
        """Return the normal distribution function of the standardized value."""
        center_P, unit_P = self.standard(priors)
        coordinate_P: Tensor = torch.special.ndtr((values_P - center_P) / unit_P)
        return coordinate_P

    def standard(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale that standardize a draw from the prior, shapes ``(P,)``."""
        return priors[:, 0], priors[:, 1]


class PositiveHead(NormalHead):
    """Mixtures of log-normals for priors on the half line, in units of the mean and sd of the prior's logarithm."""

    SMALLEST = 1e-300

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values_P: Tensor, log_prior_P: Tensor) -> Tensor:
        """Mix the log-normal densities."""
        log_values_P = torch.log(values_P.clamp(min=self.SMALLEST))
        return super().learned_log_prob(proposal_PM, priors, log_values_P, log_prior_P) - log_values_P

    def components(self, locations: list[float], scales: list[float], prior: Distribution) -> list[Distribution]:
        """Return log-normals."""
        return [LogNormal(loc, scale) for loc, scale in zip(locations, scales, strict=True)]

    def coordinate(self, priors: Tensor, values_P: Tensor) -> Tensor:
        """Return the normal distribution function of the standardized logarithm."""
        return super().coordinate(priors, torch.log(values_P.clamp(min=self.SMALLEST)))

    def standard(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the logarithm of a draw."""
        first_P, second_P = priors[:, 0], priors[:, -1]
        gumbel_sd = math.pi / math.sqrt(6.0)
        if self.family == "Exponential":  # rate
            return -torch.log(first_P) - EULER_GAMMA, torch.full_like(first_P, gumbel_sd)
        if self.family == "Gamma":  # concentration, rate
            return torch.digamma(first_P) - torch.log(second_P), torch.sqrt(torch.polygamma(1, first_P))
        if self.family == "Weibull":  # scale, concentration
            return torch.log(first_P) - EULER_GAMMA / second_P, gumbel_sd / second_P
        return first_P, second_P  # LogNormal: loc, scale


def _normal_log_prob(values: Tensor, locations: Tensor, scales: Tensor) -> Tensor:
    standard = (values - locations) / scales
    return -0.5 * standard * standard - torch.log(scales) - LOG_SQRT_2PI
