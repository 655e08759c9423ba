"""Dictionary of a segment: its sites and layouts as flat columns, and layouts built from them when touched."""

import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tracestore.errors import FormatError
from tracestore.formats.blocks import BlockFile
from tracestore.traces.address import address_id, format_address
from tracestore.traces.layout import Layout, Site, SiteKind

__all__ = ["Dictionary", "LayoutSequence", "LooseLayouts", "NamedSites", "dictionary_tables"]

NumberT = TypeVar("NumberT", bound=np.generic)


def dictionary_tables(
    layouts: Sequence[Layout], loose: Sequence[Layout]
) -> tuple[dict[str, dict[str, pa.Array]], NDArray[np.int32]]:
    """Write layouts as tables: file name (without suffix) to columns; and the sites of loose layouts, flat.

    Parameters
    ----------
    layouts
        Distinct layouts of several states, in the order in which they are numbered.
    loose
        Those of a single state, which follow in number.
    """
    sites: dict[Site, int] = {}
    # most layouts share the very same site objects: their identity saves hashing ten fields a million times
    known: dict[int, int] = {}
    index: list[int] = []
    for layout in (*layouts, *loose):
        for site in layout.sites:
            place = known.get(id(site))
            if place is None:
                place = known[id(site)] = sites.setdefault(site, len(sites))
            index.append(place)
    num_regular = sum(layout.num_sites for layout in layouts)
    bases: dict[str, int] = {}
    base_index = [bases.setdefault(site.base, len(bases)) for site in sites]
    tables = {
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
        "layout_sites": {"site": pa.array(index[:num_regular], pa.int32())},
    }
    return tables, np.array(index[num_regular:], np.int32)


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


@dataclass(frozen=True, slots=True, eq=False)
class LooseLayouts:
    """Layouts of a single state: their sites stand in a column, so that no table grows with them."""

    ids: NDArray[np.uint64]
    first: NDArray[np.int64]
    """Where the sites of each begin in the column, and the number of sites, shape ``(num_loose + 1,)``."""
    file: BlockFile | None
    """The column; None when there are no sites."""

    def sites(self, start: int, stop: int) -> NDArray[np.int32]:
        """Read a piece of the column."""
        out = np.empty(stop - start, np.int32)
        if self.file is not None:
            self.file.copy_to(out, start)
        return out


