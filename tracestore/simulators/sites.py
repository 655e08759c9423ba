"""Interning of sites and layouts: one object per identity, so that recording a draw is a few dictionary look-ups."""

from typing import TYPE_CHECKING

from tracestore.traces.address import base_address, format_address
from tracestore.traces.layout import MAX_OBSERVE_PARAMETERS, Layout, Site, SiteKind

if TYPE_CHECKING:
    from tracestore.traces.distributions import Distribution

__all__ = ["SiteTable", "intern_layout"]

MAX_INTERNED_SITES = 4_000_000
"""Site references held by interned layouts before the table starts anew; bounds memory for unbounded simulators."""

_layouts: dict[tuple[int, ...], Layout] = {}
_interned_sites = 0


class SiteTable:
    """All sites met in this process, found by what distinguishes them."""

    def __init__(self) -> None:
        self._by_base: dict[tuple[object, ...], list[Site]] = {}

    def site(
        self,
        place: str,
        suffix: str,
        instance: int,
        kind: SiteKind,
        control: bool,
        name: str,
        prior: "Distribution | None",
        shape: tuple[int, ...],
    ) -> Site:
        """Return the site for the ``instance``-th visit to a place, creating it at the first.

        Parameters
        ----------
        place
            Place in the program.
        suffix
            Suffix of the base address: family and size.
        instance
            Visit number within the trace, from 1.
        kind, control, name
            As in `Site`.
        prior
            Prior or likelihood; None for a tag.
        shape
            Shape of the value of a tag; a prior brings its own.
        """
        key = (place, suffix, kind, control, name)
        sites = self._by_base.get(key)
        if sites is None:
            sites = self._by_base[key] = []
        while len(sites) < instance:
            sites.append(_new_site(place, suffix, len(sites) + 1, kind, control, name, prior, shape))
        return sites[instance - 1]


def intern_layout(sites: list[Site]) -> Layout:
    """Return the layout of interned sites, one object per sequence."""
    global _interned_sites
    key = tuple(map(id, sites))
    layout = _layouts.get(key)
    if layout is None:
        if _interned_sites > MAX_INTERNED_SITES:
            _layouts.clear()
            _interned_sites = 0
        layout = _layouts[key] = Layout(tuple(sites))
        _interned_sites += len(sites)
    return layout


def _new_site(
    place: str,
    suffix: str,
    instance: int,
    kind: SiteKind,
    control: bool,
    name: str,
    prior: "Distribution | None",
    shape: tuple[int, ...],
) -> Site:
    number = 0 if prior is None else prior.num_parameters
    stored = 0 if kind is SiteKind.OBSERVE and number > MAX_OBSERVE_PARAMETERS else number
    return Site(
        address=format_address(base_address(place, suffix), instance),
        kind=kind,
        is_controlled=control and kind is SiteKind.SAMPLE,
        name=name,
        family="" if prior is None else prior.family,
        shape=shape if prior is None else prior.shape,
        num_parameters=stored,
    )
