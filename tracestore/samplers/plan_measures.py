"""Measure the batches of a plan: what each step reads, how even it is, how shuffled an epoch is. Reads no trace."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.samplers.plan import BatchPlan
from tracestore.samplers.schemes import TraceTable

__all__ = ["AtomPurity", "ShuffleQuality", "StepTable", "measure_atoms", "measure_steps"]

_BLOCK = 2**20
"""Atoms or traces that are looked at at once."""
_GRID = 60
"""Most rows and columns of the picture of a shuffle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtomPurity:
    """How the traces of an epoch lie in atoms."""

    num_atoms: int
    micro: int
    """Traces of an atom."""
    pure_share: float
    """Share of the traces that lie in atoms of one trace type."""
    mean_types: float
    """Trace types of an atom."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepTable:
    """What was measured of some steps, in their order; all arrays but the last have shape ``(S,)``."""

    step: NDArray[np.int64]
    num_traces: NDArray[np.int64]
    num_sites: NDArray[np.int64]
    """Sites of all traces."""
    num_bytes: NDArray[np.float64]
    """Bytes read by all ranks, as they are stored."""
    num_segments: NDArray[np.int64]
    """Segments that some rank reads from."""
    num_rank_segments: NDArray[np.float64]
    """Segments that a rank reads from, mean over ranks."""
    num_stretches: NDArray[np.int64]
    """Stretches of consecutive traces of a segment, summed over ranks: reads that need no jump."""
    mean_cost: NDArray[np.float64]
    """Cost on a rank, mean over ranks."""
    max_cost: NDArray[np.float64]
    """Cost on the rank that has most."""
    padded_sites: NDArray[np.int64]
    """Sites when each rank pads its traces to its longest."""
    types_per_rank: NDArray[np.int64]
    """Trace types in the batch of each rank that has one, of all steps."""

    @property
    def imbalance(self) -> float:
        """Sum of the largest cost over the sum of the mean cost: the time lost by waiting for the slowest rank."""
        return float(self.max_cost.sum() / self.mean_cost.sum())

    @property
    def padding(self) -> float:
        """Share of the padded sites that hold nothing."""
        return 1.0 - float(self.num_sites.sum()) / float(self.padded_sites.sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShuffleQuality:
    """How far the order of an epoch is from the order of the store."""

    correlation: float
    """Of the place of a trace in the store and its step: 1 in store order, 0 in a random one."""
    displacement: float
    """Mean distance of both places over that in a random order: 1 is as far as chance, 0 does not move."""
    neighbors: float
    """Share of neighbors in the store that are in one step."""
    neighbors_expected: float
    """The same in a random order."""
    reunion: float
    """Share of pairs in one step that are in one step in the next epoch, too."""
    reunion_expected: float
    """The same for random orders."""
    grid: NDArray[np.int64]
    """Traces by place in the store (rows) and step (columns)."""

    @staticmethod
    def measure(
        step_of: NDArray[np.int32], next_step_of: NDArray[np.int32], examined: NDArray[np.int64]
    ) -> "ShuffleQuality":
        """Compare an epoch with the store and with the next epoch.

        Parameters
        ----------
        step_of, next_step_of
            Step of each trace in an epoch and the next, shape ``(N,)`` each, in store order.
        examined
            Steps whose pairs of traces are looked up in the next epoch.
        """
        num_traces, num_steps = len(step_of), int(step_of.max()) + 1
        sizes = np.bincount(step_of, minlength=num_steps)
        # the place in the epoch is the middle of the step: inside a step there is no order
        middle = (np.cumsum(sizes) - sizes / 2) / num_traces
        moments, moved = np.zeros(3), 0.0
        grid = np.zeros((min(_GRID, num_traces), min(_GRID, num_steps)), np.int64)
        for start in range(0, num_traces, _BLOCK):
            steps = step_of[start : start + _BLOCK]
            here = (np.arange(start, start + len(steps)) + 0.5) / num_traces
            there = middle[steps]
            moments += [((here - 0.5) * (there - 0.5)).sum(), ((here - 0.5) ** 2).sum(), ((there - 0.5) ** 2).sum()]
            moved += float(np.abs(here - there).sum())
            cell = (here * grid.shape[0]).astype(np.int64) * grid.shape[1]
            cell += steps.astype(np.int64) * grid.shape[1] // num_steps
            grid += np.bincount(cell, minlength=grid.size).reshape(grid.shape)
        by_chance = float(sizes @ (middle**2 + (1 - middle) ** 2)) / 2
        mates = float(sizes @ (sizes - 1.0)) / max(num_traces * (num_traces - 1), 1)
        is_pair = step_of[1:] == step_of[:-1]
        spread = float(np.sqrt(moments[1] * moments[2]))
        return ShuffleQuality(
            correlation=float(moments[0]) / spread if spread > 1e-12 else 0.0,
            displacement=moved / by_chance,
            neighbors=float(is_pair.mean()) if len(is_pair) else 0.0,
            neighbors_expected=mates,
            reunion=_reunion(step_of, next_step_of, examined),
            reunion_expected=mates,
            grid=grid,
        )


def measure_atoms(plan: BatchPlan, epoch: int, table: TraceTable) -> AtomPurity:
    """Count the trace types of the atoms of an epoch.

    Parameters
    ----------
    plan
        The batches.
    epoch
        Pass over the traces, from 0.
    table
        The traces that the plan has selected.
    """
    planned = plan.epoch(epoch)
    cut = planned.cut
    num_types, pure = cut.num_pure, cut.num_pure * cut.micro
    for atoms in planned.atom_blocks(cut.num_pure):
        sizes = cut.sizes(atoms)
        atom = np.repeat(np.arange(len(atoms)), sizes)
        kinds = _count_distinct(atom, table.types[table.run_of[cut.members(atoms)]], len(atoms))
        num_types += int(kinds.sum())
        pure += int(sizes[kinds == 1].sum())
    return AtomPurity(
        num_atoms=cut.num_atoms,
        micro=cut.micro,
        pure_share=pure / plan.num_traces,
        mean_types=num_types / cut.num_atoms,
    )


def measure_steps(
    plan: BatchPlan,
    epoch: int,
    steps: NDArray[np.int64],
    num_ranks: int,
    table: TraceTable,
    segments: NDArray[np.integer],
    trace_bytes: NDArray[np.float64],
) -> StepTable:
    """Measure some steps of an epoch.

    Parameters
    ----------
    plan
        The batches.
    epoch
        Pass over the traces, from 0.
    steps
        Steps to look at, shape ``(S,)``.
    num_ranks
        Ranks that share each step.
    table
        The traces that the plan has selected.
    segments, trace_bytes
        Segment, and bytes of a trace, of each run.
    """
    plan.require_ranks(num_ranks)
    rows, types = [], []
    for step in steps.tolist():
        traces, ranks = plan.epoch(epoch).deal(step, num_ranks)
        order = np.lexsort((traces, ranks))
        traces, ranks = traces[order], ranks[order]
        runs = table.run_of[traces]
        segment, sites = segments[runs].astype(np.int64), table.num_sites[runs]
        indices = traces if table.indices is None else table.indices[traces]
        goes_on = (np.diff(indices) == 1) & (np.diff(segment) == 0) & (np.diff(ranks) == 0)
        begins = np.flatnonzero(np.diff(ranks, prepend=-1))
        sizes = np.diff(begins, append=len(ranks))
        costs = np.bincount(ranks, table.costs[runs], minlength=num_ranks)
        kinds = _count_distinct(ranks, table.types[runs], num_ranks)
        types.append(kinds[kinds > 0])
        rank_segments = _count_distinct(ranks, segment, num_ranks)
        rows.append(
            (
                step, len(traces), sites.sum(), trace_bytes[runs].sum(), len(np.unique(segment)), rank_segments.mean(),
                len(traces) - np.count_nonzero(goes_on), costs.mean(), costs.max(),
                (sizes * np.maximum.reduceat(sites, begins)).sum(),
            )
        )  # fmt: skip
    names = (
        "step", "num_traces", "num_sites", "num_bytes", "num_segments", "num_rank_segments", "num_stretches",
        "mean_cost", "max_cost", "padded_sites",
    )  # fmt: skip
    columns = {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return StepTable(**columns, types_per_rank=np.concatenate(types))


def _count_distinct(group: NDArray[np.int64], kind: NDArray[np.int64], num_groups: int) -> NDArray[np.int64]:
    """Count the different kinds in each group."""
    distinct = np.unique(group * (int(kind.max(initial=0)) + 1) + kind)
    return np.bincount(distinct // (int(kind.max(initial=0)) + 1), minlength=num_groups)


def _reunion(step_of: NDArray[np.int32], next_step_of: NDArray[np.int32], examined: NDArray[np.int64]) -> float:
    """Share of the pairs in one of some steps that share a step of the next epoch."""
    is_examined = np.zeros(int(step_of.max()) + 1, bool)
    is_examined[examined] = True
    traces = np.flatnonzero(is_examined[step_of])
    both = step_of[traces] * (int(next_step_of.max()) + 1) + next_step_of[traces].astype(np.int64)
    again = np.unique(both, return_counts=True)[1]
    sizes = np.bincount(step_of[traces])
    pairs = float(sizes @ (sizes - 1.0))
    return float(again @ (again - 1.0)) / pairs if pairs else 0.0