class Dictionary:
    """Sites and layouts of a segment, read from its tables.

    Parameters
    ----------
    tables
        `dictionary_tables`, read back.
    loose
        The layouts of a single state.
    known
        Layouts by id, shared between segments; read and added to, loose ones excepted.
    """

    def __init__(self, tables: Mapping[str, pa.Table], loose: LooseLayouts, known: MutableMapping[int, Layout]) -> None:
        self._tables = tables
        self._known = known
        self.loose = loose
        self.layout_ids: NDArray[np.uint64] = _numbers(tables, "layouts", "id", np.uint64)
        """Of the regular layouts."""
        self.num_sites: NDArray[np.int64] = _numbers(tables, "layouts", "num_sites", np.int64)
        self.layout_sites: NDArray[np.int32] = _numbers(tables, "layout_sites", "site", np.int32)
        """Site of each position of each regular layout, flat."""
        self.first_site = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.num_sites)])
        if self.first_site[-1] != len(self.layout_sites):
            message = (
                f"The layouts count {self.first_site[-1]} sites, the table of their sites has {len(self.layout_sites)}."
            )
            raise FormatError(message)

    @property
    def layouts(self) -> "LayoutSequence":
        """The layouts, built when touched."""
        return LayoutSequence(self)

    def layout(self, index: int) -> Layout:
        """Build a layout, or find it among those known."""
        identity = self.layout_id(index)
        found = self._known.get(identity)
        if found is None:
            found = self._build(index)
            # the id was hashed when the layout was written; `problems` compares them
            vars(found)["id"] = identity
            if index < len(self.layout_ids):
                self._known[identity] = found
        return found

    def layout_id(self, index: int) -> int:
        """Id of a layout, regular or loose."""
        num_regular = len(self.layout_ids)
        return int(self.layout_ids[index] if index < num_regular else self.loose.ids[index - num_regular])

    def _build(self, index: int) -> Layout:
        num_regular = len(self.layout_ids)
        if index < num_regular:
            places = self.layout_sites[self.first_site[index] : self.first_site[index + 1]]
        else:
            places = self.loose.sites(*self.loose.first[index - num_regular : index - num_regular + 2].tolist())
        return Layout(tuple(map(self._site, places.tolist())))

    @cached_property
    def layout_sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Values, log probs and parameters of a trace of each regular layout."""
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
        if not is_found.any():
            return []
        sites_of, first = self._all_layouts()
        positions = np.flatnonzero(is_found[sites_of])
        layouts = np.searchsorted(first, positions, "right") - 1
        is_last = np.append(layouts[1:] != layouts[:-1], True)[: len(layouts)]
        layouts, positions = layouts[is_last].astype(np.int32), positions[is_last]
        before = np.cumsum(self._num_values[sites_of])
        sites = sites_of[positions]
        value_index = before[positions] - self._num_values[sites]
        starts = first[layouts]
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
        """Whether each layout has an observe of that name, shape ``(num_layouts,)``, loose ones last."""
        is_observe = (self._names == name) & (_numbers(self._tables, "sites", "kind", np.uint8) == SiteKind.OBSERVE)
        sites_of, first = self._all_layouts()
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_observe[sites_of])])
        return np.diff(before[first]) > 0

    def _all_layouts(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Sites of all layouts, flat, and where those of each begin; reads the column of the loose ones."""
        num_loose = int(self.loose.first[-1])
        if not num_loose and len(self.loose.first) == 1:
            return self.layout_sites, self.first_site
        sites = np.concatenate([self.layout_sites, self.loose.sites(0, num_loose)])
        return sites, np.concatenate([self.first_site, self.first_site[-1] + self.loose.first[1:]])

    def trace_types(self) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64]]:
        """Trace type of each regular layout, where its controlled addresses begin, and their ids, flat."""
        kinds = _numbers(self._tables, "sites", "kind", np.uint8)
        is_controlled = (kinds == SiteKind.SAMPLE) & _numbers(self._tables, "sites", "controlled", np.bool_)
        sizes = self._per_layout(is_controlled.astype(np.int64))
        sites = self.layout_sites[is_controlled[self.layout_sites]]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        return _numbers(self._tables, "layouts", "trace_type", np.uint64), starts, self.ids[sites]

    @cached_property
    def ids(self) -> NDArray[np.uint64]:
        """Address id of each site."""
        return _numbers(self._tables, "sites", "id", np.uint64)

    @cached_property
    def instances(self) -> NDArray[np.int32]:
        """Instance of each site's address."""
        return _numbers(self._tables, "sites", "instance", np.int32)

    @property
    def bases(self) -> pa.Array:
        """Base address of each site, as text."""
        if "bases" not in self._tables:
            return pa.array([], pa.string())
        return pc.take(self._bases, pa.array(_numbers(self._tables, "sites", "base", np.int32)))

    def address(self, site: int) -> str:
        """Full address of a site."""
        return format_address(self._bases[int(self._base_of[site])].as_py(), int(self.instances[site]))

    @cached_property
    def _bases(self) -> pa.Array:
        return self._tables["bases"]["base"].combine_chunks()

    @cached_property
    def _base_of(self) -> NDArray[np.int32]:
        return _numbers(self._tables, "sites", "base", np.int32)

    @cached_property
    def _names(self) -> NDArray[np.object_]:
        return np.array(self._column("name"), np.object_)

    @cached_property
    def _num_values(self) -> NDArray[np.int64]:
        kinds = _numbers(self._tables, "sites", "kind", np.uint8)
        sizes = np.array([math.prod(shape) for shape in self._shapes], np.int64)
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

    def sites(self) -> list[Site]:
        """All sites, in order of first appearance."""
        return [self._site(place) for place in range(len(self._sites))]

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
        return len(self._dictionary.layout_ids) + len(self._dictionary.loose.ids)

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
