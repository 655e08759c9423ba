"""`profile`: run a simulator as `simulate` does, watch its stack, and say where the time goes."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from tracestore.errors import InvalidInputError
from tracestore.execution.provider import ProposalProvider
from tracestore.profiling.kernel_watch import KernelScaling, KernelWatch
from tracestore.profiling.result import Profile
from tracestore.profiling.sampler import INTERVAL_SECONDS, StackSample, StackSampler, require_timer
from tracestore.profiling.timings import Timings, Work
from tracestore.simulators.base import MAX_SITES, Simulator, as_simulator
from tracestore.simulators.batched import BatchedSimulator
from tracestore.store.trace_store import TraceStore
from tracestore.traces.layout import SiteKind

__all__ = ["profile"]

DEFAULT_SECONDS = 3.0
WATCHED_TRACES = 16
"""In which calls of kernels are looked for."""


def profile(
    simulator: Simulator | Callable[[], object],
    *,
    num_traces: int | None = None,
    seconds: float | None = None,
    path: str | PathLike[str] | None = None,
    network: ProposalProvider | None = None,
    observations: Mapping[str, ArrayLike] | None = None,
    threads: Sequence[int] | None = None,
    seed: int = 0,
    max_sites: int = MAX_SITES,
    backend: str = "arrow",
    codec: str | dict[str, str] = "auto",
    interval: float = INTERVAL_SECONDS,
) -> Profile:
    """Find where the time of a simulator goes.

    The same traces are made four times: by the program alone, recorded in memory, written to a store, and written once
    more while the stack of the main thread is sampled. The stores are temporary.

    Parameters
    ----------
    simulator
        A simulator, or any function without arguments.
    num_traces
        Traces of each of the four; chosen by ``seconds`` when not given.
    seconds
        About how long the profiled run shall take, 3 when nothing is given; all together takes four times as long.
    path
        HTML page to write.
    network
        A trained network: the traces are then draws of `ic` for ``observations``, and its share is told, too.
    observations
        Observed values by name, for the network.
    threads
        Numbers of threads on which native kernels that the program calls are timed; none when not given.
    seed
        Of all random draws but those of the program alone.
    max_sites
        Length cap of a trace.
    backend, codec
        Of the temporary stores, as in `StoreLocation`.
    interval
        Seconds between two samples.

    Returns
    -------
    Profile
        Shares, draws, lines, timings.

    Raises
    ------
    InvalidInputError
        When an argument is out of range, only one of network and observations is given, the platform has no interval
        timer, or this is not the main thread.
    SimulatorError
        When all traces fail; names the failure.

    Examples
    --------
    >>> import tracestore as ts
    >>> def heap():
    ...     total = sum(number % 7 for number in range(20_000))
    ...     return ts.sample(ts.Normal(float(total), 1.0), name="x")
    >>> found = profile(heap, num_traces=100)
    >>> found.num_draws, found.counts
    (100, {'heap:return~Normal': 100})
    """
    _check(num_traces, seconds, interval, threads, network, observations)
    require_timer()
    given = None if observations is None else {name: np.asarray(value, float) for name, value in observations.items()}
    work = Work(as_simulator(simulator), seed, max_sites, backend, codec, network, given)
    budget = DEFAULT_SECONDS if seconds is None else seconds
    with tempfile.TemporaryDirectory(prefix="tracestore-profile-") as name:
        folder = Path(name)
        rate = work.probe(folder, budget, num_traces)
        number = num_traces or max(int(budget / rate), 1)
        recorded = work.record(number)
        plain, problem = work.plain(number)
        begun = time.perf_counter()
        work.store(folder / "stored", number)
        stored = time.perf_counter() - begun
        sampler = StackSampler(interval)
        begun = time.perf_counter()
        with sampler:
            store = work.store(folder / "profiled", number)
        timings = Timings(plain, problem, recorded, stored, time.perf_counter() - begun)
        found = _result(work, store, sampler, timings, _kernels(work, number, threads))
    if path is not None:
        found.write(path)
    return found


def _result(
    work: Work, store: TraceStore, sampler: StackSampler, timings: Timings, kernels: tuple[KernelScaling, ...]
) -> Profile:
    stats = store.stats()
    samples = tuple(_below_profiler(sample) for sample in sampler.samples())
    sampled = sum(sample.seconds for sample in samples)
    counts, num_draws = _count(store)
    return Profile(
        simulator=work.program.name,
        num_traces=stats.num_traces,
        num_failed=stats.num_failed,
        num_draws=num_draws,
        num_sites=stats.num_sites,
        num_bytes=stats.nbytes,
        backend=work.backend,
        has_network=work.network is not None,
        timings=timings,
        samples=samples,
        seconds=sampler.seconds,
        num_samples=sampler.num_samples,
        effective_samples=sampled**2 / sampler.squared_seconds if sampler.squared_seconds else 0.0,
        sampler_seconds=sampler.own_seconds,
        counts=counts,
        kernels=kernels,
    )


def _count(store: TraceStore) -> tuple[dict[str, int], int]:
    """Count draws and observations by base address, and all draws."""
    counts: dict[str, int] = defaultdict(int)
    num_draws = 0
    runs = store.runs
    for identity in np.unique(runs.layout):
        number = int(runs.num_traces[runs.layout == identity].sum())
        for site in store.layouts[int(identity)].sites:
            if site.kind is not SiteKind.TAG:
                counts[site.base] += number
            num_draws += number * (site.kind is SiteKind.SAMPLE)
    return dict(counts), num_draws


def _kernels(work: Work, num_traces: int, threads: Sequence[int] | None) -> tuple[KernelScaling, ...]:
    if threads is None:
        return ()
    most = work.program.batch_size if isinstance(work.program, BatchedSimulator) else WATCHED_TRACES
    with KernelWatch() as watch:
        work.record(min(num_traces, most))
    return watch.scaling(threads)


def _below_profiler(sample: StackSample) -> StackSample:
    """Cut off whatever called this room."""
    modules = [frame.module.startswith("tracestore.profiling") for frame in sample.frames]
    first = len(modules) - modules[::-1].index(True) if True in modules else 0
    return sample._replace(frames=sample.frames[first:])


def _check(
    num_traces: int | None,
    seconds: float | None,
    interval: float,
    threads: Sequence[int] | None,
    network: ProposalProvider | None,
    observations: Mapping[str, ArrayLike] | None,
) -> None:
    if num_traces is not None and num_traces < 1:
        message = f"`num_traces` must be at least 1; got {num_traces}."
        raise InvalidInputError(message, argument="num_traces", found=num_traces)
    if num_traces is not None and seconds is not None:
        raise InvalidInputError("Give `num_traces` or `seconds`, not both.", argument="seconds", found=seconds)
    for name, value in (("seconds", seconds), ("interval", interval)):
        if value is not None and not 0.0 < value < float("inf"):
            raise InvalidInputError(f"`{name}` must be a positive number; got {value}.", argument=name, found=value)
    if threads is not None and (not threads or min(threads) < 1):
        message = f"`threads` must be numbers of threads from 1; got {list(threads)}."
        raise InvalidInputError(message, argument="threads", found=list(threads))
    if (network is None) != (observations is None):
        absent, there = ("network", "observations") if network is None else ("observations", "network")
        raise InvalidInputError(f"`{there}` needs `{absent}`; give both or none.", argument=absent)
