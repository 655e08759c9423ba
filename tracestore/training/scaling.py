"""How a training would scale to more ranks than there are: measured costs, replayed on the plans of larger jobs.

Weak scaling: every rank keeps its number of traces, so that the minibatch grows with the ranks. What a replay cannot
know is left out: file systems that many ranks share, networks with contention, machines that differ. Nothing here
starts a rank. Shapes: S steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.networks.persistence import JOB_FILE, read_json
from tracestore.samplers.cost_fit import CostFit
from tracestore.samplers.plan import BatchPlan, Runs
from tracestore.samplers.policy import BatchPolicy
from tracestore.samplers.torch_loader import trace_loader
from tracestore.samplers.world import World
from tracestore.store.trace_store import TraceStore
from tracestore.training.config import TrainConfig
from tracestore.training.curves import PARTS
from tracestore.training.history import read_history
from tracestore.training.job import CONFIG_FILE

__all__ = ["ReplayedStep", "StepLoads", "SumModel", "fit_sums", "read_loads", "replay_weak_scaling"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepLoads:
    """What was in each step of one rank and how long it was busy: what `fit_costs` takes; shape (S,) each."""

    num_traces: Floats
    num_sites: Floats
    observation_bytes: Floats
    seconds: Floats
    """Without waiting for other ranks."""


@dataclass(frozen=True, slots=True)
class SumModel:
    """What a sum over ranks takes, by the usual two terms: messages one after another, and bytes through a link.

    Examples
    --------
    >>> SumModel(latency=1e-5, bytes_per_second=1e9).seconds(1e6, 4)
    0.00152
    """

    latency: float
    """Seconds of one round of messages; a sum has one for each doubling of the ranks."""
    bytes_per_second: float
    """Of one rank; every byte is sent once to be summed and once as a sum, but for the rank's own share."""

    def seconds(self, num_bytes: float, num_ranks: int) -> float:
        """Return the duration of a sum.

        Parameters
        ----------
        num_bytes
            Of the summed buffer.
        num_ranks
            Ranks; one has nothing to do.
        """
        if num_ranks == 1:
            return 0.0
        share = 2.0 * (num_ranks - 1) / num_ranks
        return self.latency * math.ceil(math.log2(num_ranks)) + share * num_bytes / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class ReplayedStep:
    """The mean step of a job of so many ranks, by the model."""

    num_ranks: int
    num_traces: float
    """All ranks together."""
    slowest: float
    """Seconds of the busiest rank."""
    mean: float
    """Seconds of the mean rank."""
    sums: float
    """Seconds of the sum over ranks."""

    @property
    def imbalance(self) -> float:
        """Actual over best time, sums aside; 1 is perfect."""
        return self.slowest / self.mean

    @property
    def speed(self) -> float:
        """Traces per second when sums begin only after the backward pass."""
        return self.num_traces / (self.slowest + self.sums)

    @property
    def speed_of_hidden_sums(self) -> float:
        """Traces per second when sums take no time beside the backward pass."""
        return self.num_traces / self.slowest


def read_loads(folder: str | Path, store: TraceStore, *, rank: int = 0, num_ranks: int = 1, skip: int = 5) -> StepLoads:
    """Pair the times of a training with what its steps held, which follows from its settings.

    Parameters
    ----------
    folder
        The network's folder.
    store
        What it was trained on.
    rank, num_ranks
        Whose times, of how many ranks that trained together.
    skip
        First steps to leave out; they are slow for reasons of their own.

    Raises
    ------
    InvalidInputError
        When the training has accumulated minibatches, or the store is not the one that it was trained on.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.samplers.cost_fit import fit_costs
    >>> from tracestore.simulators import toys
    >>> store = ts.simulate(toys.branching, "traces", num_traces=300, seed=1)
    >>> network = ts.training.train(store, "network", config=ts.training.TrainConfig(epochs=1, batch_size=16))
    >>> loads = read_loads("network", store)
    >>> set(loads.num_traces[:-1].tolist())
    {16.0}
    """
    config = TrainConfig.from_dict(read_json(Path(folder) / CONFIG_FILE))
    if config.accumulate != 1 or config.batch_size is None:
        message = f"Costs are read from trainings without accumulation; this one accumulates {config.accumulate}."
        raise InvalidInputError(message, accumulate=config.accumulate)
    sites = np.repeat(store.runs.num_sites, store.runs.num_traces).astype(np.float64)
    snapshot = read_json(Path(folder) / JOB_FILE)["fields"].get("snapshot")
    if snapshot != store.snapshot_id:
        message = (
            f"The network at {str(folder)!r} was trained on the snapshot {snapshot}; the store {store.storage.url} has "
            f"{store.snapshot_id}."
        )
        raise InvalidInputError(message, expected=snapshot, found=store.snapshot_id)
    trace_bytes = sum(4.0 * math.prod(shape) for shape in store.observation_shapes.values())
    plan, world = _plan_of(config, store), World(rank, num_ranks)
    sync = PARTS.index("sync")
    rows = []
    for line in read_history(folder, rank):
        epoch, step = divmod(int(line["step"]) - 1, plan.num_steps)
        indices = plan.step(epoch, step, world)
        times = [line["times"][part] for part in PARTS]
        rows.append((len(indices), sites[indices].sum(), len(indices) * trace_bytes, sum(times) - times[sync]))
    return StepLoads(*np.array(rows[skip:], np.float64).reshape(-1, 4).T)


