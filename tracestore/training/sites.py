"""Which sites a network models: the vocabulary gives every base address a row. Knows nothing of weights.

A site is modelled when inference controls it, it is a scalar draw of a family that has a proposal, its base address
has a row, and its instance number is not beyond the network's limit. All other controlled sites use the prior and are
invisible to the network.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from tracestore.traces.layout import Site, SiteKind

__all__ = ["AddressRow", "Vocabulary", "is_candidate"]


@dataclass(frozen=True, slots=True)
class AddressRow:
    """What a network knows of one base address."""

    base: str
    family: str
    num_parameters: int
    head: str
    """Key of the table of proposal heads that serves it."""
    head_row: int
    """Its row in that table."""
    first_entry: int
    """Its first row in the table of value embeddings."""
    num_entries: int
    """Number of its rows there."""
    is_discrete: bool


class Vocabulary:
    """Rows of base addresses, in order of arrival.

    Parameters
    ----------
    max_instance
        Highest instance number that is modelled.
    rows
        What an earlier vocabulary knew.

    Examples
    --------
    >>> vocabulary = Vocabulary(max_instance=16)
    >>> site = Site("gum:mu~Normal#1", SiteKind.SAMPLE, True, "mu", "Normal", (), 2)
    >>> vocabulary.add(AddressRow(site.base, "Normal", 2, "Normal", 0, 0, 33, False))
    >>> vocabulary.find(site)
    0
    """

    def __init__(self, max_instance: int, rows: Iterable[AddressRow] = ()) -> None:
        self.max_instance = max_instance
        self.rows: list[AddressRow] = []
        self._row_of_base: dict[str, int] = {}
        for row in rows:
            self.add(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, base: object) -> bool:
        return base in self._row_of_base

    @property
    def bases(self) -> tuple[str, ...]:
        """Base addresses in the order of their rows."""
        return tuple(self._row_of_base)

    def add(self, row: AddressRow) -> None:
        """Append a row for a new base address."""
        self._row_of_base[row.base] = len(self.rows)
        self.rows.append(row)

    def find(self, site: Site) -> int:
        """Return the row of a modelled site, or -1 for a site that is not modelled."""
        if not (is_candidate(site) and site.instance <= self.max_instance):
            return -1
        return self._row_of_base.get(site.base, -1)

    def to_dicts(self) -> list[dict[str, object]]:
        """Return the rows as JSON-ready dictionaries."""
        return [asdict(row) for row in self.rows]


def is_candidate(site: Site) -> bool:
    """Whether a site could be modelled as far as its kind and shape go."""
    return site.is_controlled and site.kind is SiteKind.SAMPLE and site.shape == ()
