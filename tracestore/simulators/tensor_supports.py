"""Draws as coordinates on the whole real line, where gradients can be followed without meeting a bound.

A value of bounded support is a smooth function of its coordinate: an exponential for the half line, a logistic curve
for an interval, as in the Stan reference manual, chapter on constraint transforms. Bounds may be tensors, so that they
may depend on earlier draws. An angle is its own coordinate, wrapped around.
"""

import math
from typing import NamedTuple

from tracestore._extras import extra
from tracestore.errors import InvalidInputError
from tracestore.simulators.tensor_log_probs import parameter_tensors
from tracestore.traces.distributions import Distribution, Mixture
from tracestore.traces.distributions.elementwise import Elementwise

with extra("train"):
    import torch
    from torch import Tensor
    from torch.nn.functional import logsigmoid

__all__ = ["Support", "support_of"]

_LINE = ("Normal", "MultivariateNormal")
_HALF_LINE = ("LogNormal", "Exponential", "Gamma", "Weibull")
_CIRCLE = ("VonMises",)
_INTERVAL = ("Uniform", "Beta", "TruncatedNormal")


class Support(NamedTuple):
    """Bounds of the elements of a draw, and the curve between coordinate and value.

    Examples
    --------
    >>> from tracestore.traces.distributions import Exponential
    >>> z = torch.tensor([0.0, 1.0], dtype=torch.float64)
    >>> value, log_jacobian = support_of(Exponential(1.0)).value_at(z)
    >>> [round(number, 4) for number in value.tolist()], log_jacobian.tolist()
    ([1.0, 2.7183], [0.0, 1.0])
    """

    low: Tensor
    high: Tensor
    """Infinite where there is no bound; each broadcasts to the elements of all traces."""
    kind: str = "any"
    """``line``, ``half`` (from `low`), ``interval``, ``circle``, or ``any`` when elements differ."""

    def value_at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and the logs of their slopes.

        Parameters
        ----------
        z
            Coordinates, shape ``(N, *shape)``.
        """
        if self.kind == "line":
            return z, torch.zeros_like(z)
        if self.kind == "half":
            return self.low + torch.exp(z), z
        if self.kind == "interval":
            return _on_interval(z, self.low, self.high)
        if self.kind == "circle":
            return z - 2.0 * math.pi * torch.round(z.detach() / (2.0 * math.pi)), torch.zeros_like(z)
        has_low, has_high = torch.isfinite(self.low), torch.isfinite(self.high)
        # a bound that is not there gets a number in its place: where() would pass on the NaN of its gradient
        low, high = torch.where(has_low, self.low, 0.0), torch.where(has_high, self.high, 1.0)
        both, either = has_low & has_high, has_low | has_high
        inner, slope = _on_interval(
            torch.where(both, z, 0.0), torch.where(both, low, 0.0), torch.where(both, high, 1.0)
        )
        growth = torch.exp(torch.where(either & ~both, z, 0.0))
        half = torch.where(has_low, low + growth, high - growth)
        value = torch.where(both, inner, torch.where(either, half, z))
        return value, torch.where(both, slope, torch.where(either, z, 0.0))

    def coordinate_of(self, value: Tensor) -> Tensor:
        """Return the coordinates of values; infinite or NaN on a bound or outside."""
        if self.kind in ("line", "circle"):
            return value
        has_low, has_high = torch.isfinite(self.low), torch.isfinite(self.high)
        above, below = torch.log(value - self.low), torch.log(self.high - value)
        half = torch.where(has_low, above, torch.where(has_high, below, value))
        return torch.where(has_low & has_high, above - below, half)


def support_of(prior: Distribution) -> Support:
    """Return the support of a continuous distribution.

    Parameters
    ----------
    prior
        The distribution, with the parameters of all traces.

    Raises
    ------
    InvalidInputError
        When its draws are discrete, it mixes angles with other numbers, or the family is not known here.
    """
    if prior.is_discrete:
        message = f"{prior.suffix} draws whole numbers, which have no gradient."
        raise InvalidInputError(message, family=prior.family)
    if isinstance(prior, Mixture):
        parts = [support_of(component) for component in prior.components]
        kinds = {part.kind for part in parts}
        if kinds == {"circle"}:
            return parts[0]
        if "circle" in kinds:
            message = (
                f"{prior.suffix} mixes angles with other numbers, so its draws lie neither on a line nor on a circle;"
                " use an engine without gradients, such as `rmh`."
            )
            raise InvalidInputError(message, family=prior.family)
        low, high = parts[0].low, parts[0].high
        for part in parts[1:]:
            low, high = torch.minimum(low, part.low), torch.maximum(high, part.high)
        return Support(low, high, kinds.pop() if len(kinds) == 1 else "any")
    family = type(prior).__name__
    if family in _INTERVAL and isinstance(prior, Elementwise):
        *_, low, high = parameter_tensors(prior)
        return Support(low, high, "any" if family == "TruncatedNormal" else "interval")
    infinity = torch.tensor(math.inf, dtype=torch.float64)
    if family in _LINE:
        return Support(-infinity, infinity, "line")
    if family in _HALF_LINE:
        return Support(torch.zeros((), dtype=torch.float64), infinity, "half")
    if family in _CIRCLE:
        return Support(-infinity, infinity, "circle")
    message = f"{prior.suffix} has no density whose gradient could be followed."
    raise InvalidInputError(message, family=prior.family)


def _on_interval(z: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    width = high - low
    return low + width * torch.sigmoid(z), torch.log(width) + logsigmoid(z) + logsigmoid(-z)