def fit_sums(num_bytes: ArrayLike, seconds: ArrayLike, num_ranks: int = 2) -> SumModel:
    """Fit latency and bandwidth to measured sums of several sizes.

    Parameters
    ----------
    num_bytes, seconds
        Size and duration of each sum, shape ``(N,)``.
    num_ranks
        Ranks that took part.

    Raises
    ------
    InvalidInputError
        When the sums are of one size, or larger ones did not take longer.

    Examples
    --------
    >>> model = SumModel(latency=2e-5, bytes_per_second=5e8)
    >>> sizes = [1e3, 1e5, 1e6, 1e7]
    >>> fitted = fit_sums(sizes, [model.seconds(size, 2) for size in sizes])
    >>> round(fitted.latency, 9), round(fitted.bytes_per_second)
    (2e-05, 500000000)
    """
    sizes, times = np.asarray(num_bytes, np.float64), np.asarray(seconds, np.float64)
    if len(np.unique(sizes)) < 2 or num_ranks < 2:
        message = "Sums of at least two sizes, on at least two ranks, are needed to tell latency from bandwidth."
        raise InvalidInputError(message, num_ranks=num_ranks)
    rounds, share = math.ceil(math.log2(num_ranks)), 2.0 * (num_ranks - 1) / num_ranks
    # relative differences: a small sum counts as much as a large one
    design = np.column_stack([np.full(len(sizes), float(rounds)), share * sizes]) / times[:, None]
    latency, per_byte = np.linalg.lstsq(design, np.ones(len(sizes)))[0].tolist()
    if per_byte <= 0:
        message = "Larger sums did not take longer; measure larger ones, on ranks that have nothing else to do."
        raise InvalidInputError(message, seconds_per_byte=per_byte)
    return SumModel(latency=max(latency, 0.0), bytes_per_second=1.0 / per_byte)


def replay_weak_scaling(
    runs: Runs,
    costs: CostFit,
    sums: SumModel,
    *,
    num_ranks: Sequence[int],
    traces_per_rank: int,
    num_bytes: float,
    num_steps: int = 1000,
    seed: int = 0,
    observation_bytes: ArrayLike = 0.0,
) -> list[ReplayedStep]:
    """Predict the mean step of larger and larger jobs in which each rank has as many traces.

    Minibatches are those of the default order, balanced by the fitted costs; a step takes as long as its costliest
    rank, and the sum over ranks.

    Parameters
    ----------
    runs
        Run directory of a store with a minibatch of the largest job at least.
    costs
        Measured costs, in seconds.
    sums
        What sums take.
    num_ranks
        Numbers of ranks.
    traces_per_rank
        Traces of a rank in a step.
    num_bytes
        That a rank gives to the sums of a step.
    num_steps
        Most steps to look at, spread over an epoch. The default order draws a step from one band of alike costs, so
        that few steps do not tell the mean.
    seed
        Of the order.
    observation_bytes
        Bytes of observations of a trace: one number, or one per run.

    Raises
    ------
    PlanError
        When there are fewer traces than a minibatch has.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.samplers.policy import CostModel
    >>> from tracestore.simulators import toys
    >>> store = ts.simulate(toys.geometric, "loops", num_traces=800, seed=1)
    >>> costs = CostFit(CostModel(per_trace=1e-4, per_site=1e-4), 1e-3, 1.0, 0.0, 100, 0, ())
    >>> steps = replay_weak_scaling(store.runs, costs, SumModel(1e-5, 1e9), num_ranks=[1, 4], traces_per_rank=32,
    ...                             num_bytes=1e6)
    >>> [step.num_traces for step in steps], 3.0 < steps[1].speed / steps[0].speed < 4.0
    ([32.0, 128.0], True)
    """
    found = []
    for number in num_ranks:
        batch = number * traces_per_rank
        micro = max(size for size in range(1, 9) if traces_per_rank % size == 0 and batch // size >= min(batch, 64))
        policy = BatchPolicy(global_batch=batch, micro=micro, cost=costs.cost)
        plan = BatchPlan(runs, policy, seed, observation_bytes=observation_bytes)
        num_full = plan.num_traces // batch  # the last step may be short
        chosen = np.unique(np.linspace(0, num_full - 1, num_steps).round().astype(int))
        loads = np.stack([plan.rank_costs(0, int(step), number) for step in chosen]) + costs.per_step
        found.append(
            ReplayedStep(
                num_ranks=number,
                num_traces=float(batch),
                slowest=float(loads.max(axis=1).mean()),
                mean=float(loads.mean()),
                sums=sums.seconds(num_bytes, number),
            )
        )
    return found


def _plan_of(config: TrainConfig, store: TraceStore) -> BatchPlan:
    """Make the plan that a training followed."""
    policy = BatchPolicy.local(config.batch_size or 1, order=config.batch_order)
    fraction = config.validation_fraction
    return trace_loader(
        store, policy=policy, seed=config.seed, subset="train", validation_fraction=fraction, world=World()
    ).plan
