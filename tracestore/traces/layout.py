"""Sites and layouts: the shape of a trace, shared by all traces that took the same path through the simulator."""

import math
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from tracestore.traces.address import REJECTION, address_id, split_address, trace_type_id

__all__ = ["MAX_OBSERVE_PARAMETERS", "Layout", "Site", "SiteKind"]

MAX_OBSERVE_PARAMETERS = 64
"""A likelihood with more numbers than this is not stored at its site: it would outweigh the observation itself."""


class SiteKind(IntEnum):
    """What happened at a site; the numbers are written to disk."""

    SAMPLE = 0
    OBSERVE = 1
    TAG = 2


@dataclass(frozen=True, slots=True)
class Site:
    """One kind of event at one address: what all traces that visit the address have in common.

    Examples
    --------
    >>> site = Site("gum:mu~Normal#1", SiteKind.SAMPLE, True, "mu", "Normal", (), 2)
    >>> site.base, site.instance, site.num_values
    ('gum:mu~Normal', 1, 1)
    """

    address: str
    """Full address, base and instance."""
    kind: SiteKind
    is_controlled: bool
    """Inference may choose the value; always False for observes and tags."""
    name: str
    """The user's name, or an empty string."""
    family: str
    """Family of the prior or likelihood; empty for tags."""
    shape: tuple[int, ...]
    """Shape of the value; ``()`` for a scalar."""
    num_parameters: int
    """Stored numbers that describe the prior or likelihood."""
    id: int = field(init=False)
    """64-bit content hash of the address."""
    base: str = field(init=False)
    """Base address."""
    instance: int = field(init=False)
    """Visit number within the trace, from 1."""

    def __post_init__(self) -> None:
        base, instance = split_address(self.address)
        object.__setattr__(self, "id", address_id(self.address))
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "instance", instance)

    @property
    def num_values(self) -> int:
        """Numbers that the site holds in ``values``; 0 for a named observe, whose value is an observation."""
        return 0 if self.kind is SiteKind.OBSERVE and self.name else math.prod(self.shape)

    @property
    def is_rejection(self) -> bool:
        """Whether the draw belongs to a rejection loop, where the prior proposes unless told otherwise."""
        return self.base.startswith(REJECTION)

    @property
    def record(self) -> str:
        """Canonical text of everything that distinguishes the site, hashed into the layout's identity."""
        return "\x1f".join(
            (
                self.address,
                str(int(self.kind)),
                str(int(self.is_controlled)),
                self.name,
                self.family,
                ",".join(map(str, self.shape)),
                str(self.num_parameters),
            )
        )


class Layout:
    """All sites of a trace in order.

    Traces of one layout are rectangular: the same number of sites, values and parameters. Layouts nest inside trace
    types: two traces that differ only in uncontrolled sites, observes or tags have one trace type and two layouts.

    Parameters
    ----------
    sites
        The sites in the order of execution.

    Examples
    --------
    >>> mu = Site("gum:mu~Normal#1", SiteKind.SAMPLE, True, "mu", "Normal", (), 2)
    >>> seen = Site("gum:obs0~Normal#1", SiteKind.OBSERVE, False, "obs0", "Normal", (), 2)
    >>> layout = Layout((mu, seen))
    >>> layout.num_sites, layout.num_values, layout.num_parameters, layout.index_of("mu")
    (2, 1, 4, [0])
    """

    def __init__(self, sites: tuple[Site, ...]) -> None:
        self.sites = sites

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Layout) and self.id == other.id)

    def __hash__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"Layout({self.num_sites} sites, id={self.id:016x})"

    @cached_property
    def id(self) -> int:
        """64-bit content hash of the site records."""
        return xxhash.xxh3_64_intdigest("\x1e".join(site.record for site in self.sites).encode())

    @cached_property
    def trace_type(self) -> int:
        """64-bit content hash of the controlled addresses in order."""
        return trace_type_id(self.address_ids[self.controlled])

    @property
    def num_sites(self) -> int:
        """Number of sites."""
        return len(self.sites)

    @property
    def num_values(self) -> int:
        """Numbers held in ``values`` by one trace."""
        return int(self.value_offsets[-1])

    @property
    def num_parameters(self) -> int:
        """Numbers held in ``parameters`` by one trace."""
        return int(self.parameter_offsets[-1])

    @cached_property
    def address_ids(self) -> NDArray[np.uint64]:
        """Address identities, shape ``(num_sites,)``."""
        return np.fromiter((site.id for site in self.sites), np.uint64, len(self.sites))

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:
        """Site kinds, shape ``(num_sites,)``."""
        return np.fromiter((site.kind for site in self.sites), np.uint8, len(self.sites))

    @cached_property
    def controlled(self) -> NDArray[np.bool_]:
        """Whether inference may choose the value, shape ``(num_sites,)``."""
        return np.fromiter((site.is_controlled for site in self.sites), np.bool_, len(self.sites))

    @cached_property
    def value_offsets(self) -> NDArray[np.int64]:
        """Where each site's values start within a trace, shape ``(num_sites + 1,)``."""
        return _offsets([site.num_values for site in self.sites])

    @cached_property
    def parameter_offsets(self) -> NDArray[np.int64]:
        """Where each site's parameters start within a trace, shape ``(num_sites + 1,)``."""
        return _offsets([site.num_parameters for site in self.sites])

    @cached_property
    def observed_names(self) -> tuple[str, ...]:
        """Names of the named observes, in order."""
        return tuple(site.name for site in self.sites if site.kind is SiteKind.OBSERVE and site.name)

    def index_of(self, name: str) -> list[int]:
        """Positions of the sites that carry a name or have an address.

        Parameters
        ----------
        name
            A site's name or full address.

        Returns
        -------
        list of int
            Positions in order; empty when there is none.
        """
        return self._positions.get(name, [])

    @cached_property
    def _positions(self) -> dict[str, list[int]]:
        positions: dict[str, list[int]] = {}
        for index, site in enumerate(self.sites):
            positions.setdefault(site.address, []).append(index)
            if site.name:
                positions.setdefault(site.name, []).append(index)
        return positions


def _offsets(sizes: list[int]) -> NDArray[np.int64]:
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets
