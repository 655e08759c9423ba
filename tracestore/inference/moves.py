"""Markov moves on traces: rerun the simulator with some values changed, and score the result.

A move is a controller. It gives each draw of the rerun a value, and sums up what the log acceptance ratio needs:

* a value taken over from the current trace contributes ``log p_new - log p_current``; when the rerun cannot score it
  (it lies outside the new support) the move is rejected at once, because redrawing it would break reversibility;
* a fresh draw from the prior cancels against the target, in both directions;
* the values that a move changes contribute their own correction (`SingleSite`) or none (a symmetric walk).

Which sites are taken over, walked and drawn anew depends on their addresses and roles alone, so that the reverse move
treats them alike. The number of sites may change freely.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple, NoReturn

import numpy as np

from tracestore.inference.kernels import propose
from tracestore.simulators.runtime import StopTrace, Value
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.traces.trace import TraceStatus

__all__ = ["REJECTED", "BlockMove", "Entry", "Fresh", "Move", "Replay", "Role", "SingleSite", "role_of"]

REJECTED = "move rejected"
"""Failure text of a rerun that a move ended; never stored."""


class Role(IntEnum):
    """What block moves do with a site."""

    UNNAMED = 0
    """Part of the block that is redrawn from the prior."""
    NAMED = 1
    """Kept, unless the whole trace is redrawn."""
    WALKED = 2
    """Named and continuous: part of the joint random walk."""


class Entry(NamedTuple):
    """A draw of the current trace."""

    value: Value
    log_prob: float
    role: int


def role_of(site: Site, prior: Distribution, joint_names: frozenset[str] | None) -> Role:
    """Return the role of a site in block moves.

    Parameters
    ----------
    site
        The site.
    prior
        Its prior.
    joint_names
        Names that walk together; None for all named controlled continuous draws.
    """
    if not site.name:
        return Role.UNNAMED
    walks = site.is_controlled if joint_names is None else site.name in joint_names
    return Role.WALKED if walks and not prior.is_discrete else Role.NAMED


class Move(ABC):
    """Base of the moves: collects the draws of the rerun.

    Parameters
    ----------
    joint_names
        As in `role_of`.
    """

    __slots__ = ("entries", "is_rejected", "joint_names", "log_ratio", "rejected_at")

    def __init__(self, joint_names: frozenset[str] | None) -> None:
        self.joint_names = joint_names
        self.entries: dict[int, Entry] = {}
        self.log_ratio = 0.0
        self.is_rejected = False
        self.rejected_at = ""
        """Address at which the move was rejected during the rerun."""

    @abstractmethod
    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Give a draw of the rerun its value."""

    def _fresh(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        value = prior.sample(rng)
        log_prob = prior.log_prob(value)
        # most fresh draws of most simulators have no name
        role = role_of(site, prior, self.joint_names) if site.name else Role.UNNAMED
        self.entries[site.id] = Entry(value, log_prob, role)
        return value, log_prob

    def _rescored(self, site: Site, prior: Distribution, entry: Entry, value: Value, role: int) -> tuple[Value, float]:
        log_prob = prior.log_prob(value)
        if not log_prob > -math.inf:
            self._reject(site)
        before = entry.log_prob
        if log_prob == before and value is entry.value and role == entry.role:
            self.entries[site.id] = entry  # nothing has changed, as at most sites of most reruns
        else:
            self.log_ratio += log_prob - before
            self.entries[site.id] = Entry(value, log_prob, role)
        return value, log_prob

    def _reject(self, site: Site) -> NoReturn:
        # the flag stands even if foreign code between the draw and the runner swallows the exception
        self.is_rejected = True
        self.rejected_at = site.address
        raise StopTrace(TraceStatus.FAILED, REJECTED)


class Fresh(Move):
    """Draws everything from the prior: a starting point."""

    __slots__ = ()

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Draw from the prior."""
        return self._fresh(site, prior, rng)


class Replay(Move):
    """Gives every draw its recorded value.

    Parameters
    ----------
    joint_names
        As in `role_of`.
    values
        Values by address identity.
    """

    __slots__ = ("values",)

    def __init__(self, joint_names: frozenset[str] | None, values: Mapping[int, Value]) -> None:
        super().__init__(joint_names)
        self.values = values

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Give the recorded value; a draw without one ends the run."""
        value = self.values.get(site.id)
        if value is None:
            self._reject(site)
        role = role_of(site, prior, self.joint_names)
        return self._rescored(site, prior, Entry(value, 0.0, role), value, role)


class SingleSite(Move):
    """Changes one site; everything after it is taken over and rescored, or drawn anew where the path changed.

    Parameters
    ----------
    joint_names
        As in `role_of`.
    current
        Draws of the current trace by address identity.
    chosen
        Address identity of the site to change.
    kernel_share, scale
        As in `propose`.
    """

    __slots__ = ("changed", "chosen", "current", "kernel_share", "scale")

    def __init__(
        self,
        joint_names: frozenset[str] | None,
        current: dict[int, Entry],
        chosen: int,
        kernel_share: float,
        scale: float,
    ) -> None:
        super().__init__(joint_names)
        self.current = current
        self.chosen = chosen
        self.kernel_share = kernel_share
        self.scale = scale
        self.changed = ""
        """Address of the chosen site, once the rerun has reached it."""

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Take over, change, or draw anew."""
        ident = site.id
        entry = self.current.get(ident)
        if entry is None:
            return self._fresh(site, prior, rng)
        if self.changed:
            # an address may come under another name on another path
            role = role_of(site, prior, self.joint_names) if site.name else Role.UNNAMED
            return self._rescored(site, prior, entry, entry.value, role)
        if ident != self.chosen:
            # nothing before this site differs, so its prior does not either
            self.entries[ident] = entry
            return entry.value, entry.log_prob
        self.changed = site.address
        # the user keeps inference from choosing the values of uncontrolled sites
        share = self.kernel_share if site.is_controlled else 0.0
        moved = propose(prior, entry.value, entry.log_prob, rng, kernel_share=share, scale=self.scale)
        if moved.log_prob == -math.inf:
            self._reject(site)
        self.log_ratio += moved.correction
        self.entries[ident] = Entry(moved.value, moved.log_prob, entry.role)
        return moved.value, moved.log_prob


class BlockMove(Move):
    """Changes many sites at once: walks the joint block, redraws blocks from the prior.

    Parameters
    ----------
    joint_names
        As in `role_of`.
    current
        Draws of the current trace by address identity.
    steps
        Standard deviation of the joint walk by address identity; sites without one are taken over. Fixed, whatever
        the state of the chain.
    walk
        Whether the joint block walks.
    redraw_unnamed
        Whether unnamed sites are drawn anew.
    redraw_named
        Whether named sites are drawn anew.
    """

    __slots__ = ("current", "redraw", "steps", "walk")

    def __init__(
        self,
        joint_names: frozenset[str] | None,
        current: dict[int, Entry],
        steps: Mapping[int, Value],
        *,
        walk: bool,
        redraw_unnamed: bool,
        redraw_named: bool,
    ) -> None:
        super().__init__(joint_names)
        self.current = current
        self.steps = steps
        self.walk = walk
        self.redraw = (redraw_unnamed, redraw_named, redraw_named)

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Take over, walk, or draw anew."""
        entry = self.current.get(site.id)
        if entry is None:
            return self._fresh(site, prior, rng)
        role = entry.role
        if role != role_of(site, prior, self.joint_names):
            # one address under two roles: the reverse move would treat it differently
            self._reject(site)
        if self.redraw[role]:
            return self._fresh(site, prior, rng)
        if self.walk and role == Role.WALKED:
            step = self.steps.get(site.id)
            if step is not None:
                return self._rescored(site, prior, entry, _walked(entry.value, step, rng), role)
        return self._rescored(site, prior, entry, entry.value, role)


def _walked(value: Value, step: Value, rng: np.random.Generator) -> Value:
    if isinstance(value, np.ndarray):
        return np.asarray(value + step * rng.standard_normal(value.shape))
    return value + step * float(rng.standard_normal())
