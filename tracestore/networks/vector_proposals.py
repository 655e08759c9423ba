"""Proposal forms for vector-valued draws: mixtures of multivariate normals, and independent elements.

Shapes: P sites, D elements of a draw, O raw outputs of an element, K mixture components, M parameters of a proposal.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tracestore.networks.config import NetworkConfig
from tracestore.networks.line_proposals import spread_locations
from tracestore.networks.proposals import Parts, ProposalForm
from tracestore.traces.distributions import Distribution, Mixture, MultivariateNormal, from_parameters
from tracestore.traces.distributions.joint import FactorNormal, Independent

__all__ = ["IndependentForm", "NormalVectorForm"]

INITIAL_SCALE = 0.8
"""Initial width of components in units of the prior: in many dimensions narrow ones would miss most of it."""
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class IndependentForm(ProposalForm):
    """Independent proposals for the elements of a draw, each of a scalar form.

    Parameters
    ----------
    element
        Form of one element.
    size
        Number of elements.
    """

    def __init__(self, element: ProposalForm, size: int) -> None:
        self.element = element
        self.size = size
        self.num_coordinates = size * element.num_coordinates
        self.output_bias = element.output_bias.repeat(size)

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]  # that of the element
        """Whether values are whole numbers."""
        return self.element.is_discrete

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Shape the proposals of all elements as if they were sites."""
        num_sites = len(raw_PO)
        flat = self.element.shape_proposal(raw_PO.reshape(num_sites * self.size, -1), self._element_priors(priors))
        return flat.reshape(num_sites, -1)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Sum over the elements."""
        flat = proposal_PM.reshape(len(values) * self.size, -1)
        nothing = log_prior_P.new_zeros(len(flat))
        log_prob = self.element.learned_log_prob(flat, self._element_priors(priors), values.reshape(-1), nothing)
        total_P = log_prob.view(-1, self.size).sum(dim=1)
        return total_P + log_prior_P if self.element.adds_log_prior else total_P

    def parts(self, proposal: NDArray[np.float64], prior: Distribution) -> Parts:
        """Return the product of the elements' proposals."""
        elements: list[Distribution] = []
        parameters = prior.parameters().reshape(-1, self.size).T
        for row, numbers in zip(proposal.reshape(self.size, -1), parameters, strict=True):
            parts, probs = self.element.parts(row, from_parameters(prior.family, numbers))
            elements.append(parts[0] if len(parts) == 1 else Mixture(parts, probs))
        return [Independent(elements, prior.shape)], [1.0]

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Place each element, shape ``(P, C)``."""
        return self.element.coordinate(self._element_priors(priors), values.reshape(-1)).reshape(len(values), -1)

    def _element_priors(self, priors: Tensor) -> Tensor:
        """Turn rows of parameters, each given for all elements, into rows of the parameters of one element."""
        return priors.view(len(priors), -1, self.size).transpose(1, 2).reshape(len(priors) * self.size, -1)


class NormalVectorForm(ProposalForm):
    """Mixtures of multivariate normals for Normal vectors and MultivariateNormal, in units of the prior.

    In coordinates in which the prior is standard normal, a component has a location and a factor: scales times a
    lower triangular matrix with ones on its diagonal, the shear. It is left out beyond `LARGEST_SHEARED` elements.
    Parameters of a proposal: log weights, locations, scales, elements of the shear; all in those coordinates.

    Parameters
    ----------
    family
        Family of the priors.
    size
        Number of elements.
    config
        Number of components.
    """

    NARROWEST = 1e-3
    WIDEST = 3.0
    MOST_SHEAR = 5.0
    LARGEST_SHEARED = 8

    def __init__(self, family: str, size: int, config: NetworkConfig) -> None:
        self.family = family
        self.size = self.num_coordinates = size
        self.num_components = config.mixture_size
        self.num_sheared = size * (size - 1) // 2 if size <= self.LARGEST_SHEARED else 0
        # components start apart along the diagonal
        location_KD = (spread_locations(self.num_components) / math.sqrt(size)).repeat_interleave(size)
        scale_KD = torch.full_like(location_KD, math.log(INITIAL_SCALE))
        shear = torch.zeros(self.num_components * self.num_sheared)
        self.output_bias = torch.cat([torch.zeros(self.num_components), location_KD, scale_KD, shear])

    def shape_proposal(self, raw_PO: Tensor, priors: Tensor) -> Tensor:
        """Bound the factors."""
        weight_PK, location, scale, shear = torch.split(raw_PO, self._widths(), dim=1)
        bounded = scale.clamp(math.log(self.NARROWEST), math.log(self.WIDEST))
        sheared = self.MOST_SHEAR * torch.tanh(shear)
        return torch.cat([functional.log_softmax(weight_PK, dim=1), location, torch.exp(bounded), sheared], dim=1)

    def learned_log_prob(self, proposal_PM: Tensor, priors: Tensor, values: Tensor, log_prior_P: Tensor) -> Tensor:
        """Mix the densities."""
        weight_PK, location, scale, shear = torch.split(proposal_PM, self._widths(), dim=1)
        standard_PD, log_volume_P = self._standardize(priors, values)
        scale_PKD = scale.reshape(-1, self.num_components, self.size)
        whitened_PKD = (standard_PD.unsqueeze(1) - location.reshape_as(scale_PKD)) / scale_PKD
        if self.num_sheared:
            factor = torch.eye(self.size, dtype=scale.dtype, device=scale.device).repeat(*scale_PKD.shape[:2], 1, 1)
            row, column = torch.tril_indices(self.size, self.size, -1, device=scale.device)
            factor[:, :, row, column] = shear.reshape(-1, self.num_components, self.num_sheared)
            whitened_PKD = torch.linalg.solve_triangular(factor, whitened_PKD.unsqueeze(3), upper=False).squeeze(3)
        log_prob_PK = -(0.5 * whitened_PKD * whitened_PKD + torch.log(scale_PKD) + LOG_SQRT_2PI).sum(dim=2)
        return torch.logsumexp(weight_PK + log_prob_PK, dim=1) - log_volume_P

    def parts(self, proposal: NDArray[np.float64], prior: Distribution) -> Parts:
        """Return normals, moved and turned by the prior."""
        log_weights, location, scale, shear = np.split(proposal, np.cumsum(self._widths())[:-1])
        center = np.asarray(prior.mean)
        if isinstance(prior, MultivariateNormal):
            unit = np.linalg.cholesky(prior.covariance)
        else:
            unit = np.diag(np.asarray(prior.stddev).ravel())
        factors = np.tile(np.eye(self.size), (self.num_components, 1, 1))
        if self.num_sheared:
            row, column = np.tril_indices(self.size, -1)
            factors[:, row, column] = shear.reshape(self.num_components, -1)
        factors = unit @ (scale.reshape(-1, self.size, 1) * factors)
        offsets = location.reshape(-1, self.size) @ unit.T
        components: list[Distribution] = [
            FactorNormal(center + offset.reshape(center.shape), factor)
            for offset, factor in zip(offsets, factors, strict=True)
        ]
        return components, np.exp(log_weights).tolist()

    def coordinate(self, priors: Tensor, values: Tensor) -> Tensor:
        """Return the prior's distribution function of each element, shape ``(P, D)``."""
        center_PD = priors[:, : self.size]
        rest = priors[:, self.size :]
        if self.family == "MultivariateNormal":
            sd_PD = torch.sqrt(rest.reshape(-1, self.size, self.size).diagonal(dim1=1, dim2=2))
        else:
            sd_PD = rest
        coordinate_PD: Tensor = torch.special.ndtr((values.reshape_as(center_PD) - center_PD) / sd_PD)
        return coordinate_PD

    def _widths(self) -> list[int]:
        num_places = self.num_components * self.size
        return [self.num_components, num_places, num_places, self.num_components * self.num_sheared]

    def _standardize(self, priors: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return values in coordinates in which the prior is standard normal, and the log volume of their unit."""
        offset_PD = values.reshape(-1, self.size) - priors[:, : self.size]
        rest = priors[:, self.size :]
        if self.family != "MultivariateNormal":
            return offset_PD / rest, torch.log(rest).sum(dim=1)
        covariance = rest.reshape(-1, self.size, self.size)
        factor = torch.linalg.cholesky_ex(covariance)[0]  # a prior is positive definite: nothing to check
        standard_PD = torch.linalg.solve_triangular(factor, offset_PD.unsqueeze(2), upper=False).squeeze(2)
        return standard_PD, torch.log(factor.diagonal(dim1=1, dim2=2)).sum(dim=1)
