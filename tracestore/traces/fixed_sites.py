"""Named sites that every trace has once, so that their values are the columns of an array; knows no store, no tensors.

Sites of one name lie at the same place in all traces of a layout. So layouts are checked one by one, and the places of
the values follow for all traces at once.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, TraceTypeMismatchError, UnknownAddressError
from tracestore.traces.layout import Layout, Site, SiteKind

__all__ = ["FixedSites", "require_names", "value_places"]

_MOST_LISTED = 12
"""Names that a message lists."""

_MOST_REMEMBERED = 2**12
"""Layouts whose sites were found: minibatches have the same ones again and again, some with thousands of sites."""


class FixedSites:
    """Sites that are asked for by name; layouts that lack one, or have it twice, are refused.

    Parameters
    ----------
    names
        Names or full addresses of draws and tags.
    observations
        Names of observations that every trace must have.
    layouts
        Gives all layouts, for messages.

    Raises
    ------
    InvalidInputError
        When there is no name, one is there twice, or ``names`` is a text.

    Examples
    --------
    >>> mu = Site("gum:mu~Normal#1", SiteKind.SAMPLE, True, "mu", "Normal", (), 2)
    >>> spin = Site("gum:spin~Normal[3]#1", SiteKind.SAMPLE, True, "spin", "Normal", (3,), 6)
    >>> layout = Layout((mu, spin))
    >>> sites = FixedSites(["spin", "mu"], layouts=lambda: [layout])
    >>> sites.offsets(layout, trace=0).tolist(), sites.columns
    ([1, 2, 3, 0], ('spin[0]', 'spin[1]', 'spin[2]', 'mu'))
    """

    def __init__(
        self,
        names: Collection[str],
        observations: Collection[str] = (),
        *,
        layouts: Callable[[], Iterable[Layout]],
    ) -> None:
        self.names = require_names(names, "names")
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Shape of the value of each name; empty before the first layout."""
        self._observations = frozenset(observations)
        self._wanted = frozenset(self.names)
        self._layouts = layouts
        self._first_trace = -1

    @property
    def columns(self) -> tuple[str, ...]:
        """One name for each number: ``mu`` for a scalar, ``spin[0]`` and so on for a vector."""
        return tuple(
            name if shape == () else f"{name}[{','.join(map(str, place))}]"
            for name, shape in self.shapes.items()
            for place in product(*map(range, shape))
        )

    def check(self, layout: Layout, trace: int) -> list[int]:
        """Find the site of each name in a layout.

        Parameters
        ----------
        layout
            The layout.
        trace
            Index of a trace that has it, for messages.

        Returns
        -------
        list of int
            Positions of the sites, in order of names.

        Raises
        ------
        UnknownAddressError
            When no layout has a site of a name.
        TraceTypeMismatchError
            When this layout lacks a site or has several, or its value has another shape than in layouts before.
        InvalidInputError
            When a name is that of an observation, or the layout lacks an observation.
        """
        found, observed = _find(layout, self._wanted)
        missing = [name for name in self.names if name not in found]
        if missing:
            raise self._missing_site(missing[0], trace)
        if not self._observations <= observed:
            missing = sorted(self._observations - observed)
            message = (
                f"Trace {trace} has no observation {missing[0]!r}; ask for observations that every trace has, or "
                "choose traces that have it."
            )
            raise InvalidInputError(message, name=missing[0], trace=trace)
        for name, positions in found.items():
            self._require_one(name, [layout.sites[position] for position in positions], trace)
        shapes = {name: layout.sites[found[name][0]].shape for name in self.names}
        self._require_shapes(shapes, trace)
        return [found[name][0] for name in self.names]

    def offsets(self, layout: Layout, trace: int) -> NDArray[np.int64]:
        """Find where the values lie within a trace of a layout; arguments and errors are those of `check`.

        Returns
        -------
        ndarray of int64
            One place for each of `columns`, shape ``(num_columns,)``.
        """
        starts = layout.value_offsets
        parts = [np.arange(starts[position], starts[position + 1]) for position in self.check(layout, trace)]
        return np.concatenate(parts)

    def _missing_site(self, name: str, trace: int) -> Exception:
        """Say whether a name exists elsewhere, and what every trace has."""
        counts: Counter[str] = Counter()
        unknown, num_layouts = True, 0
        for layout in self._layouts():
            num_layouts += 1
            labels = Counter(label for site in layout.sites if (label := _label(site)))
            counts.update(label for label, count in labels.items() if count == 1)
            unknown = unknown and not any(name in (site.name, site.address) for site in layout.sites)
        fixed = [label for label, count in counts.items() if count == num_layouts]
        fixed.sort(key=lambda label: "#" in label)  # names before addresses
        hint = f"sites that every trace has once: {_listed(fixed)}."
        if unknown:
            near = get_close_matches(name, counts, 1)
            asked = f"did you mean {near[0]!r}? S" if near else "s"
            message = f"No trace has a site {name!r}; {asked}{hint[1:]}"
            return UnknownAddressError(message, name=name)
        message = (
            f"Trace {trace} has no site {name!r}, which others have; choose traces that have it, or among the {hint}"
        )
        return TraceTypeMismatchError(message, name=name, trace=trace)

    @staticmethod
    def _require_one(name: str, sites: Sequence[Site], trace: int) -> None:
        if len(sites) > 1:
            message = (
                f"Trace {trace} has {len(sites)} sites {name!r}; ask for one by its full address: "
                f"{_listed([site.address for site in sites])}."
            )
            raise TraceTypeMismatchError(message, name=name, trace=trace)
        if sites[0].kind is SiteKind.OBSERVE and sites[0].name:
            message = f"{name!r} is an observation; ask for it in `observations`, not in `names`."
            raise InvalidInputError(message, argument="names", name=name)

    def _require_shapes(self, shapes: dict[str, tuple[int, ...]], trace: int) -> None:
        if not self.shapes:
            self.shapes, self._first_trace = shapes, trace
        for name, shape in shapes.items():
            if shape != self.shapes[name]:
                message = (
                    f"Site {name!r} has shape {shape} in trace {trace} and {self.shapes[name]} in trace "
                    f"{self._first_trace}; choose traces in which it has one shape, or other sites."
                )
                raise TraceTypeMismatchError(message, name=name, trace=trace)


