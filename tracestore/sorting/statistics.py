"""How well a store is sorted: the lengths of its runs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ATOM", "RunStatistics"]

ATOM = 64
"""Traces of the atoms whose purity is reported: what a loader on a parallel file system would read at once."""


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """How well a store is sorted.

    Examples
    --------
    >>> RunStatistics.of(np.array([10, 200]))
    RunStatistics(num_runs=2, mean_length=105.0, median_length=200.0, longest=200, atom_purity=0.9142857142857143)
    """

    num_runs: int
    """Runs: stretches of one layout inside a segment."""
    mean_length: float
    """Mean traces of a run."""
    median_length: float
    """Length of the run in which the median trace is."""
    longest: int
    """Traces of the longest run."""
    atom_purity: float
    """Share of traces that fall into whole atoms of 64 traces of one run."""

    @staticmethod
    def of(num_traces: NDArray[np.int64]) -> "RunStatistics":
        """Summarize the lengths of all runs, shape ``(R,)``, at least one."""
        total = int(num_traces.sum())
        lengths = np.sort(num_traces)
        median = lengths[np.searchsorted(np.cumsum(lengths), total / 2)]
        pure = int((num_traces // ATOM).sum()) * ATOM
        return RunStatistics(
            len(lengths), total / len(lengths), float(median), int(lengths[-1]), pure / total if total else 0.0
        )
