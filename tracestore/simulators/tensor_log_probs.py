"""Log densities in torch, through which gradients flow to values and parameters: the formulas of `traces`.

Suffixes: N traces of a batch; a family's function works on elements of any shape. Everything is double precision.
Where a value is outside of the support the result is minus infinity and its gradient zero.
"""

import math
from collections.abc import Callable
from typing import Any

from tracestore._extras import extra
from tracestore.errors import InvalidInputError
from tracestore.traces.distributions import Categorical, Distribution, Mixture, MultivariateNormal
from tracestore.traces.distributions.base import HALF_LOG_TWO_PI
from tracestore.traces.distributions.elementwise import Elementwise
from tracestore.traces.distributions.row_categorical import CategoricalRows
from tracestore.traces.distributions.row_draws import Rows

with extra("train"):
    import torch
    from torch import Tensor

__all__ = ["parameter_tensors", "tensor_log_prob"]


def tensor_log_prob(rows: Rows, values: Tensor) -> Tensor:
    """Score one value a trace.

    Parameters
    ----------
    rows
        The distribution, as that of the traces of a batch.
    values
        Shape ``(N, *rows.shape)``.

    Returns
    -------
    Tensor
        Shape ``(N,)``, float64, summed over the elements of a draw.

    Raises
    ------
    InvalidInputError
        When the family has no log density in torch.

    Examples
    --------
    >>> from tracestore.traces.distributions import Normal
    >>> mean = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    >>> scores = tensor_log_prob(Rows.of(Normal(mean, 1.0), 2), torch.zeros(2, dtype=torch.float64))
    >>> torch.autograd.grad(scores.sum(), mean)[0].tolist()
    [0.0, -1.0]
    """
    custom = getattr(rows.prior, "tensor_log_prob", None)
    if custom is not None:
        scores: Tensor = custom(values)
        if scores.shape != (rows.num_rows,):
            message = (
                f"`tensor_log_prob` of {type(rows.prior).__name__} must return one number a trace, shape"
                f" ({rows.num_rows},); got shape {tuple(scores.shape)}."
            )
            raise InvalidInputError(message, found=tuple(scores.shape))
        return scores.to(torch.float64)
    return _log_prob_N(rows.prior, values.to(torch.float64), rows.num_rows)


def parameter_tensors(prior: Elementwise) -> tuple[Tensor, ...]:
    """Return the parameters of a distribution as float64 tensors, with their gradients where they have some."""
    given: tuple[Any, ...] = prior.given_tensors or prior._as_arrays()
    return tuple([_as_tensor(value) for value in given])


def _as_tensor(value: Any) -> Tensor:  # noqa: ANN401
    """Turn numbers into a tensor; arrays are copied, because those of distributions are locked."""
    if isinstance(value, Tensor):
        return value.to("cpu", torch.float64)
    return torch.tensor(value, dtype=torch.float64)


def _log_prob_N(prior: Distribution, values: Tensor, num_rows: int) -> Tensor:
    if isinstance(prior, Elementwise) and type(prior).__name__ in _TERMS:
        terms = _TERMS[type(prior).__name__](values, *parameter_tensors(prior))
        return terms.expand(values.shape).reshape(num_rows, -1).sum(1)
    if isinstance(prior, Mixture):
        weighted = [
            _log_prob_N(component, values, num_rows) + math.log(prob)
            for component, prob in zip(prior.components, prior.probs.tolist(), strict=True)
            if prob > 0.0
        ]
        return _log_sum(torch.stack(weighted))
    if isinstance(prior, MultivariateNormal):
        z = (values - _as_tensor(prior.loc)) @ _as_tensor(prior._inverse_factor).T
        return -0.5 * (z * z).sum(1) - prior._log_norm
    if isinstance(prior, Categorical | CategoricalRows):
        return _log_prob_of_category(prior, values)
    message = f"{prior.suffix} has no log density in torch; use an engine without gradients, such as `rmh`."
    raise InvalidInputError(message, family=prior.family)


def _log_sum(terms: Tensor) -> Tensor:
    """Log of a sum over the first axis; rows that are impossible throughout have a gradient of zero."""
    is_none = torch.isneginf(terms).all(0)
    return torch.where(is_none, -math.inf, torch.logsumexp(torch.where(is_none, 0.0, terms), 0))


def _log_prob_of_category(prior: Categorical | CategoricalRows, values: Tensor) -> Tensor:
    given: Any = (getattr(prior, "given_tensors", None) or (prior.probs,))[0]
    probs = _as_tensor(given)
    probs = probs if probs.ndim == 2 else probs[None]
    probs = probs / probs.sum(1, keepdim=True)
    is_inside = (values >= 0.0) & (values < probs.shape[1]) & (values == torch.floor(values))
    index = torch.where(is_inside, values, 0.0).to(torch.int64)
    chosen = probs.expand(len(values), -1).gather(1, index[:, None])[:, 0]
    is_possible = is_inside & (chosen > 0.0)
    return torch.where(is_possible, torch.log(torch.where(is_possible, chosen, 1.0)), -math.inf)


def _normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    z = (x - loc) / scale
    return -0.5 * z * z - torch.log(scale) - HALF_LOG_TWO_PI