def value_places(
    layouts: Sequence[Layout],
    layout_index: NDArray[np.integer],
    names: Collection[str],
    *,
    observations: Collection[str] = (),
    traces: ArrayLike | None = None,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Find where the values of named sites lie in the flat values of a batch.

    Parameters
    ----------
    layouts
        The layouts of the batch.
    layout_index
        Position of each trace's layout, shape ``(N,)``.
    names
        Names or full addresses of draws and tags.
    observations
        Names of observations that every trace must have.
    traces
        What messages call each trace, shape ``(N,)``; its row by default.

    Returns
    -------
    places : ndarray of int64
        Shape ``(N, num_columns)``: ``values[places]`` are the columns. Without traces one column per name.
    columns : tuple of str
        Name of each column.

    Raises
    ------
    UnknownAddressError
        When no trace has a site of a name.
    TraceTypeMismatchError
        When a trace lacks a site or has several of a name, or values differ in shape.
    InvalidInputError
        When names are missing or those of observations, or a trace lacks an observation.

    Examples
    --------
    >>> mu = Site("gum:mu~Normal#1", SiteKind.SAMPLE, True, "mu", "Normal", (), 2)
    >>> extra = Site("gum:extra~Normal#1", SiteKind.SAMPLE, True, "extra", "Normal", (), 2)
    >>> places, columns = value_places([Layout((mu,)), Layout((extra, mu))], np.array([0, 1, 0]), ["mu"])
    >>> places.tolist(), columns
    ([[0], [2], [3]], ('mu',))
    """
    used, first = np.unique(layout_index, return_index=True)
    sites = FixedSites(names, observations, layouts=lambda: [layouts[number] for number in used])
    if not len(used):
        return np.empty((0, len(sites.names)), np.int64), sites.names
    called = first if traces is None else np.asarray(traces)[first]
    offsets = np.stack([sites.offsets(layouts[number], int(trace)) for number, trace in zip(used, called, strict=True)])
    sizes = np.array([layouts[number].num_values for number in used], np.int64)
    row = np.searchsorted(used, layout_index)
    ends = np.cumsum(sizes[row])
    return (ends - sizes[row])[:, None] + offsets[row], sites.columns


def require_names(names: Collection[str], argument: str) -> tuple[str, ...]:
    """Refuse a text in place of names, no name, and a name that is there twice.

    Parameters
    ----------
    names
        What the caller gave.
    argument
        The name of the argument.

    Raises
    ------
    InvalidInputError
        When the names are not acceptable.

    Examples
    --------
    >>> require_names(["mu", "tau"], "names")
    ('mu', 'tau')
    """
    if isinstance(names, str):
        message = f"`{argument}` must be a list of names; got the text {names!r}. Write [{names!r}]."
        raise InvalidInputError(message, argument=argument, found=names)
    asked = tuple(names)
    if not asked:
        message = f"`{argument}` must have at least one name; got none."
        raise InvalidInputError(message, argument=argument)
    repeated = [name for name, count in Counter(asked).items() if count > 1]
    if repeated:
        message = f"`{argument}` has {repeated[0]!r} twice; give each name once."
        raise InvalidInputError(message, argument=argument, found=repeated[0])
    return asked


@lru_cache(_MOST_REMEMBERED)
def _find(layout: Layout, wanted: frozenset[str]) -> tuple[dict[str, list[int]], frozenset[str]]:
    """Find the positions of wanted names and addresses, and the names of observes, in one pass over all sites."""
    found: dict[str, list[int]] = {}
    observed = set()
    for position, site in enumerate(layout.sites):
        if site.name in wanted:
            found.setdefault(site.name, []).append(position)
        elif site.address in wanted:
            found.setdefault(site.address, []).append(position)
        if site.kind is SiteKind.OBSERVE:
            observed.add(site.name)
    return found, frozenset(observed)


def _label(site: Site) -> str:
    """Name or address by which a site can be asked for; empty for observations."""
    if site.kind is SiteKind.OBSERVE and site.name:
        return ""
    return site.name or site.address


def _listed(labels: Sequence[str]) -> str:
    more = len(labels) - _MOST_LISTED
    shown = ", ".join(map(repr, labels[:_MOST_LISTED]))
    return (shown or "none") + (f" and {more} more" if more > 0 else "")
