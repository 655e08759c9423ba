"""A job of gradient-based chains: its record, its start, its warm-up, its chunks of draws, and how it goes on.

The state of all chains is committed after the warm-up and with every chunk of draws. A job that is interrupted goes on
after its newest chunk, or begins its warm-up again, and makes the same draws bit by bit.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from tracestore.errors import InferenceError
from tracestore.events import Observer
from tracestore.execution.streams import TraceStreams
from tracestore.inference.batched_chains import Standing
from tracestore.inference.chain_plan import ChainPlan, ChainProgress, plan_chains
from tracestore.inference.conditioning import Conditioning, condition, require_positive
from tracestore.inference.gradient_chains import GradientChains
from tracestore.inference.gradient_checks import require_gradients, require_same_scores
from tracestore.inference.gradient_config import GradientConfig
from tracestore.inference.gradient_start import find_starts
from tracestore.inference.gradient_target import require_differentiable
from tracestore.inference.lanes import SEAL_SECONDS
from tracestore.posteriors.chain_states import last_states
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import Simulator, as_simulator
from tracestore.simulators.batch_recorder import BatchReplay
from tracestore.simulators.batched import BatchedSimulator, run_batch
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.trace import TraceStatus

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["run_gradient_chains"]

WARM = -1
"""Number of the unit that ends the warm-up; the chunks count from zero."""


def run_gradient_chains(
    engine: str,
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    config: GradientConfig,
    *,
    num_draws: int,
    chains: int,
    seed: int,
    max_sites: int,
    observer: Observer | None,
) -> Posterior:
    """Start, continue or return a job; see `hmc` for the parameters and what is raised.

    Parameters
    ----------
    engine
        Name of the engine.
    simulator, observations, path, config, num_draws, chains, seed, max_sites, observer
        As in `hmc`.
    """
    require_positive(num_draws=num_draws, chains=chains)
    program = require_differentiable(as_simulator(simulator), engine)
    plan = plan_chains(num_draws=num_draws, chains=chains, warmup=0)
    conditioning = condition(program, observations, seed=seed, max_sites=max_sites)
    fields: dict[str, JSON] = {
        "engine": engine,
        **program.identity,
        "observation": conditioning.digest,
        "num_draws": num_draws,
        "chains": chains,
        "seed": int(seed),
        "max_sites": max_sites,
        "config": config.to_json(),
    }
    store = TraceStore.open_or_create(path, Job("infer", fields))
    states = last_states(store)
    progress = ChainProgress(plan, states, observer)
    first = states[0]["chunk"] + 1 if states else WARM
    if first < plan.chunks_per_chain:
        runs = _Runs(program, conditioning, max_sites)
        target, start = find_starts(program, conditioning.observations, chains, config, seed, max_sites)
        made = GradientChains(target, chains, config, seed, engine)
        if states:
            made.restore(_learned(store), [states[chain] for chain in range(chains)])
        else:
            rng = TraceStreams(seed, "gradient-check").generator(0)
            require_same_scores(target.evaluate(start.points).log_joint, runs.log_joint(target, start.values))
            if config.check_gradients:
                require_gradients(target, start.points, start.scales, rng)
            made.start(start)
        _write(store, plan, made, runs, first, progress)
    progress.finish()
    return Posterior(store)


class _Runs:
    """Runs a program again with the values of all draws given, to record what traces hold."""

    def __init__(self, program: BatchedSimulator, conditioning: Conditioning, max_sites: int) -> None:
        self.program = program
        self.observations = conditioning.observations
        self.max_sites = max_sites

    def record(self, chains: GradientChains) -> Standing:
        """Record where chains stand."""
        return Standing(self._run(chains.target.draws, chains.values))

    def log_joint(self, target: Any, values: Any) -> Any:  # noqa: ANN401
        """Return the log joint of values as it is recorded."""
        batch = self._run(target.draws, values)
        return batch.log_prior + batch.log_likelihood

    def _run(self, draws: Any, values: Any) -> TraceBatch:  # noqa: ANN401
        given = {
            draw.site.id: values[:, draw.start : draw.stop].reshape(len(values), *draw.site.shape) for draw in draws
        }
        batch = run_batch(
            self.program, len(values), np.random.default_rng(0), controller=BatchReplay(given),
            observations=self.observations, max_sites=self.max_sites, isolate_failures=False,
        )  # fmt: skip
        if (batch.status != TraceStatus.OK).any():
            message = (
                f"The simulator {self.program.name!r} failed with values for which it has a gradient:"
                f" {next(iter(batch.failures.values()))}. It must compute the same with gradients and without."
            )
            raise InferenceError(message, simulator=self.program.name)
        return batch


def _write(
    store: TraceStore, plan: ChainPlan, chains: GradientChains, runs: _Runs, first: int, progress: ChainProgress
) -> None:
    """Do the units that are left and commit each with the state after it."""
    numbers = range(plan.num_chains)
    with store.writer(segment_seconds=SEAL_SECONDS) as writer:
        try:
            if first == WARM:
                chains.warm_up(lambda: progress.advance(0, 0))
                nothing = runs.record(chains).to_batch(0, accepted=np.zeros(plan.num_chains, np.bool_)).take([])
                state = _state(chains, WARM) | {"learned": chains.learned()}
                writer.append(nothing, work=[plan.work(chain, WARM) for chain in numbers], state=state)
                writer.seal()
            for unit in range(max(first, 0), plan.chunks_per_chain):
                start, size = plan.draws(unit)
                draws = []
                for number in range(start, start + size):
                    accepted = chains.draw(number)
                    draws.append(runs.record(chains).to_batch(number, accepted=accepted))
                    progress.advance(plan.num_chains, 0)
                work = [plan.work(chain, unit) for chain in numbers]
                writer.append(TraceBatch.concatenate(draws), work=work, state=_state(chains, unit))
        except BaseException:
            writer.close()  # only whole chunks were appended, and readers may see them
            raise
    store.fold()


def _state(chains: GradientChains, unit: int) -> dict[str, "JSON"]:
    return {"chunk": unit, "chains": cast("JSON", chains.states())}


def _learned(store: TraceStore) -> Mapping[str, Any]:
    return next(
        cast("dict[str, Any]", state)["learned"]
        for _, state in store.work_states()
        if cast("dict[str, Any]", state)["chunk"] == WARM
    )
