"""The steps of one epoch: a line of atoms, cut into pieces that are dealt in turns; and how ranks share a step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.samplers.atoms import AtomCut

__all__ = ["EpochPlan", "longest_first"]

_BLOCK = 2**17
"""Atoms that are looked at at once."""

_MANY_ROUNDS = 64
"""Rounds in which atoms are dealt to ranks; each takes as long as a hundred atoms."""


@dataclass(frozen=True, slots=True, eq=False)
class EpochPlan:
    """A line of atoms and the steps cut from it; traces are numbered among the selected ones.

    Examples
    --------
    >>> from tracestore.samplers.atoms import RunTable
    >>> table = RunTable(np.array([0]), np.array([10]), np.array([1.0]), np.array([7], np.uint64))
    >>> epoch = EpochPlan(AtomCut(table, 2, None), np.array([3, 0, 2, 1, 4]), np.array([0, 2, 5]), np.array([1, 0]))
    >>> epoch.step(0).tolist(), epoch.size(0), epoch.steps_of_traces().tolist()
    ([1, 2, 4], 6, [1, 1, 0, 0, 0, 0, 1, 1, 0, 0])
    """

    cut: AtomCut
    """The atoms."""
    line: NDArray[np.integer]
    """Atoms, one bucket after the other; an incomplete one is the last."""
    starts: NDArray[np.int64]
    """Where each piece begins in the line, and where the last ends."""
    turns: NDArray[np.int64]
    """Which piece comes at each step."""

    def step(self, step: int) -> NDArray[np.int64]:
        """Choose the atoms of a step, ascending."""
        piece = self.turns[step]
        return np.sort(self.line[self.starts[piece] : self.starts[piece + 1]]).astype(np.int64)

    def size(self, step: int) -> int:
        """Count the traces of a step."""
        piece = self.turns[step]
        room = int(self.starts[piece + 1] - self.starts[piece]) * self.cut.micro
        # the one atom that may be incomplete is the last of the line
        missing = self.cut.num_atoms * self.cut.micro - self.cut.table.num_traces
        return room - missing if piece == len(self.turns) - 1 else room

    def deal(self, step: int, num_ranks: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose the traces of a step and the rank of each, for all ranks at once.

        Parameters
        ----------
        step
            Step within the epoch, from 0.
        num_ranks
            Ranks that share it.

        Returns
        -------
        traces, ranks : ndarray of int64
            Shape ``(n,)`` each.
        """
        atoms = self.step(step)
        ranks = longest_first(self.cut.costs(atoms), num_ranks) if num_ranks > 1 else np.zeros(len(atoms), np.int64)
        # members come in this order: pure atoms first
        is_pure = atoms < self.cut.num_pure
        sizes = self.cut.sizes(atoms)
        by_trace = [np.repeat(ranks[kind], sizes[kind]) for kind in (is_pure, ~is_pure)]
        return self.cut.members(atoms), np.concatenate(by_trace)

    def steps_of_traces(self) -> NDArray[np.int32]:
        """Find the step of every trace; shape ``(N,)``, in store order."""
        num_steps = len(self.turns)
        step_of_piece = np.empty(num_steps, np.int32)
        step_of_piece[self.turns] = np.arange(num_steps, dtype=np.int32)
        step_of_atom = np.empty(len(self.line), np.int32)
        step_of_atom[self.line] = np.repeat(step_of_piece, np.diff(self.starts))
        found = np.empty(self.cut.table.num_traces, np.int32)
        for atoms in self.atom_blocks():
            found[self.cut.members(atoms)] = np.repeat(step_of_atom[atoms], self.cut.sizes(atoms))
        return found

    def atom_blocks(self, first: int = 0) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of all atoms from one on, some at a time."""
        for start in range(first, self.cut.num_atoms, _BLOCK):
            yield np.arange(start, min(start + _BLOCK, self.cut.num_atoms))


def longest_first(costs: NDArray[np.float64], num_ranks: int) -> NDArray[np.int64]:
    """Give each atom a rank: in rounds, the costliest atoms left go to the ranks that have least so far.

    Of very many atoms, the costliest are first paired with the cheapest, so that there are few rounds of alike pairs.
    """
    ranks = np.empty(len(costs), np.int64)
    load = np.zeros(num_ranks)
    order = np.argsort(-costs, kind="stable")
    if len(order) > _MANY_ROUNDS * num_ranks:
        costly, cheap = np.split(order[: len(order) // (2 * num_ranks) * 2 * num_ranks], 2)
        ranks[costly] = longest_first(costs[costly] + costs[cheap[::-1]], num_ranks)
        ranks[cheap[::-1]] = ranks[costly]
        order, paired = order[2 * len(costly) :], order[: 2 * len(costly)]
        load = np.bincount(ranks[paired], costs[paired], minlength=num_ranks).astype(np.float64)
    for start in range(0, len(order), num_ranks):
        atoms = order[start : start + num_ranks]
        lightest = np.argsort(load, kind="stable")[: len(atoms)]
        ranks[atoms] = lightest
        load[lightest] += costs[atoms]
    return ranks
