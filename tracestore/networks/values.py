"""Embedding of what was drawn last.

Shapes: P sites, E elements (a scalar draw has one as a rule, a vector as many as it is long), S embedding.
"""

import math
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tracestore.networks.config import NetworkConfig
from tracestore.networks.tables import Table

__all__ = ["CurveEmbedding", "Elements", "LinearEmbedding", "ValueEmbedding", "make_value_embedding"]


class Elements(NamedTuple):
    """The elements of the draws at P sites; tensors of shape ``(E,)`` unless stated."""

    site: Tensor
    """Place of the element's site among the P."""
    entry: Tensor
    """First entry of the element in the table."""
    num_entries: Tensor
    """Number of its entries."""
    value: Tensor
    """What is embedded, float64: see `ValueEmbedding.takes_raw_values`."""
    is_discrete: Tensor
    last_entry: Tensor
    """Last entry of each site, shape ``(P,)``."""


class ValueEmbedding(nn.Module):
    """One vector for the value of every site, made from entries that the site's row owns in a common table.

    Parameters
    ----------
    size
        Width of the embedding.
    """

    num_extra: ClassVar[int] = 0
    """Entries of a row that belong to no element."""
    takes_raw_values: ClassVar[bool] = False
    """Whether it embeds the numbers that were drawn, rather than where they lie in the prior's range: coordinates in
    [0, 1], or which of the discrete values it is."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.entries = Table(size)

    @property
    def size(self) -> int:
        """Width of the embedding."""
        return self.entries.shape[0]

    def count_entries(self, num_entries: int, size: int, *, is_category: bool) -> int:
        """Return how many entries a row takes.

        Parameters
        ----------
        num_entries
            Knots or discrete values of all elements of a draw.
        size
            Elements of a draw.
        is_category
            Whether its values are categories, which have no order.
        """
        return num_entries

    @abstractmethod
    def initial_entries(
        self, num_entries: int, num_elements: int, generator: torch.Generator, *, is_discrete: bool
    ) -> Tensor:
        """Draw the entries of a new row, shape ``(num_entries, S)``, those of its elements one after the other."""

    @abstractmethod
    def forward(self, elements: Elements) -> Tensor:
        """Embed values; returns ``(P, S)``."""

    def sum_by_site(self, elements: Elements, embedded_ES: Tensor) -> Tensor:
        """Add up the elements of each site; returns ``(P, S)``."""
        sums_PS = embedded_ES.new_zeros(len(elements.last_entry), self.size)
        return sums_PS.index_add(0, elements.site, embedded_ES)


class CurveEmbedding(ValueEmbedding):
    """A piecewise linear curve over the prior's range, or an entry per discrete value; elements are added up.

    Examples
    --------
    >>> embedding = CurveEmbedding(2)
    >>> embedding.entries.append(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    >>> zero, one = torch.tensor([0]), torch.tensor([1])
    >>> quarter, no = torch.tensor([0.25], dtype=torch.float64), torch.tensor([False])
    >>> embedding(Elements(zero, zero, torch.tensor([2]), quarter, no, one)).tolist()
    [[0.25, 0.5]]
    """

    def initial_entries(
        self, num_entries: int, num_elements: int, generator: torch.Generator, *, is_discrete: bool
    ) -> Tensor:
        """Draw apart what is discrete; put other elements on a straight line each, so that close values start close."""
        if is_discrete:
            return torch.randn(num_entries, self.size, generator=generator)
        slopes = torch.randn(num_elements, 1, self.size, generator=generator)
        return (torch.linspace(-1.0, 1.0, num_entries // num_elements).unsqueeze(1) * slopes).flatten(0, 1)

    def forward(self, elements: Elements) -> Tensor:
        """Interpolate between the two closest entries."""
        last_E = elements.num_entries - 1
        scale_E = torch.where(elements.is_discrete, 1, last_E)
        place_E = torch.minimum(elements.value * scale_E, last_E.to(elements.value.dtype))
        below_E = place_E.floor().long()
        above_E = torch.minimum(below_E + 1, last_E)
        share_E1 = (place_E - below_E).unsqueeze(1).to(self.entries.weight.dtype)
        below_ES, above_ES = self.entries(elements.entry + below_E), self.entries(elements.entry + above_E)
        return self.sum_by_site(elements, torch.lerp(below_ES, above_ES, share_E1))


class LinearEmbedding(ValueEmbedding):
    """A linear layer with ReLU, of raw values or one-hot categories, as in the paper.

    The columns of a layer are the entries of its row, the bias comes last; an element with several entries is a
    category.
    """

    num_extra = 1
    takes_raw_values = True

    def count_entries(self, num_entries: int, size: int, *, is_category: bool) -> int:
        """Return the number of columns and one for the bias."""
        return (num_entries if is_category else size) + 1

    def initial_entries(
        self, num_entries: int, num_elements: int, generator: torch.Generator, *, is_discrete: bool
    ) -> Tensor:
        """Draw a layer as torch does."""
        bound = 1.0 / math.sqrt(num_entries - 1)
        return torch.empty(num_entries, self.size).uniform_(-bound, bound, generator=generator)

    def forward(self, elements: Elements) -> Tensor:
        """Apply the layers."""
        is_category_E = elements.num_entries > 1
        column_E = torch.where(is_category_E, elements.value.long(), 0)
        factor_E = torch.where(is_category_E, 1.0, elements.value).to(self.entries.weight.dtype)
        products_ES = self.entries(elements.entry + column_E) * factor_E.unsqueeze(1)
        return functional.relu(self.sum_by_site(elements, products_ES) + self.entries(elements.last_entry))


def make_value_embedding(config: NetworkConfig) -> ValueEmbedding:
    """Build the embedding that a configuration asks for."""
    return {"curve": CurveEmbedding, "linear": LinearEmbedding}[config.sample_embedding](config.sample_size)
