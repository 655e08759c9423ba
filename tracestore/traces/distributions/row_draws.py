"""Many draws at once, one a row: of one distribution, or of a distribution that has a row of parameters for each.

The first axis of a *row-wise* distribution counts the rows: `Normal` with a mean of shape ``(n,)`` holds *n* scalar
distributions. A distribution of shape ``()`` stands for the same one in each row, and so does a first axis of size one.
Mixtures are row-wise when their components are, and so is every `RowwiseDistribution`. All other families have draws
that cannot be cut into rows: whatever their shape, they stand for the same distribution in each row.

Nothing here loops over rows, with these exceptions: quantiles of `TruncatedNormal`, whose elements are objects of their
own, are found one by one, and families that this release does not know draw and score one by one.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import Distribution
from tracestore.traces.distributions.composite import Mixture, MultivariateNormal
from tracestore.traces.distributions.elementwise import Elementwise
from tracestore.traces.distributions.row_categorical import CategoricalRows
from tracestore.traces.distributions.row_terms import element_terms, has_terms, term_arrays
from tracestore.traces.distributions.rowwise import RowwiseDistribution
from tracestore.traces.distributions.truncated import SMALLEST_UNIFORM, TruncatedNormal
from tracestore.traces.distributions.weighted import Categorical, PiecewiseUniform

__all__ = ["Rows", "is_vectorized"]

Array = NDArray[np.float64]

ELEMENTS_AT_ONCE = 16_384
"""Elements that are drawn or scored together: intermediate results stay in the processor's cache."""


def is_vectorized(prior: Distribution) -> bool:
    """Tell whether many draws are made and scored without a Python loop over them.

    Examples
    --------
    >>> from tracestore.traces.distributions import Normal, TruncatedNormal
    >>> is_vectorized(Normal(0.0, 1.0)), is_vectorized(TruncatedNormal(0.0, 1.0, 0.0, 1.0))
    (True, False)
    """
    if isinstance(prior, Mixture):
        return all(is_vectorized(component) for component in prior.components)
    if isinstance(prior, TruncatedNormal):
        return False
    if isinstance(prior, Elementwise):
        return has_terms(prior)
    return isinstance(
        prior, Categorical | CategoricalRows | PiecewiseUniform | MultivariateNormal | RowwiseDistribution
    )


