"""Dictionary of a segment: its sites and layouts as flat columns, and layouts built from them when touched."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import FormatError
from tracestore.traces.address import address_id, format_address
from tracestore.traces.layout import Layout, Site, SiteKind

__all__ = ["Dictionary", "LayoutSequence", "NamedSites", "dictionary_tables"]

NumberT = TypeVar("NumberT", bound=np.generic)


def dictionary_tables(layouts: Sequence[Layout]) -> dict[str, dict[str, pa.Array]]:
    """Write layouts as tables: file name (without suffix) to columns.

    Parameters
    ----------
    layouts
        Distinct layouts, in the order in which they are numbered.
    """
    sites: dict[Site, int] = {}
    # most layouts share the very same site objects: their identity saves hashing ten fields a million times
    known: dict[int, int] = {}
    index: list[int] = []
    for layout in layouts:
        for site in layout.sites:
            place = known.get(id(site))
            if place is None:
                place = known[id(site)] = sites.setdefault(site, len(sites))
            index.append(place)
    bases: dict[str, int] = {}
    base_index = [bases.setdefault(site.base, len(bases)) for site in sites]
    return {
        "bases": {"base": pa.array(bases, pa.string())},
        "sites": {
            "id": pa.array([site.id for site in sites], pa.uint64()),
            "base": pa.array(base_index, pa.int32()),
            "instance": pa.array([site.instance for site in sites], pa.int32()),
            "kind": pa.array([int(site.kind) for site in sites], pa.uint8()),
            "controlled": pa.array([site.is_controlled for site in sites], pa.bool_()),
            "name": pa.array([site.name for site in sites], pa.string()),
            "family": pa.array([site.family for site in sites], pa.string()),
            "shape": pa.array([list(site.shape) for site in sites], pa.list_(pa.int32())),
            "num_parameters": pa.array([site.num_parameters for site in sites], pa.int32()),
        },
        "layouts": {
            "id": pa.array([layout.id for layout in layouts], pa.uint64()),
            "trace_type": pa.array([layout.trace_type for layout in layouts], pa.uint64()),
            "num_sites": pa.array([layout.num_sites for layout in layouts], pa.int32()),
        },
        "layout_sites": {"site": pa.array(index, pa.int32())},
    }


@dataclass(frozen=True, slots=True)
class NamedSites:
    """Sites that carry one name or have one address: at most one per layout, the last."""

    layout: NDArray[np.int32]
    """Layouts that have it, ascending."""
    value_index: NDArray[np.int64]
    """First of its values within a trace of the layout."""
    shape: tuple[int, ...]
    """Shape of the value."""
    observation: str
    """Name of the observation that holds the value; empty when it is among the values."""


class Dictionary:
    """Sites and layouts of a segment, read from its tables.

    Parameters
    ----------
    tables
        `dictionary_tables`, read back.
    known
        Layouts by id, shared between segments; read and added to.
    """

    def __init__(self, tables: Mapping[str, pa.Table], known: MutableMapping[int, Layout]) -> None:
        self._tables = tables
        self._known = known
        layouts = tables["layouts"]
        self.layout_ids: NDArray[np.uint64] = layouts["id"].to_numpy()
        self.num_sites: NDArray[np.int64] = layouts["num_sites"].to_numpy().astype(np.int64)
        self.layout_sites: NDArray[np.int32] = _numbers(tables, "layout_sites", "site", np.int32)
        """Site of each position of each layout, flat."""
        self.first_site = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.num_sites)])
        if self.first_site[-1] != len(self.layout_sites):
            message = (
                f"layouts.arrow counts {self.first_site[-1]} sites, layout_sites.arrow has {len(self.layout_sites)}."
            )
            raise FormatError(message)

    @property
    def layouts(self) -> "LayoutSequence":
        """The layouts, built when touched."""
        return LayoutSequence(self)

    def layout(self, index: int) -> Layout:
        """Build a layout, or find it among those known."""
        identity = int(self.layout_ids[index])
        found = self._known.get(identity)
        if found is None:
            places = self.layout_sites[self.first_site[index] : self.first_site[index + 1]]
            found = Layout(tuple(map(self._site, places.tolist())))
            # the id was hashed when the layout was written; `problems` compares them
            vars(found)["id"] = identity
            self._known[identity] = found
        return found

    @cached_property
    def layout_sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Values, log probs and parameters of a trace of each layout."""
        values = self._per_layout(self._num_values)
        parameters = self._per_layout(_numbers(self._tables, "sites", "num_parameters", np.int64))
        return values, self.num_sites, parameters

    def find(self, name: str) -> list[NamedSites]:
        """Find the sites with a name or address; one entry per shape and place of the value."""
        is_found = self._names == name
        _, mark, instance = name.rpartition("#")
        if mark and instance.isdecimal():
            candidates = np.flatnonzero(self.ids == np.uint64(address_id(name)))
            is_found[[place for place in candidates if self.address(int(place)) == name]] = True
        positions = np.flatnonzero(is_found[self.layout_sites])
        if not len(positions):
            return []
        layouts = np.searchsorted(self.first_site, positions, "right") - 1
        is_last = np.append(layouts[1:] != layouts[:-1], True)
        layouts, positions = layouts[is_last].astype(np.int32), positions[is_last]
        before = np.cumsum(self._num_values[self.layout_sites])
        sites = self.layout_sites[positions]
        value_index = before[positions] - self._num_values[sites]
        starts = self.first_site[layouts]
        value_index -= np.where(starts > 0, before[starts - 1], 0)
        groups: dict[tuple[tuple[int, ...], str], list[int]] = {}
        for place, number in enumerate(sites.tolist()):
            site = self._site(number)
            observation = site.name if site.kind is SiteKind.OBSERVE else ""
            groups.setdefault((site.shape, observation), []).append(place)
        return [
            NamedSites(layouts[places], value_index[places], shape, observation)
            for (shape, observation), places in groups.items()
        ]

    def observes(self, name: str) -> NDArray[np.bool_]:
        """Whether each layout has an observe of that name, shape ``(num_layouts,)``."""
        is_observe = (self._names == name) & (_numbers(self._tables, "sites", "kind", np.uint8) == SiteKind.OBSERVE)
        counts = self._per_layout(is_observe.astype(np.int64))
        return counts > 0

    @cached_property
    def ids(self) -> NDArray[np.uint64]:
        """Address id of each site."""
        return _numbers(self._tables, "sites", "id", np.uint64)

    @cached_property
    def instances(self) -> NDArray[np.int32]:
        """Instance of each site's address."""
        return _numbers(self._tables, "sites", "instance", np.int32)

    @cached_property
    def bases(self) -> list[str]:
        """Base address of each site."""
        bases = self._tables["bases"]["base"].to_pylist() if "bases" in self._tables else []
        return [bases[place] for place in _numbers(self._tables, "sites", "base", np.int32)]

    def address(self, site: int) -> str:
        """Full address of a site."""
        return format_address(self.bases[site], int(self.instances[site]))

    @cached_property
    def _names(self) -> NDArray[np.object_]:
        return np.array(self._column("name"), np.object_)

    @cached_property
    def _num_values(self) -> NDArray[np.int64]:
        kinds = _numbers(self._tables, "sites", "kind", np.uint8)
        sizes = np.array([np.prod(shape, dtype=np.int64) for shape in self._shapes], np.int64)
        is_observation = (kinds == SiteKind.OBSERVE) & (self._names != "")
        return np.where(is_observation, 0, sizes)

    @cached_property
    def _shapes(self) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._column("shape")]

    @cached_property
    def _sites(self) -> list[Site | None]:
        return [None] * len(self.ids)

    @cached_property
    def _families(self) -> list[str]:
        return self._column("family")

    @cached_property
    def _controlled(self) -> list[bool]:
        return self._column("controlled")

    @cached_property
    def _kinds(self) -> list[int]:
        return self._column("kind")

    @cached_property
    def _num_parameters(self) -> list[int]:
        return self._column("num_parameters")

    def _site(self, place: int) -> Site:
        site = self._sites[place]
        if site is None:
            site = self._sites[place] = Site(
                self.address(place),
                SiteKind(self._kinds[place]),
                self._controlled[place],
                self._names[place],
                self._families[place],
                self._shapes[place],
                self._num_parameters[place],
            )
        return site

    def _column(self, name: str) -> list[Any]:
        return cast("list[Any]", self._tables["sites"][name].to_pylist()) if "sites" in self._tables else []

    def _per_layout(self, per_site: NDArray[np.int64]) -> NDArray[np.int64]:
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(per_site[self.layout_sites])])
        sums: NDArray[np.int64] = np.diff(before[self.first_site])
        return sums


class LayoutSequence(Sequence[Layout]):
    """Layouts of a segment, built when touched.

    Parameters
    ----------
    dictionary
        Where they are built.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary

    def __len__(self) -> int:
        return len(self._dictionary.layout_ids)

    @overload
    def __getitem__(self, index: int) -> Layout: ...
    @overload
    def __getitem__(self, index: slice) -> list[Layout]: ...
    def __getitem__(self, index: int | slice) -> Layout | list[Layout]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self._dictionary.layout(place) for place in places]
        return self._dictionary.layout(places)

    def __iter__(self) -> Iterator[Layout]:
        return map(self._dictionary.layout, range(len(self)))


def _numbers(tables: Mapping[str, pa.Table], table: str, column: str, dtype: type[NumberT]) -> NDArray[NumberT]:
    """Read a numeric column; a table without rows has no file."""
    if table not in tables:
        return np.empty(0, dtype)
    return cast("NDArray[NumberT]", tables[table][column].to_numpy().astype(dtype, copy=False))
