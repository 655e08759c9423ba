"""Plan the batches of every epoch. Pure: a function of run directory, policy, seed and selection; reads no trace.

An epoch is a line of atoms, cut into steps of equal size (or equal cost), so that every trace comes exactly once,
whatever the number of ranks; ranks and workers only divide the steps. Order follows from stable sorts of keyed hashes.
"""

import math
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, PlanError
from tracestore.samplers.atoms import AtomCut, RunTable
from tracestore.samplers.buckets import cut_buckets, shuffle_buckets, take_turns
from tracestore.samplers.epoch import EpochPlan, longest_first
from tracestore.samplers.hashing import derive_key, keyed_hash, keyed_order, narrowest, unit_interval
from tracestore.samplers.policy import BatchPolicy
from tracestore.samplers.world import World

__all__ = ["BatchPlan", "Runs"]

TraceIndices = NDArray[np.int64]

_CUT, _ATOM, _STEP, _BUCKET = range(4)
"""Purposes of hashes within an epoch."""

_BLOCK = 2**16
"""Runs that are looked at at once."""

_ALONE = World()

_ATOMS_PER_BUDGET = 4
"""A budget holds at least so many of the costliest atoms: then every step of several costs at least a quarter of it."""


class Runs(Protocol):
    """What a plan reads of a store's run directory; one entry per run, in the order of their traces."""

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
        self._planned: tuple[int, EpochPlan] | None = None
        self._require_enough()
        self.num_steps = _count_steps(self._table, policy)
        """Steps of every epoch. Of a number of traces, only the last step may be short."""

    def __repr__(self) -> str:
        size = f"{self.policy.global_batch} traces" if self.policy.budget is None else f"cost {self.policy.budget:g}"
        return f"BatchPlan({self.num_traces} traces, {self.num_steps} steps of {size})"

    def step_size(self, epoch: int, step: int) -> int:
        """Traces of a step, all ranks together: what the loss is divided by.

        Parameters
        ----------
        epoch, step
            As in `step`.

        Raises
        ------
        InvalidInputError
            When the epoch has no such step.
        """
        self.require_position(epoch, step)
        return self.epoch(epoch).size(step)

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
        self.require_ranks(world.num_ranks)
        self.require_position(epoch, step)
        planned = self.epoch(epoch)
        atoms = planned.step(step)
        if world.is_distributed:
            atoms = atoms[longest_first(planned.cut.costs(atoms), world.num_ranks) == world.rank]
        chosen = np.sort(planned.cut.members(atoms))
        return chosen if self._indices is None else self._indices[chosen].astype(np.int64)

    def epoch(self, epoch: int) -> EpochPlan:
        """Plan a whole epoch; the last one is kept.

        Parameters
        ----------
        epoch
            Pass over the traces, from 0.

        Raises
        ------
        InvalidInputError
            When the number is negative.
        """
        self.require_position(epoch, 0)
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, self._plan_epoch(epoch))
        return self._planned[1]

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
        self.require_ranks(num_ranks)
        self.require_position(epoch, step)
        planned = self.epoch(epoch)
        costs = planned.cut.costs(planned.step(step))
        return np.bincount(longest_first(costs, num_ranks), costs, minlength=num_ranks).astype(np.float64)

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
        if num_ranks < 1:
            message = f"`num_ranks` must be at least 1; got {num_ranks}."
            raise PlanError(message, found=num_ranks)
        allowed = self.policy.allowed_ranks
        if allowed is not None and num_ranks not in allowed:
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
        if batch is not None and self.num_traces < batch and self.policy.order != "sequential":
            message = (
                f"A batch of {batch} is larger than the {self.num_traces} selected traces; "
                f"use a `global_batch` of at most {self.num_traces}, or more traces."
            )
            raise PlanError(message, num_traces=self.num_traces, global_batch=batch)
        budget = self.policy.budget
        if budget is None:
            return
        least = _ATOMS_PER_BUDGET * _largest_atom(self._table, self.policy)
        if budget < least:
            micro, most = self.policy.micro, least / _ATOMS_PER_BUDGET
            what, remedy = (f"atoms of {micro} traces", ", or a smaller `micro`") if micro > 1 else ("traces", "")
            message = (
                f"A budget of {budget:g} is too small for {what} that cost up to {most:g}; use a `budget` of at least "
                f"{least:g}{remedy}."
            )
            raise PlanError(message, budget=budget, least=least)

    def _plan_epoch(self, epoch: int) -> EpochPlan:
        """Cut the atoms of an epoch, line them up bucket by bucket, cut the line into steps and deal those in turns."""
        policy = self.policy
        if policy.order == "sequential":
            cut = AtomCut(self._table, policy.micro, None)
            line = np.arange(cut.num_atoms, dtype=narrowest(cut.num_atoms))
            return EpochPlan(cut, line, self._cut_steps(cut, line), np.arange(self.num_steps))
        cut = AtomCut(self._table, policy.micro, derive_key(self.seed, epoch, _CUT))
        atom_key, bucket_key, step_key = (derive_key(self.seed, epoch, purpose) for purpose in (_ATOM, _BUCKET, _STEP))
        # an incomplete atom stays at the very end, so that no step but the last is short
        atoms = np.arange(cut.num_atoms, dtype=narrowest(cut.num_atoms))
        num_whole = self.num_traces // policy.micro
        if policy.order == "random":
            line, bounds = keyed_order(atoms[:num_whole], atom_key), np.array([0, num_whole])
        else:
            line, bounds = cut_buckets(cut, atoms[:num_whole], policy, atom_key)
            line = shuffle_buckets(line, bounds, policy.mixing, bucket_key)
        line = np.concatenate((line, atoms[num_whole:]))
        starts = self._cut_steps(cut, line)
        middle = (starts[:-1] + starts[1:]) // 2
        bucket = np.searchsorted(bounds[1:-1], middle, "right")
        jitter = unit_interval(keyed_hash(np.arange(self.num_steps), step_key))
        # a step short of traces is the last of the line, and stays last
        is_short = policy.global_batch is not None and self.num_traces % policy.global_batch > 0
        num_dealt = self.num_steps - is_short
        turns = take_turns(bucket[:num_dealt], jitter[:num_dealt])
        return EpochPlan(cut, line, starts, np.concatenate((turns, np.arange(num_dealt, self.num_steps))))

    def _cut_steps(self, cut: AtomCut, line: NDArray[np.integer]) -> NDArray[np.int64]:
        """Find where each step begins in the line, and where the last ends."""
        steps = np.arange(self.num_steps)
        if self.policy.num_slots is not None:
            starts = steps * self.policy.num_slots
        else:
            costs = cut.all_costs()[line]
            cost = np.cumsum(costs)
            # the step in which an atom's middle lies: a step is within one atom of an equal share, as the budget allows
            starts = np.searchsorted(cost - costs / 2, steps * (cost[-1] / self.num_steps))
        return np.append(starts, len(line))


