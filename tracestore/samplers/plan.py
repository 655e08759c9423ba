"""Plan the batches of every epoch. Pure: a function of run directory, policy, seed and selection; reads no trace.

A step takes ``num_slots`` consecutive atoms of the epoch's order, so that every trace comes exactly once, whatever the
number of ranks; ranks and workers only divide the steps. Order follows from stable sorts of keyed hashes.
"""

from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, PlanError
from tracestore.samplers.atoms import AtomCut, RunTable
from tracestore.samplers.hashing import derive_key, keyed_hash, unit_interval
from tracestore.samplers.policy import BatchPolicy
from tracestore.samplers.world import World

__all__ = ["BatchPlan", "Runs"]

TraceIndices = NDArray[np.int64]

_CUT, _ATOM, _STEP = range(3)
"""Purposes of hashes within an epoch."""

_ALONE = World()


class Runs(Protocol):
    """What a plan reads of a store's run directory; one entry per run."""

    @property
    def first(self) -> NDArray[np.int64]:
        """Global index of the run's first trace."""

    @property
    def num_traces(self) -> NDArray[np.int64]:
        """Traces in the run."""

    @property
    def num_sites(self) -> NDArray[np.int32]:
        """Sites of each of its traces."""

    @property
    def trace_type(self) -> NDArray[np.uint64]:
        """Trace type of all of them."""


