"""Proposals of many chains at once, and the controller that reruns a batched program under them.

Values of all chains stand in one table, a row a chain and a column a number. Continuous numbers walk in *coordinates*:
the logarithm for families on the positive numbers, the number itself otherwise; angles are wrapped around.

Each kernel keeps the posterior: what it does (joint walk or one site, which site, walk or prior) is chosen without a
look at the state; the walk is symmetric in coordinates, so its correction is the change of the logarithms of positive
numbers; a site redrawn from its prior, whose parents did not change, is corrected by the ratio of its prior densities.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.traces.distributions.row_draws import Rows
from tracestore.traces.layout import Layout, Site, SiteKind

__all__ = ["BatchMove", "Proposal", "SiteTable", "propose_single", "propose_walk"]

_POSITIVE = frozenset({"Exponential", "Gamma", "LogNormal", "Weibull"})
_DISCRETE = frozenset({"Bernoulli", "Binomial", "Categorical", "Poisson"})

Table = NDArray[np.float64]


class SiteTable:
    """Which columns of the table belong to which draw, and how they move.

    Parameters
    ----------
    layout
        Layout of the traces of all chains.
    walk_names
        Names of the draws that walk together; None for all named controlled continuous draws.

    Examples
    --------
    >>> mu = Site("p:mu~Normal#1", SiteKind.SAMPLE, True, "mu", "Normal", (2,), 4)
    >>> table = SiteTable(Layout((mu,)), None)
    >>> table.columns.tolist(), table.site_of_column.tolist()
    ([0, 1], [0, 0])
    """

    def __init__(self, layout: Layout, walk_names: frozenset[str] | None) -> None:
        self.positions = [index for index, site in enumerate(layout.sites) if site.kind is SiteKind.SAMPLE]
        self.sites = [layout.sites[position] for position in self.positions]
        bounds = layout.value_offsets
        self.slices = [slice(int(bounds[position]), int(bounds[position + 1])) for position in self.positions]
        walks = [_walks(site, walk_names) for site in self.sites]
        self.number = {site.id: index for index, site in enumerate(self.sites)}
        self.can_step = np.array([site.is_controlled and not _is_discrete(site) for site in self.sites], np.bool_)
        """Whether a draw has a local step of its own."""
        numbers = [index for index, part in enumerate(self.slices) for _ in range(part.start, part.stop)]
        steps = [index for index in numbers if self.can_step[index] or walks[index]]
        self.site_of_column = np.array(steps, np.int64)
        """Draw of each column that can walk."""
        self.columns = np.array(
            [
                column
                for index, part in enumerate(self.slices)
                if self.can_step[index] or walks[index]
                for column in range(part.start, part.stop)
            ],
            np.int64,
        )
        """Columns of the table that can walk."""
        self.in_joint = np.array([walks[index] for index in steps], np.bool_)
        """Which of them walk together."""
        self.is_positive = np.array([self.sites[index].family in _POSITIVE for index in steps], np.bool_)
        self.is_angle = np.array([self.sites[index].family == "VonMises" for index in steps], np.bool_)
        self.sizes = np.array([part.stop - part.start for part in self.slices], np.int64)

    def coordinates(self, table: Table) -> Table:
        """Read the columns that walk as coordinates, shape ``(num_chains, len(columns))``."""
        numbers = table[:, self.columns]
        if self.is_positive.any():
            numbers[:, self.is_positive] = np.log(numbers[:, self.is_positive])
        return numbers

    def moved(self, table: Table, coordinates: Table, mine: NDArray[np.bool_]) -> tuple[Table, NDArray[np.float64]]:
        """Return a table with other coordinates, and the log density of the way back less that of the way there.

        Parameters
        ----------
        table
            Where the chains stand.
        coordinates
            Where they go, shape ``(num_chains, len(columns))``.
        mine
            Which coordinates walk, broadcast to their shape; the other numbers stay as they are, to the last bit.
        """
        new, old = coordinates.copy(), table[:, self.columns]
        correction = np.zeros(len(table))
        positive, angle = self.is_positive, self.is_angle
        if positive.any():
            walked = np.broadcast_to(mine, new.shape)[:, positive]
            correction = np.where(walked, new[:, positive] - np.log(old[:, positive]), 0.0).sum(axis=1)
            with np.errstate(over="ignore", under="ignore"):
                new[:, positive] = np.exp(new[:, positive])
        if angle.any():
            new[:, angle] -= 2.0 * math.pi * np.round(new[:, angle] / (2.0 * math.pi))
        moved = table.copy()
        moved[:, self.columns] = np.where(mine, new, old)
        return moved, correction


@dataclass(slots=True)
class Proposal:
    """Where each chain wants to go."""

    table: Table
    """Proposed values, a row a chain."""
    correction: NDArray[np.float64]
    """Log density of the way back less that of the way there, by chain, without redrawn sites."""
    redrawn: NDArray[np.int64]
    """Number of the draw that comes anew from its prior, by chain; -1 for none."""
    chosen: NDArray[np.int64]
    """Number of the draw that changes, by chain; -1 when several do."""


def propose_walk(sites: SiteTable, table: Table, steps: Table) -> Proposal:
    """Propose a joint walk.

    Parameters
    ----------
    sites
        What can walk.
    table
        Where the chains stand.
    steps
        What to add to the coordinates that walk together, shape ``(num_chains, sites.in_joint.sum())``.
    """
    coordinates = sites.coordinates(table)
    coordinates[:, sites.in_joint] += steps
    moved, correction = sites.moved(table, coordinates, sites.in_joint)
    none = np.full(len(table), -1)
    return Proposal(moved, correction, none, none)


def propose_single(
    sites: SiteTable, table: Table, scales: NDArray[np.float64], kernel_share: float, rng: np.random.Generator
) -> Proposal:
    """Propose a change of one draw for each chain: a local step, or a new draw from the prior.

    Parameters
    ----------
    sites
        The draws.
    table
        Where the chains stand.
    scales
        Standard deviation of the step in each coordinate, shape ``(len(sites.columns),)``.
    kernel_share
        Probability of the step where there is one.
    rng
        Random numbers.
    """
    num_chains = len(table)
    chosen = rng.integers(len(sites.sites), size=num_chains)
    is_step = (rng.random(num_chains) < kernel_share) & sites.can_step[chosen]
    redrawn = np.where(is_step, -1, chosen)
    if not is_step.any():
        return Proposal(table.copy(), np.zeros(num_chains), redrawn, chosen)
    coordinates = sites.coordinates(table)
    steps = rng.standard_normal(coordinates.shape) * scales
    mine = is_step[:, None] & (sites.site_of_column == chosen[:, None])
    moved, correction = sites.moved(table, coordinates + steps, mine)
    return Proposal(moved, correction, redrawn, chosen)


class BatchMove:
    """Gives a batched program the proposed values of all chains.

    A value outside of its support rejects the proposal of its chain; the program then goes on with the value that
    stands, or one from the prior, so that it never meets a value that cannot be.

    Parameters
    ----------
    sites
        The draws.
    standing
        Values that stand, a row a chain.
    proposal
        Where the chains want to go.
    """

    def __init__(self, sites: SiteTable, standing: Table, proposal: Proposal) -> None:
        self.sites = sites
        self.standing = standing
        self.proposal = proposal
        self.is_rejected = np.zeros(len(standing), np.bool_)
        """Whether a proposal left the support, by chain."""

    def draw_rows(
        self, site: Site, rows: Rows, rng: np.random.Generator
    ) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
        """Give the proposed values, with new draws where they are asked for."""
        number = self.sites.number.get(site.id)
        if number is None:  # the layout has changed, which is refused when the run is over
            drawn = rows.sample(rng)
            return drawn, rows.log_prob(drawn)
        values = self._column(self.proposal.table, number, rows)
        fresh = self.proposal.redrawn == number
        if fresh.any():
            values[fresh] = rows.sample(rng)[fresh]
        log_probs = rows.log_prob(values)
        outside = ~(log_probs > -math.inf)
        if outside.any():
            self.is_rejected |= outside
            values[outside] = self._column(self.standing, number, rows)[outside]
            still = ~(rows.log_prob(values) > -math.inf)
            if still.any():
                values[still] = rows.sample(rng)[still]
            log_probs = rows.log_prob(values)
        return values, log_probs

    def _column(self, table: Table, number: int, rows: Rows) -> NDArray[np.generic]:
        values = table[:, self.sites.slices[number]].reshape(len(table), *rows.shape)
        is_whole = rows.prior.is_discrete and not rows.shape
        return values.astype(np.int64 if is_whole else np.float64)


def _walks(site: Site, walk_names: frozenset[str] | None) -> bool:
    if _is_discrete(site) or not site.name:
        return False
    return site.is_controlled if walk_names is None else site.name in walk_names


def _is_discrete(site: Site) -> bool:
    family = site.family
    while family.startswith("Mixture("):  # all components are discrete, or none is
        family = family[len("Mixture(") :]
    return family.split("(")[0].split(",")[0].rstrip(")") in _DISCRETE
