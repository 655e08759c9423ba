"""Distribution functions of many priors at once, on tensors; the same as `traces.distributions.cumulative`.

Shapes: P sites, N intervals of a histogram.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tracestore.traces.distributions.families import Structure, count_parameters

__all__ = ["cumulative", "has_cumulative"]

SQRT_HALF = math.sqrt(0.5)
FLAT_BELOW = 1e-8
"""Change of the log density of a truncated normal below which it is taken as uniform."""
FARTHEST = 1e150
LARGEST_LOG = 709.0


def has_cumulative(structure: Structure) -> bool:
    """Tell whether `cumulative` serves a scalar prior.

    Parameters
    ----------
    structure
        Its structure.
    """
    if structure.components:
        return all(has_cumulative(component) for component in structure.components)
    return structure.family in _FUNCTIONS and (structure.family != "PiecewiseUniform" or structure.size is not None)


def cumulative(structure: Structure, priors: Tensor, values_P: Tensor) -> Tensor:
    """Return the probabilities that draws are at most some values, shape ``(P,)``; no gradients.

    Parameters
    ----------
    structure
        Of the priors.
    priors
        Their parameters, float64, shape ``(P, num_parameters)``.
    values_P
        Values, float64.
    """
    with torch.no_grad():
        return _cumulative(structure, priors, values_P).clamp(0.0, 1.0)


def _cumulative(structure: Structure, priors: Tensor, values_P: Tensor) -> Tensor:
    if not structure.components:
        return _FUNCTIONS[structure.family](priors, values_P)
    num_components = len(structure.components)
    sizes = [count_parameters(component, ()) for component in structure.components]
    *parts, probs = torch.split(priors[:, : sum(sizes) + num_components], [*sizes, num_components], dim=1)
    total_P = torch.zeros_like(values_P)
    for component, part, prob_P in zip(structure.components, parts, probs.unbind(1), strict=True):
        total_P = total_P + prob_P * _cumulative(component, part, values_P).clamp(0.0, 1.0)
    return total_P


def _uniform(priors: Tensor, x_P: Tensor) -> Tensor:
    return (x_P - priors[:, 0]) / (priors[:, 1] - priors[:, 0])


def _normal(priors: Tensor, x_P: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-(x_P - priors[:, 0]) / priors[:, 1] * SQRT_HALF)


def _log_normal(priors: Tensor, x_P: Tensor) -> Tensor:
    return _normal(priors, torch.log(x_P.clamp(min=0.0)))


def _exponential(priors: Tensor, x_P: Tensor) -> Tensor:
    return -torch.expm1(-priors[:, 0] * x_P.clamp(min=0.0))


def _weibull(priors: Tensor, x_P: Tensor) -> Tensor:
    log_power_P = priors[:, 1] * (torch.log(x_P.clamp(min=0.0)) - torch.log(priors[:, 0]))
    return -torch.expm1(-torch.exp(log_power_P.clamp(max=LARGEST_LOG)))


def _truncated(priors: Tensor, x_P: Tensor) -> Tensor:
    """See `TruncatedNormal` for the reference points; the mass of a tail is that between a bound and the value."""
    loc_P, scale_P, low_P, high_P = priors[:, :4].unbind(1)
    x_P = torch.minimum(torch.maximum(x_P, low_P), high_P)
    below_P, above_P = (low_P - loc_P) / scale_P, (high_P - loc_P) / scale_P
    first_P = torch.erf(below_P * SQRT_HALF)
    inner_P = (torch.erf((x_P - loc_P) / scale_P * SQRT_HALF) - first_P) / (torch.erf(above_P * SQRT_HALF) - first_P)
    is_above_P, is_below_P = below_P > 0.0, above_P < 0.0
    distance_P = torch.where(is_above_P, below_P, -above_P).clamp(0.0, FARTHEST)
    width_P = (high_P - low_P) / scale_P
    t_P = torch.where(is_above_P, x_P - low_P, high_P - x_P) / scale_P
    share_P = (_tail_mass(distance_P, t_P) / _tail_mass(distance_P, width_P)).clamp(0.0, 1.0)
    result_P = torch.where(is_above_P, share_P, torch.where(is_below_P, 1.0 - share_P, inner_P))
    from_middle_P = torch.where(is_above_P | is_below_P, distance_P, 0.0)
    is_flat_P = width_P * (from_middle_P + 0.5 * width_P) < FLAT_BELOW
    return torch.where(is_flat_P, (x_P - low_P) / (high_P - low_P), result_P)


def _tail_mass(distance_P: Tensor, t_P: Tensor) -> Tensor:
    """Return the share of a normal tail beyond a distance that lies within ``t`` of its beginning."""
    drop_P = t_P * (distance_P + 0.5 * t_P)
    ratio_P = torch.special.erfcx((distance_P + t_P) * SQRT_HALF) / torch.special.erfcx(distance_P * SQRT_HALF)
    return 1.0 - torch.where(drop_P < LARGEST_LOG, ratio_P * torch.exp(-drop_P), 0.0)


def _piecewise_uniform(priors: Tensor, x_P: Tensor) -> Tensor:
    num_intervals = (priors.shape[1] - 1) // 2
    edges, probs_PN = priors[:, : num_intervals + 1].contiguous(), priors[:, num_intervals + 1 :]
    inner = edges[:, 1:-1].contiguous()
    index_P1 = torch.searchsorted(inner, x_P.unsqueeze(1).contiguous(), right=True)
    before_P1 = (torch.cumsum(probs_PN, dim=1) - probs_PN).gather(1, index_P1)
    low_P1, high_P1 = edges.gather(1, index_P1), edges.gather(1, index_P1 + 1)
    share_P1 = ((x_P.unsqueeze(1) - low_P1) / (high_P1 - low_P1)).clamp(0.0, 1.0)
    return (before_P1 + probs_PN.gather(1, index_P1) * share_P1).squeeze(1)


_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Exponential": _exponential,
    "LogNormal": _log_normal,
    "Normal": _normal,
    "PiecewiseUniform": _piecewise_uniform,
    "TruncatedNormal": _truncated,
    "Uniform": _uniform,
    "Weibull": _weibull,
}