def _largest_atom(table: RunTable, policy: BatchPolicy) -> float:
    return min(policy.micro * float(table.costs.max(where=table.num_traces_of > 0, initial=0.0)), table.total_cost)


def _count_steps(table: RunTable, policy: BatchPolicy) -> int:
    """Count the steps of an epoch: as many in all, although atoms differ, so that a schedule knows its length."""
    if policy.global_batch is not None:
        return -(-table.num_traces // policy.global_batch)
    assert policy.budget is not None
    return max(1, math.ceil(table.total_cost / (policy.budget - _largest_atom(table, policy))))


def _select(
    runs: Runs, policy: BatchPolicy, selected: NDArray[np.bool_] | None, observation_bytes: ArrayLike
) -> tuple[NDArray[np.integer] | None, RunTable]:
    """Count through the selected traces; without a selection a trace's number is its index in the store."""
    num_traces = int(runs.num_traces.sum())
    counter = narrowest(num_traces)
    costs = _costs(runs, policy, observation_bytes)
    if selected is None:
        return None, RunTable(runs.first, runs.num_traces.astype(counter), costs, runs.trace_type)
    if len(selected) != num_traces:
        message = f"`selected` must have one entry for each of {num_traces} traces; got {len(selected)}."
        raise InvalidInputError(message, argument="selected", found=len(selected))
    indices = np.flatnonzero(selected).astype(counter)
    before = np.zeros(num_traces + 1, counter)
    np.cumsum(selected, out=before[1:], dtype=counter)
    first = before[runs.first]
    return indices, RunTable(first, np.diff(first, append=before[-1:]), costs, runs.trace_type)


def _costs(runs: Runs, policy: BatchPolicy, observation_bytes: ArrayLike) -> NDArray[np.float64]:
    """Cost of a trace of each run, some runs after others, as runs may be as many as traces."""
    observed = np.broadcast_to(np.asarray(observation_bytes, np.float64), runs.num_sites.shape)
    costs = np.empty(len(observed))
    for start in range(0, len(costs), _BLOCK):
        block = slice(start, start + _BLOCK)
        costs[block] = policy.cost.of(runs.num_sites[block], observed[block])
    return costs