class BatchPlan:
    """The batches of every epoch over some traces.

    Bit-identical for the same inputs on every machine; global batches are the same sets at every number of ranks.

    Parameters
    ----------
    runs
        Run directory of the store.
    policy
        Sizes, order and costs.
    seed
        Key of the order; not negative.
    selected
        Which traces take part, shape ``(N,)`` over the traces of the store; None for all.
    observation_bytes
        Bytes of observations of a trace: one number, or one per run. Only for the cost.

    Raises
    ------
    PlanError
        When no trace is selected, or fewer than a batch (unless the order is sequential).
    InvalidInputError
        When the seed is negative or the selection has the wrong length.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> runs = SimpleNamespace(first=np.array([0, 60]), num_traces=np.array([60, 41]), num_sites=np.array([3, 9]),
    ...                        trace_type=np.array([1, 2], np.uint64))
    >>> plan = BatchPlan(runs, BatchPolicy(global_batch=16, micro=4), seed=1)
    >>> plan.num_traces, plan.num_steps
    (101, 7)
    >>> both = np.concatenate([plan.step(0, 3, World(rank, 2)) for rank in range(2)])
    >>> bool((np.sort(both) == plan.step(0, 3)).all())
    True
    """

    def __init__(
        self,
        runs: Runs,
        policy: BatchPolicy,
        seed: int = 0,
        *,
        selected: NDArray[np.bool_] | None = None,
        observation_bytes: ArrayLike = 0.0,
    ) -> None:
        if seed < 0:
            message = f"`seed` must not be negative; got {seed}."
            raise InvalidInputError(message, argument="seed", found=seed)
        self.policy = policy
        self.seed = seed
        self._indices, self._table = _select(runs, policy, selected, observation_bytes)
        self.num_traces = self._table.num_traces
        self._planned: tuple[int, AtomCut, NDArray[np.int64]] | None = None
        self._require_enough()

    def __repr__(self) -> str:
        return f"BatchPlan({self.num_traces} traces, {self.num_steps} steps of {self.policy.global_batch})"

    @property
    def num_steps(self) -> int:
        """Steps of every epoch; only the last may be short."""
        return -(-self.num_traces // self.policy.global_batch)

    def step_size(self, step: int) -> int:
        """Traces of a step, all ranks together: what the loss is divided by.

        Parameters
        ----------
        step
            Step within the epoch, from 0.

        Raises
        ------
        InvalidInputError
            When the epoch has no such step.
        """
        self.require_position(0, step)
        return min(self.policy.global_batch, self.num_traces - step * self.policy.global_batch)

    def step(self, epoch: int, step: int, world: World = _ALONE) -> TraceIndices:
        """Choose the traces of one rank at one step.

        Parameters
        ----------
        epoch
            Pass over the traces, from 0.
        step
            Step within the epoch, from 0.
        world
            Rank and number of ranks; workers do not matter here.

        Returns
        -------
        ndarray of int64
            Global trace indices, ascending. In an epoch's last step they may be few or none.

        Raises
        ------
        PlanError
            When the number of ranks does not divide the slots.
        InvalidInputError
            When the epoch has no such step.
        """
        cut, atoms = self._atoms(epoch, step, world.num_ranks)
        if world.is_distributed:
            atoms = atoms[_longest_first(cut.costs(atoms), world.num_ranks) == world.rank]
        chosen = np.sort(cut.members(atoms))
        return chosen if self._indices is None else self._indices[chosen]

    def rank_costs(self, epoch: int, step: int, num_ranks: int) -> NDArray[np.float64]:
        """Cost of one step on each rank, in the units of the policy's cost model.

        Parameters
        ----------
        epoch, step
            As in `step`.
        num_ranks
            Ranks that share the step.

        Returns
        -------
        ndarray of float64
            Shape ``(num_ranks,)``.

        Raises
        ------
        PlanError
            When the number of ranks does not divide the slots.
        InvalidInputError
            When the epoch has no such step.
        """
        cut, atoms = self._atoms(epoch, step, num_ranks)
        costs = cut.costs(atoms)
        return np.bincount(_longest_first(costs, num_ranks), costs, minlength=num_ranks).astype(np.float64)

    def require_ranks(self, num_ranks: int) -> None:
        """Refuse a number of ranks that would give them different numbers of slots.

        Parameters
        ----------
        num_ranks
            Ranks that share each step.

        Raises
        ------
        PlanError
            Lists the numbers that are possible.
        """
        allowed = self.policy.allowed_ranks
        if num_ranks not in allowed:
            message = (
                f"`num_ranks` must divide the {self.policy.num_slots} slots of a step (batch of "
                f"{self.policy.global_batch}, atoms of {self.policy.micro}); got {num_ranks}. "
                f"Allowed: {', '.join(map(str, allowed))}."
            )
            raise PlanError(message, allowed=allowed, found=num_ranks)

    def require_position(self, epoch: int, step: int) -> None:
        """Refuse a step that no epoch has.

        Parameters
        ----------
        epoch, step
            As in `step`.

        Raises
        ------
        InvalidInputError
            Tells which steps there are.
        """
        if epoch < 0 or not 0 <= step < self.num_steps:
            message = f"An epoch has steps 0 to {self.num_steps - 1}; got step {step} of epoch {epoch}."
            raise InvalidInputError(message, epoch=epoch, step=step)

    def _require_enough(self) -> None:
        if self.num_traces == 0:
            message = "No trace is selected; choose another subset or fraction, or a store with traces that succeeded."
            raise PlanError(message, num_traces=0)
        batch = self.policy.global_batch
        if self.num_traces < batch and self.policy.order != "sequential":
            message = (
                f"A batch of {batch} is larger than the {self.num_traces} selected traces; "
                f"use a `global_batch` of at most {self.num_traces}, or more traces."
            )
            raise PlanError(message, num_traces=self.num_traces, global_batch=batch)

    def _atoms(self, epoch: int, step: int, num_ranks: int) -> tuple[AtomCut, NDArray[np.int64]]:
        self.require_ranks(num_ranks)
        self.require_position(epoch, step)
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, *self._plan_epoch(epoch))
        _, cut, order = self._planned
        return cut, order[step * self.policy.num_slots : (step + 1) * self.policy.num_slots]

    def _plan_epoch(self, epoch: int) -> tuple[AtomCut, NDArray[np.int64]]:
        """Cut the atoms of an epoch and order them: whole steps in turns of buckets, then what is left."""
        policy = self.policy
        if policy.order == "sequential":
            cut = AtomCut(self._table, policy.micro, None)
            return cut, np.arange(cut.num_atoms)
        cut = AtomCut(self._table, policy.micro, derive_key(self.seed, epoch, _CUT))
        # an incomplete atom stays at the very end, so that no step but the last is short
        num_whole = self.num_traces // policy.micro
        num_full_steps = self.num_traces // policy.global_batch
        atom_key, step_key = (derive_key(self.seed, epoch, purpose) for purpose in (_ATOM, _STEP))
        atoms = np.arange(num_whole)
        hashes, costs = keyed_hash(atoms, atom_key), cut.costs(atoms)
        bounds = np.array([0, num_whole])
        if policy.order == "sorted":
            atoms = np.lexsort((hashes, cut.type_order(atoms), costs))
        else:
            atoms, bounds = _shuffle_in_buckets(costs, hashes, policy.num_buckets)
        steps = np.arange(num_full_steps)
        bucket = np.searchsorted(bounds[1:-1], steps * policy.num_slots + policy.num_slots // 2, "right")
        turns = _take_turns(bucket, unit_interval(keyed_hash(steps, step_key)))
        num_placed = num_full_steps * policy.num_slots
        placed = atoms[:num_placed].reshape(num_full_steps, policy.num_slots)[turns].reshape(-1)
        return cut, np.concatenate((placed, atoms[num_placed:], np.arange(num_whole, cut.num_atoms)))


def _select(
    runs: Runs, policy: BatchPolicy, selected: NDArray[np.bool_] | None, observation_bytes: ArrayLike
) -> tuple[TraceIndices | None, RunTable]:
    """Count through the selected traces; without a selection a trace's number is its index in the store."""
    first, sizes = runs.first.astype(np.int64), runs.num_traces.astype(np.int64)
    costs = np.broadcast_to(policy.cost.of(runs.num_sites, observation_bytes), first.shape)
    indices = None
    if selected is not None:
        if len(selected) != int(sizes.sum()):
            message = f"`selected` must have one entry for each of {int(sizes.sum())} traces; got {len(selected)}."
            raise InvalidInputError(message, argument="selected", found=len(selected))
        indices = np.flatnonzero(selected)
        stop = np.searchsorted(indices, first + sizes)
        first = np.searchsorted(indices, first)
        sizes = stop - first
    kept = np.flatnonzero(sizes)
    return indices, RunTable(first[kept], sizes[kept], costs[kept], runs.trace_type[kept].astype(np.uint64))


def _shuffle_in_buckets(
    costs: NDArray[np.float64], hashes: NDArray[np.uint64], num_buckets: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order atoms by bucket of alike cost and inside each by hash; return them and where the buckets begin and end.

    Buckets have equal total costs: with equal numbers of atoms, the last would span the whole tail of long traces.
    """
    shuffled = np.argsort(hashes, kind="stable")
    if num_buckets == 1:
        return shuffled, np.array([0, len(costs)])
    # stable: where a bucket ends among equal costs, the hash decides who is in
    by_cost = shuffled[np.argsort(costs[shuffled], kind="stable")]
    total = np.cumsum(costs[by_cost])
    inner = np.searchsorted(total, np.arange(1, num_buckets) * (total[-1] / num_buckets), "right")
    bounds = np.concatenate(([0], inner, [len(costs)]))
    buckets = (by_cost[start:stop] for start, stop in pairwise(bounds))
    return np.concatenate([bucket[np.argsort(hashes[bucket], kind="stable")] for bucket in buckets]), bounds


def _take_turns(bucket: NDArray[np.int64], jitter: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order steps so that each bucket's are spread evenly over the epoch, each moved a little by its jitter."""
    count = np.bincount(bucket)
    place = np.arange(len(bucket)) - (np.cumsum(count) - count)[bucket]
    return np.argsort((place + jitter) / count[bucket], kind="stable")


def _longest_first(costs: NDArray[np.float64], num_ranks: int) -> NDArray[np.int64]:
    """Give each atom a rank: in rounds, the costliest atoms left go to the ranks that have least so far."""
    ranks = np.empty(len(costs), np.int64)
    load = np.zeros(num_ranks)
    order = np.argsort(-costs, kind="stable")
    for start in range(0, len(order), num_ranks):
        atoms = order[start : start + num_ranks]
        lightest = np.argsort(load, kind="stable")[: len(atoms)]
        ranks[atoms] = lightest
        load[lightest] += costs[atoms]
    return ranks
