"""How other loaders would deal the same traces to ranks, for comparison; knows nothing of our own plans.

A dealing is a line of traces cut into chunks, and a table that says which chunk each rank takes at each step. Schemes:

* random chunks: a permutation of all traces, as torch's ``DistributedSampler`` and most loaders have it;
* pyprob's ``DistributedTraceBatchSampler``: chunks of neighbors by length and trace type, groups of chunks as buckets,
  one bucket after the other, the chunks of a bucket dealt to ranks; what does not fit is dropped;
* one bucket per round: the same with as many buckets as rounds, pyprob's later default;
* synchronized buckets: in a round all ranks draw from one bucket of alike length, as in Lhotse.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.samplers.plan import Runs
from tracestore.samplers.policy import CostModel

__all__ = [
    "SCHEMES",
    "Dealing",
    "TraceTable",
    "deal_pyprob",
    "deal_random_chunks",
    "deal_synchronized_buckets",
]

_BLOCK = 2**20
"""Traces that are looked up at once."""


@dataclass(frozen=True, slots=True, eq=False)
class TraceTable:
    """The traces that take part, numbered from 0 in store order; what is alike in a run is kept once per run.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> runs = SimpleNamespace(first=np.array([0, 2]), num_traces=np.array([2, 3]), num_sites=np.array([9, 4]),
    ...                        trace_type=np.array([7, 8], np.uint64))
    >>> table = TraceTable.select(runs, CostModel(), selected=np.array([True, False, True, True, True]))
    >>> table.run_of, table.costs, table.by_length
    (array([0, 1, 1, 1], dtype=int32), array([10.,  5.]), array([1, 2, 3, 0], dtype=int32))
    """

    run_of: NDArray[np.int32]
    """Run of each trace, shape ``(N,)``."""
    indices: NDArray[np.int64] | None
    """Index in the store of each trace; None when all take part."""
    costs: NDArray[np.float64]
    """Cost of a trace of each run."""
    num_sites: NDArray[np.int64]
    """Sites of a trace of each run."""
    types: NDArray[np.int64]
    """Trace type of each run, numbered from 0."""

    @staticmethod
    def select(
        runs: Runs, cost: CostModel, *, selected: NDArray[np.bool_] | None = None, observation_bytes: ArrayLike = 0.0
    ) -> "TraceTable":
        """Look at some traces of a store.

        Parameters
        ----------
        runs
            Run directory of the store.
        cost
            What a trace costs.
        selected
            Which traces take part, shape ``(N,)`` over the traces of the store; None for all.
        observation_bytes
            Bytes of observations of a trace: one number, or one per run.
        """
        run_of = np.repeat(np.arange(len(runs.first), dtype=np.int32), runs.num_traces)
        indices = None
        if selected is not None:
            indices = np.flatnonzero(selected)
            run_of = run_of[indices]
        costs = np.broadcast_to(cost.of(runs.num_sites, observation_bytes), runs.first.shape)
        types = np.unique(runs.trace_type, return_inverse=True)[1].astype(np.int64)
        return TraceTable(run_of, indices, costs, runs.num_sites.astype(np.int64), types)

    def __len__(self) -> int:
        return len(self.run_of)

    @property
    def by_length(self) -> NDArray[np.int32]:
        """Numbers of the traces, ordered by number of sites, then trace type; shape ``(N,)``."""
        order = np.lexsort((self.types, self.num_sites))
        place_of_run = np.empty(len(order), np.int32)
        place_of_run[order] = np.arange(len(order), dtype=np.int32)
        places = place_of_run[self.run_of]
        if (places[1:] >= places[:-1]).all():
            return np.arange(len(places), dtype=np.int32)
        return np.argsort(places, kind="stable").astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Dealing:
    """Which traces each rank takes at each step.

    Examples
    --------
    >>> dealing = Dealing("halves", np.arange(6), np.array([0, 2, 3, 6]), np.array([[0, 2]]))
    >>> [dealing.traces_of(0, rank).tolist() for rank in range(2)], dealing.num_dealt
    ([[0, 1], [3, 4, 5]], 5)
    """

    name: str
    traces: NDArray[np.integer]
    """Numbers of traces in a `TraceTable`, chunk after chunk."""
    starts: NDArray[np.int64]
    """Where each chunk begins, and where the last ends; no chunk is empty."""
    chunk_of: NDArray[np.int64]
    """Chunk of each step and rank, shape ``(steps, ranks)``; -1 where a rank has nothing to do."""

    @property
    def num_dealt(self) -> int:
        """Traces that some rank takes."""
        return int(np.diff(self.starts)[self.chunk_of[self.chunk_of >= 0]].sum())

    def traces_of(self, step: int, rank: int) -> NDArray[np.integer]:
        """Numbers of the traces of a rank at a step."""
        chunk = self.chunk_of[step, rank]
        return self.traces[self.starts[chunk] : self.starts[chunk + 1]] if chunk >= 0 else self.traces[:0]

    def rank_costs(self, table: TraceTable) -> NDArray[np.float64]:
        """Cost of each step on each rank.

        Parameters
        ----------
        table
            The traces that were dealt.

        Returns
        -------
        ndarray of float64
            Shape ``(steps, ranks)``.
        """
        costs = self._of_chunks(table, table.costs, np.add)
        return np.where(self.chunk_of >= 0, costs[self.chunk_of], 0.0)

    def padding(self, table: TraceTable) -> float:
        """Share of a rectangle of traces and sites that would be empty, when each rank pads to its longest trace.

        Parameters
        ----------
        table
            The traces that were dealt.
        """
        chunks = self.chunk_of[self.chunk_of >= 0]
        room = (np.diff(self.starts) * self._of_chunks(table, table.num_sites, np.maximum))[chunks].sum()
        sites = self._of_chunks(table, table.num_sites, np.add)[chunks].sum()
        return 1.0 - float(sites / room) if room else 0.0

    def _of_chunks(
        self, table: TraceTable, of_run: NDArray[np.float64] | NDArray[np.int64], join: np.ufunc
    ) -> NDArray[np.float64]:
        """Join the numbers of the traces of each chunk, which they have from their runs."""
        joined = np.empty(len(self.starts) - 1)
        first = 0
        while first < len(joined):
            stop = max(first + 1, int(np.searchsorted(self.starts, self.starts[first] + _BLOCK, "right")) - 1)
            part = of_run[table.run_of[self.traces[self.starts[first] : self.starts[stop]]]]
            joined[first:stop] = join.reduceat(part, self.starts[first:stop] - self.starts[first])
            first = stop
        return joined


def deal_random_chunks(table: TraceTable, batch: int, num_ranks: int, *, seed: int = 0) -> Dealing:
    """Deal a random permutation of all traces; the last step is as even as it can be.

    Parameters
    ----------
    table
        The traces.
    batch
        Traces of a rank at a step.
    num_ranks
        Ranks that train together.
    seed
        Of the permutation.

    Raises
    ------
    InvalidInputError
        When the traces do not suffice for one step.

    Examples
    --------
    >>> table = TraceTable(np.zeros(7, np.int32), None, np.ones(1), np.ones(1, np.int64), np.zeros(1, np.int64))
    >>> deal_random_chunks(table, 2, 2).rank_costs(table)
    array([[2., 2.],
           [2., 1.]])
    """
    num_steps = _count_steps(len(table), batch, num_ranks)
    traces = np.arange(len(table), dtype=np.int32)
    np.random.default_rng(seed).shuffle(traces)
    starts = np.arange(num_steps * num_ranks + 1) * batch
    chunk_of = np.arange(num_steps * num_ranks).reshape(num_steps, num_ranks)
    return _with_rest(Dealing("random chunks", traces, starts, chunk_of))


def deal_pyprob(
    table: TraceTable, batch: int, num_ranks: int, *, num_buckets: int | None = 1, seed: int = 0
) -> Dealing:
    """Deal as pyprob's ``DistributedTraceBatchSampler``.

    Traces are ordered by length and type. Whole chunks that would not divide among the ranks are dropped as that many
    random traces, always the same, and the last incomplete chunk as it is: the longest traces. Each rank takes every
    ``num_ranks``-th chunk of a bucket in an order of its own, as many as the poorest rank has.

    Parameters
    ----------
    table
        The traces.
    batch
        Traces of a rank at a step.
    num_ranks
        Ranks that train together.
    num_buckets
        Buckets; as in pyprob, None makes a bucket of each round. At most as many as there are rounds.
    seed
        Of the order of buckets and chunks.

    Raises
    ------
    InvalidInputError
        When the traces do not suffice for one step.

    Examples
    --------
    >>> table = TraceTable(np.zeros(9, np.int32), None, np.ones(1), np.ones(1, np.int64), np.zeros(1, np.int64))
    >>> dealing = deal_pyprob(table, 2, 3)
    >>> dealing.chunk_of.shape, dealing.num_dealt
    ((1, 3), 6)
    """
    num_rounds = _count_steps(len(table), batch, num_ranks)
    num_dropped = (len(table) // batch) % num_ranks * batch
    traces = table.by_length
    if num_dropped:
        is_kept = np.ones(len(table), bool)
        is_kept[np.random.default_rng(0).choice(len(table), num_dropped, replace=False, shuffle=False)] = False
        traces = traces[is_kept]
    num_chunks = num_rounds * num_ranks
    size = -(-num_chunks // min(num_buckets or num_rounds, num_rounds))
    bounds = [*range(0, num_chunks, size), num_chunks]
    if len(bounds) > 2 and bounds[-1] - bounds[-2] < size:
        del bounds[-2]  # a short last bucket is merged into the one before
    rng = np.random.default_rng(seed)
    rounds = []
    for bucket in rng.permutation(len(bounds) - 1):
        first, stop = bounds[bucket], bounds[bucket + 1]
        dealt = np.arange((stop - first) // num_ranks * num_ranks).reshape(-1, num_ranks) + first
        rounds.append(rng.permuted(dealt, axis=0))
    name = f"pyprob, {num_buckets} bucket{'s' if num_buckets != 1 else ''}" if num_buckets else "one bucket per round"
    return Dealing(name, traces, np.arange(num_chunks + 1) * batch, np.concatenate(rounds))


def deal_synchronized_buckets(
    table: TraceTable, batch: int, num_ranks: int, *, num_buckets: int = 8, seed: int = 0
) -> Dealing:
    """Deal shuffled buckets of alike length, all ranks from the same bucket in a round, as Lhotse does.

    Buckets have equal total costs. What is left of a bucket goes into a last, mixed part.

    Parameters
    ----------
    table
        The traces.
    batch
        Traces of a rank at a step.
    num_ranks
        Ranks that train together.
    num_buckets
        Buckets.
    seed
        Of the order.

    Raises
    ------
    InvalidInputError
        When the traces do not suffice for one step.

    Examples
    --------
    >>> table = TraceTable(np.zeros(8, np.int32), None, np.ones(1), np.ones(1, np.int64), np.zeros(1, np.int64))
    >>> deal_synchronized_buckets(table, 2, 2, num_buckets=2).chunk_of.shape
    (2, 2)
    """
    num_steps = _count_steps(len(table), batch, num_ranks)
    rng = np.random.default_rng(seed)
    traces = table.by_length
    total = np.cumsum(table.costs[table.run_of[traces]])
    bounds = np.searchsorted(total, np.arange(1, num_buckets) * (total[-1] / num_buckets), "right")
    buckets = np.split(traces, bounds)
    for bucket in buckets:
        rng.shuffle(bucket)
    step_size = batch * num_ranks
    whole = [len(bucket) // step_size * step_size for bucket in buckets]
    rest = np.concatenate([bucket[size:] for bucket, size in zip(buckets, whole, strict=True)])
    rng.shuffle(rest)
    traces = np.concatenate([*(bucket[:size] for bucket, size in zip(buckets, whole, strict=True)), rest])
    chunk_of = np.arange(num_steps * num_ranks).reshape(num_steps, num_ranks)
    starts = np.arange(num_steps * num_ranks + 1) * batch
    return _with_rest(Dealing("synchronized buckets", traces, starts, rng.permutation(chunk_of)))


def _count_steps(num_traces: int, batch: int, num_ranks: int) -> int:
    num_steps = num_traces // (batch * num_ranks) if batch > 0 and num_ranks > 0 else 0
    if num_steps < 1:
        message = (
            f"{num_traces} traces do not suffice for one step of {num_ranks} ranks with {batch} traces each; "
            "use fewer ranks or smaller batches."
        )
        raise InvalidInputError(message, num_traces=num_traces, num_ranks=num_ranks, batch=batch)
    return num_steps


def _with_rest(dealing: Dealing) -> Dealing:
    """Add a last step of the traces that remain, dealt as evenly as possible."""
    stop, num_ranks = int(dealing.starts[-1]), dealing.chunk_of.shape[1]
    rest = len(dealing.traces) - stop
    if not rest:
        return dealing
    sizes = rest // num_ranks + (np.arange(num_ranks) < rest % num_ranks)
    num_chunks = len(dealing.starts) - 1
    last = np.where(sizes > 0, num_chunks + np.arange(num_ranks), -1)
    return replace(
        dealing,
        starts=np.concatenate((dealing.starts, stop + np.cumsum(sizes[sizes > 0]))),
        chunk_of=np.concatenate((dealing.chunk_of, last[None])),
    )


SCHEMES: tuple[Callable[[TraceTable, int, int], Dealing], ...] = (
    deal_random_chunks,
    deal_pyprob,
    partial(deal_pyprob, num_buckets=10),
    partial(deal_pyprob, num_buckets=None),
    deal_synchronized_buckets,
)
"""What a plan is compared with, in the order shown; pyprob with the 1 and the 10 buckets of its paper."""
