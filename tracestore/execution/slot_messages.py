"""What a simulator's process and its parent tell each other: small, since sites and observations are sent but once.

Both ends of a pipe count the sites that went through it. Observations that the parent gave come back as names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.simulators.sites import intern_layout
from tracestore.traces.layout import Site
from tracestore.traces.trace import Trace, TraceStatus

__all__ = ["PackedTrace", "SitesSeen", "SitesSent", "failed_trace"]

Observations = Mapping[str, NDArray[np.generic]]

_known: dict[Site, Site] = {}
"""One object for all sites that are equal, whichever process they come from."""


@dataclass(slots=True)
class SitesSent:
    """Numbers the sites of this process as they are sent."""

    _numbers: dict[int, int] = field(default_factory=dict)
    _new: list[Site] = field(default_factory=list)

    def number(self, site: Site) -> int:
        """Return the number of a site; a new one goes with the next message."""
        found = self._numbers.get(id(site))
        if found is None:
            found = self._numbers[id(site)] = len(self._numbers)
            self._new.append(site)
        return found

    def take_new(self) -> tuple[Site, ...]:
        """Return the sites that have not been sent yet."""
        if not self._new:
            return ()
        new, self._new = tuple(self._new), []
        return new


@dataclass(slots=True)
class SitesSeen:
    """The sites that came through a pipe."""

    _sites: list[Site] = field(default_factory=list)

    def learn(self, new: Sequence[Site]) -> None:
        """Take note of the new sites of a message."""
        self._sites += [_known.setdefault(site, site) for site in new]

    def __getitem__(self, number: int) -> Site:
        return self._sites[number]


class PackedTrace(NamedTuple):
    """A trace without what the parent knows."""

    sites: NDArray[np.int64]
    """Numbers of its sites."""
    given: tuple[str, ...]
    """Observations that have the very values which were given."""
    trace: Trace
    """The rest."""

    @classmethod
    def of(cls, trace: Trace, number: Callable[[Site], int], given: Observations | None) -> "PackedTrace":
        """Pack a trace of a run with some given observations."""
        known = given or {}
        same = tuple(name for name, value in trace.observations.items() if value is known.get(name))
        rest = {name: value for name, value in trace.observations.items() if name not in same}
        numbers = np.fromiter(map(number, trace.sites), np.int64, len(trace.sites))
        return cls(numbers, same, replace(trace, layout=_NOTHING, observations=rest))

    def unpack(self, sites: SitesSeen, given: Observations | None) -> Trace:
        """Return the whole trace."""
        layout = intern_layout([sites[number] for number in self.sites.tolist()])
        known = {name: given[name] for name in self.given} if given is not None else {}
        return replace(self.trace, layout=layout, observations=known | self.trace.observations)


def failed_trace(stream: int, failure: str, seconds: float) -> Trace:
    """Return the trace of a run of which nothing is left but how it ended."""
    nothing = np.empty(0)
    return Trace(
        intern_layout([]), nothing, nothing, nothing,
        stream=stream, status=TraceStatus.FAILED, failure=failure, seconds=seconds,
    )  # fmt: skip


_NOTHING = intern_layout([])