class Rows(NamedTuple):
    """A distribution as that of ``num_rows`` independent draws; made by `Rows.of`.

    Examples
    --------
    >>> from tracestore.traces.distributions import Normal
    >>> rows = Rows.of(Normal([0.0, 10.0, 20.0], 1.0), 3)
    >>> rows.first.suffix, rows.sample(np.random.default_rng(1)).round(1)
    ('Normal', array([ 0.3, 10.8, 20.3]))
    >>> rows.log_prob(np.array([0.0, 10.0, 20.0])).round(4), [part.tolist() for part in rows.parameters()]
    (array([-0.9189, -0.9189, -0.9189]), [[[0.0], [10.0], [20.0]], [[1.0]]])
    """

    prior: Distribution
    num_rows: int
    is_rowwise: bool
    """Whether the first axis of the distribution counts rows."""

    @staticmethod
    def of(prior: Distribution, num_rows: int) -> "Rows":
        """Read a distribution as that of some rows.

        Raises
        ------
        InvalidInputError
            When it is row-wise and its first axis has neither the size one nor that of the rows.
        """
        if not prior.shape or not _can_be_rowwise(prior):
            return Rows(prior, num_rows, is_rowwise=False)
        if prior.shape[0] not in (1, num_rows):
            message = (
                f"Inside a batch of {num_rows} traces the first axis of a prior is the trace axis, so its shape must be"
                f" (), ({num_rows}, ...) or (1, ...); got {prior.suffix} with shape {prior.shape}. A draw of the same"
                f" shape in each trace is written with parameters of shape {(1, *prior.shape)}."
            )
            raise InvalidInputError(message, shape=prior.shape, num_traces=num_rows)
        return Rows(prior, num_rows, is_rowwise=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row's draw."""
        return self.prior.shape[1:] if self.is_rowwise else self.prior.shape

    @property
    def first(self) -> Distribution:
        """Distribution of the first row; all rows have its family, shape and number of parameters."""
        return _first(self.prior) if self.is_rowwise else self.prior

    def sample(self, rng: np.random.Generator) -> NDArray[np.generic]:
        """Draw one value a row.

        Returns
        -------
        ndarray
            Shape ``(num_rows, *shape)``: whole numbers for scalar discrete draws, else float64.
        """
        drawn = _sample(self.prior, self.num_rows, self.shape, rng, is_rowwise=self.is_rowwise)
        return drawn.astype(np.int64) if self.prior.is_discrete and not self.shape else drawn

    def log_prob(self, values: NDArray[np.generic]) -> Array:
        """Score one value a row.

        Parameters
        ----------
        values
            Shape ``(num_rows, *shape)``.

        Returns
        -------
        ndarray of float64
            Shape ``(num_rows,)``, summed over the elements of a draw.

        Raises
        ------
        InvalidInputError
            When the values have another shape.
        """
        if values.shape != (self.num_rows, *self.shape):
            message = (
                f"The values of {self.num_rows} traces under {self.first.suffix} must have shape"
                f" {(self.num_rows, *self.shape)}; got {values.shape}."
            )
            raise InvalidInputError(message, expected=(self.num_rows, *self.shape), found=values.shape)
        return _log_prob(self.prior, np.asarray(values, np.float64), is_rowwise=self.is_rowwise)

    def parameters(self) -> list[Array]:
        """Return the flat parameters of each row in parts, which side by side are `Distribution.parameters` of the row.

        Returns
        -------
        list of ndarray of float64
            Each of shape ``(num_rows, size)``, or ``(1, size)`` when all rows have the same numbers.
        """
        return _parameters(self.prior) if self.is_rowwise else [self.prior.parameters()[None]]


def _can_be_rowwise(prior: Distribution) -> bool:
    if isinstance(prior, Elementwise):  # the most frequent case is looked at first, here and below
        return has_terms(prior)
    if isinstance(prior, Mixture):
        return all(_can_be_rowwise(component) for component in prior.components)
    return isinstance(prior, CategoricalRows | RowwiseDistribution)


def _first(prior: Distribution) -> Distribution:
    """Distribution of the first row of a row-wise one."""
    if isinstance(prior, Elementwise):
        ndim = len(prior.shape)
        columns = [array[0] if array.ndim == ndim else array for array in prior._as_arrays()]
        return type(prior)(*[column if column.ndim else float(column) for column in columns])
    if isinstance(prior, Mixture):
        return Mixture([_first(component) for component in prior.components], prior.probs)
    if isinstance(prior, RowwiseDistribution):
        return prior.first_row()
    return Categorical(_weights(prior)[0])


def _parameters(prior: Distribution) -> list[Array]:
    if isinstance(prior, Elementwise):
        shape, size, parts = prior.shape[1:], math.prod(prior.shape[1:]), []
        for array in prior._as_arrays():
            num_rows = len(array) if array.ndim == len(prior.shape) else 1
            full = array if array.shape == (num_rows, *shape) else np.broadcast_to(array, (num_rows, *shape))
            parts.append(full.reshape(num_rows, size))
        return parts
    if isinstance(prior, Mixture):
        return [*[part for component in prior.components for part in _parameters(component)], prior.probs[None]]
    return [prior.parameter_rows() if isinstance(prior, RowwiseDistribution) else _weights(prior)]


def _weights(prior: Distribution) -> Array:
    """Probabilities of the only other row-wise family."""
    return prior.probs if isinstance(prior, CategoricalRows) else prior.parameters()[None]


def _sample(
    prior: Distribution, num_rows: int, shape: tuple[int, ...], rng: np.random.Generator, *, is_rowwise: bool
) -> Array:
    if isinstance(prior, Elementwise) and has_terms(prior) and (is_rowwise or not prior.shape):
        return _sample_elements(prior, num_rows, shape, rng)
    if isinstance(prior, Mixture):
        return _sample_mixture(prior, num_rows, shape, rng, is_rowwise=is_rowwise)
    if isinstance(prior, CategoricalRows | RowwiseDistribution):
        return np.asarray(prior.sample_rows(num_rows, rng), np.float64)
    if isinstance(prior, Categorical):
        return _choose(prior.probs, num_rows, rng).astype(np.float64)
    if isinstance(prior, PiecewiseUniform):
        return _sample_histogram(prior, num_rows, rng)
    if isinstance(prior, MultivariateNormal):
        correlated: Array = prior.loc + rng.standard_normal((num_rows, *prior.shape)) @ prior._factor.T
        return correlated
    return np.array([prior.sample(rng) for _ in range(num_rows)], np.float64).reshape(num_rows, *shape)


def _sample_elements(prior: Elementwise, num_rows: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if isinstance(prior, TruncatedNormal):
        if prior.shape in ((), (1,)):
            only = prior if not prior.shape else prior._elements[0]
            return np.array([only._at(number or SMALLEST_UNIFORM) for number in rng.random(num_rows).tolist()])
        elements = prior._elements if prior.shape[0] == num_rows else prior._elements * num_rows
        drawn = [element.sample(rng) for element in elements]
        return np.array(drawn, np.float64).reshape(num_rows, *shape)
    out = np.empty((num_rows, *shape))
    for part in _blocks(out):
        block = out[part]
        block[...] = _resized(prior, part, block.shape).sample(rng)
    return out


def _resized(prior: Elementwise, part: slice, shape: tuple[int, ...]) -> Elementwise:
    """Return some rows of a distribution without checking its parameters again; they broadcast to the shape."""
    made = object.__new__(type(prior))
    made._scalars, made._shape = (), shape
    made._arrays = _cut(prior._as_arrays(), part, len(shape))
    return made


def _cut(arrays: tuple[Array, ...], part: slice, ndim: int) -> tuple[Array, ...]:
    """Return some rows of arrays that broadcast: only those that have a trace axis are cut."""
    return tuple([array[part] if array.ndim == ndim and len(array) > 1 else array for array in arrays])


def _blocks(rows: NDArray[np.generic]) -> Iterator[slice]:
    step = max(1, ELEMENTS_AT_ONCE // max(1, math.prod(rows.shape[1:])))
    return (slice(low, low + step) for low in range(0, len(rows), step))


def _choose(probs: Array, num_rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    cumulative = np.cumsum(probs)
    # below the last sum by at least its last bit, so a choice of weight zero is never made
    return np.asarray(np.searchsorted(cumulative, rng.random(num_rows) * cumulative[-1], side="right"), np.int64)


def _sample_histogram(prior: PiecewiseUniform, num_rows: int, rng: np.random.Generator) -> Array:
    edges = prior.edges
    index = _choose(prior.probs, num_rows, rng)
    low, high = edges[index], edges[index + 1]
    # an edge belongs to the next interval, whose weight may be zero
    highest = np.where(index + 1 == len(edges) - 1, high, np.nextafter(high, low))
    return np.minimum(low + (high - low) * rng.random(num_rows), highest)


def _sample_mixture(
    prior: Mixture, num_rows: int, shape: tuple[int, ...], rng: np.random.Generator, *, is_rowwise: bool
) -> Array:
    index = _choose(prior.probs, num_rows, rng)
    out = np.empty((num_rows, *shape))
    for number, component in enumerate(prior.components):
        chosen = index == number
        # every component draws for all rows: parameters need not be gathered
        out[chosen] = _sample(component, num_rows, shape, rng, is_rowwise=is_rowwise)[chosen]
    return out


def _log_prob(prior: Distribution, values: Array, *, is_rowwise: bool) -> Array:
    if isinstance(prior, Elementwise) and has_terms(prior) and (is_rowwise or not prior.shape):
        return _log_prob_of_elements(prior, values)
    if isinstance(prior, Mixture):
        return _log_prob_of_mixture(prior, values, is_rowwise=is_rowwise)
    if isinstance(prior, CategoricalRows | RowwiseDistribution):
        return prior.log_prob_rows(values)
    if isinstance(prior, Categorical):
        return _log_prob_of_category(prior, values)
    if isinstance(prior, PiecewiseUniform):
        return _log_prob_of_histogram(prior, values)
    if isinstance(prior, MultivariateNormal):
        with np.errstate(all="ignore"):
            z = (values - prior.loc) @ prior._inverse_factor.T
            log_probs: Array = -0.5 * (z * z).sum(axis=1) - prior._log_norm
        return np.where(np.isnan(log_probs), -math.inf, log_probs)
    draws = values.tolist() if not prior.shape else values
    return np.array([prior.log_prob(draw) for draw in draws], np.float64)


def _log_prob_of_elements(prior: Elementwise, values: Array) -> Array:
    out = np.empty(len(values))
    arrays = term_arrays(prior)
    for part in _blocks(values):
        terms = element_terms(prior.family, values[part], _cut(arrays, part, values.ndim))
        out[part] = terms if terms.ndim == 1 else terms.reshape(len(terms), math.prod(terms.shape[1:])).sum(axis=1)
    return out


def _log_prob_of_category(prior: Categorical, values: Array) -> Array:
    with np.errstate(divide="ignore"):
        table = np.append(np.log(prior.probs), -math.inf)
    is_inside = (values >= 0.0) & (values < len(prior.probs)) & (values == np.floor(values))
    return np.asarray(table[np.where(is_inside, values, len(prior.probs)).astype(np.int64)])


def _log_prob_of_histogram(prior: PiecewiseUniform, values: Array) -> Array:
    edges = prior.edges
    with np.errstate(divide="ignore"):
        table = np.log(prior.probs) - np.log(np.diff(edges))
    index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(table) - 1)
    return np.asarray(np.where((values >= edges[0]) & (values <= edges[-1]), table[index], -math.inf))


def _log_prob_of_mixture(prior: Mixture, values: Array, *, is_rowwise: bool) -> Array:
    terms = np.stack(
        [
            _log_prob(component, values, is_rowwise=is_rowwise) + math.log(prob)
            for component, prob in zip(prior.components, prior.probs.tolist(), strict=True)
            if prob > 0.0
        ]
    )
    highest = terms.max(axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        summed = highest + np.log(np.exp(terms - highest).sum(axis=0))
    return np.asarray(np.where(highest == -math.inf, highest, summed))