def _log_normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    is_inside = (x > 0.0) & (x < math.inf)
    log_x = torch.log(torch.where(is_inside, x, 1.0))
    return torch.where(is_inside, _normal(log_x, loc, scale) - log_x, -math.inf)


def _exponential(x: Tensor, rate: Tensor) -> Tensor:
    return torch.where(x >= 0.0, torch.log(rate) - rate * x, -math.inf)


def _gamma(x: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
    is_inside = (x > 0.0) & (x < math.inf)
    inside = torch.where(is_inside, x, 1.0)
    log_x = torch.log(inside)
    terms = concentration * (torch.log(rate) + log_x) - log_x - rate * inside - torch.lgamma(concentration)
    return torch.where(is_inside, terms, -math.inf)


def _weibull(x: Tensor, scale: Tensor, concentration: Tensor) -> Tensor:
    is_inside = (x > 0.0) & (x < math.inf)
    log_x = torch.log(torch.where(is_inside, x, 1.0))
    exponent = concentration * (log_x - torch.log(scale))
    return torch.where(is_inside, torch.log(concentration) + exponent - log_x - torch.exp(exponent), -math.inf)


def _uniform(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.where((x >= low) & (x <= high), -torch.log(high - low), -math.inf)


def _beta(x: Tensor, first: Tensor, second: Tensor, low: Tensor, high: Tensor) -> Tensor:
    width = high - low
    is_inside = (x > low) & (x < high)
    share = torch.where(is_inside, (x - low) / width, 0.5)
    rest = torch.where(is_inside, (high - x) / width, 0.5)
    log_norm = torch.lgamma(first) + torch.lgamma(second) - torch.lgamma(first + second)
    terms = (first - 1.0) * torch.log(share) + (second - 1.0) * torch.log(rest) - log_norm - torch.log(width)
    return torch.where(is_inside, terms, -math.inf)


def _von_mises(x: Tensor, loc: Tensor, concentration: Tensor) -> Tensor:
    half = torch.sin(0.5 * (x - loc))
    log_norm = math.log(2.0 * math.pi) + torch.log(torch.special.i0e(concentration))
    terms = -2.0 * half * half * concentration - log_norm
    return torch.where((x >= -math.pi) & (x <= math.pi), terms, -math.inf)


def _truncated_normal(x: Tensor, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    a, b = _standardized(low, loc, scale), _standardized(high, loc, scale)
    # an interval in the upper tail is mirrored, where its mass is not a difference of numbers close to one
    is_mirrored = a > 0.0
    near, far = torch.where(is_mirrored, -a, b), torch.where(is_mirrored, -b, a)
    log_near, log_far = _log_cdf(near), _log_cdf(far)
    log_mass = log_near + torch.log1p(-torch.exp(log_far - log_near))
    is_inside = (x >= low) & (x <= high)
    return torch.where(is_inside, _normal(x, loc, scale) - log_mass, -math.inf)


def _standardized(bound: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Distance of a bound in standard deviations; an infinite one has no gradient."""
    is_finite = torch.isfinite(bound)
    return torch.where(is_finite, (torch.where(is_finite, bound, loc) - loc) / scale, bound)


def _log_cdf(z: Tensor) -> Tensor:
    is_finite = torch.isfinite(z)
    at_infinity = torch.where(z > 0.0, 0.0, -math.inf).to(torch.float64)
    return torch.where(is_finite, torch.special.log_ndtr(torch.where(is_finite, z, 0.0)), at_infinity)


def _bernoulli(x: Tensor, probs: Tensor) -> Tensor:
    return _binomial(x, torch.ones((), dtype=torch.float64), probs)


def _poisson(x: Tensor, rate: Tensor) -> Tensor:
    is_count = (x >= 0.0) & (x == torch.floor(x)) & ~((rate == 0.0) & (x > 0.0))
    count = torch.where(is_count, x, 0.0)
    terms = count * torch.log(torch.where(rate == 0.0, 1.0, rate)) - rate - torch.lgamma(count + 1.0)
    return torch.where(is_count, terms, -math.inf)


def _binomial(x: Tensor, total_count: Tensor, probs: Tensor) -> Tensor:
    is_inside = (x >= 0.0) & (x <= total_count) & (x == torch.floor(x))
    is_inside = is_inside & ~(((probs == 0.0) & (x > 0.0)) | ((probs == 1.0) & (x < total_count)))
    count = torch.where(is_inside, x, 0.0)
    failures = total_count - count
    terms = torch.lgamma(total_count + 1.0) - torch.lgamma(count + 1.0) - torch.lgamma(failures + 1.0)
    terms = terms + count * torch.log(torch.where(probs == 0.0, 1.0, probs))
    terms = terms + failures * torch.log1p(-torch.where(probs == 1.0, 0.0, probs))
    return torch.where(is_inside, terms, -math.inf)


_TERMS: dict[str, Callable[..., Tensor]] = {
    "Normal": _normal,
    "LogNormal": _log_normal,
    "Exponential": _exponential,
    "Gamma": _gamma,
    "Weibull": _weibull,
    "Uniform": _uniform,
    "Beta": _beta,
    "VonMises": _von_mises,
    "TruncatedNormal": _truncated_normal,
    "Bernoulli": _bernoulli,
    "Poisson": _poisson,
    "Binomial": _binomial,
}
