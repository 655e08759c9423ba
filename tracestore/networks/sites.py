"""Which sites a network models: the vocabulary gives every base address, or every address, a row. Knows no weights.

A site is modelled when inference controls it, its family and shape have a proposal, its address has a row, and its
instance number is not beyond the network's limit. All other controlled sites use the prior and are invisible to the
network.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from tracestore.traces.layout import Site, SiteKind

__all__ = ["AddressRow", "Vocabulary", "is_candidate"]


@dataclass(frozen=True, slots=True)
class AddressRow:
    """What a network knows of the sites that share one row of its tables."""

    key: str
    """Base address, or the whole address when every address has a row."""
    base: str
    family: str
    size: int
    """Numbers that a draw holds."""
    num_elements: int
    """Numbers that its value embedding works on."""
    num_parameters: int
    head: str
    """Key of the proposal head that serves it."""
    head_row: int
    """Its row in that head's tables."""
    first_entry: int
    """Its first row in the table of value embeddings."""
    num_entries: int
    """Number of its rows there."""
    is_discrete: bool
    is_hidden: bool = False
    """Whether it serves addresses that have no row of their own, all those of its head."""


class Vocabulary:
    """Rows of addresses, in order of arrival.

    Parameters
    ----------
    rows_by
        Whether base addresses or whole addresses have rows.
    max_instance
        Highest instance number of a base address that is modelled.
    head_of
        Returns the key of the head that would serve a site, or None for one that has no proposal.

    Examples
    --------
    >>> vocabulary = Vocabulary("base", 16, lambda site: site.family)
    >>> site = Site("gum:mu~Normal#1", SiteKind.SAMPLE, True, "mu", "Normal", (), 2)
    >>> vocabulary.lacks(site)
    True
    >>> vocabulary.add(AddressRow(vocabulary.key(site), site.base, "Normal", 1, 1, 2, "Normal", 0, 0, 33, False))
    >>> vocabulary.find(site), vocabulary.instance(site)
    (0, 1)
    """

    def __init__(
        self,
        rows_by: Literal["base", "address"],
        max_instance: int,
        head_of: Callable[[Site], str | None],
    ) -> None:
        self.rows_by = rows_by
        self.max_instance = max_instance if rows_by == "base" else 1
        self.rows: list[AddressRow] = []
        self.hidden_row_of_head: dict[str, int] = {}
        self.num_entries = 0
        """Value entries of all rows."""
        self.families: dict[str, int] = {}
        """Position of each family, in order of arrival."""
        self.head_of = head_of
        self._num_rows_of_head: Counter[str] = Counter()
        self._row_of_key: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def lacks(self, site: Site) -> bool:
        """Whether a site needs a row that is not there."""
        return is_candidate(site) and self.key(site) not in self._row_of_key and self.head_of(site) is not None

    def num_rows_of_head(self, head: str) -> int:
        """Return how many rows a head serves."""
        return self._num_rows_of_head[head]

    @property
    def bases(self) -> tuple[str, ...]:
        """Base addresses in the order of their first rows."""
        return tuple(dict.fromkeys(row.base for row in self.rows if not row.is_hidden))

    def key(self, site: Site) -> str:
        """Return what a site's row is found by."""
        return site.base if self.rows_by == "base" else site.address

    def instance(self, site: Site) -> int:
        """Return the number that tells apart the visits that share a row, from 1."""
        return site.instance if self.rows_by == "base" else 1

    def add(self, row: AddressRow) -> None:
        """Append a row."""
        if row.is_hidden:
            self.hidden_row_of_head[row.head] = len(self.rows)
        else:
            self._row_of_key[row.key] = len(self.rows)
        self.rows.append(row)
        self.num_entries += row.num_entries
        self.families.setdefault(row.family, len(self.families))
        self._num_rows_of_head[row.head] += 1

    def find(self, site: Site) -> int:
        """Return the row of a modelled site, or -1 for a site that is not modelled."""
        if not (is_candidate(site) and self.instance(site) <= self.max_instance):
            return -1
        row = self._row_of_key.get(self.key(site))
        if row is None and self.hidden_row_of_head:
            row = self.hidden_row_of_head.get(self.head_of(site) or "")
        return -1 if row is None else row

    def to_dicts(self) -> list[dict[str, object]]:
        """Return the rows as JSON-ready dictionaries."""
        return [asdict(row) for row in self.rows]


def is_candidate(site: Site) -> bool:
    """Whether a site could be modelled as far as its kind goes."""
    return site.is_controlled and site.kind is SiteKind.SAMPLE
