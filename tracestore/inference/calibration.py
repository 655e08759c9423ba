"""Simulation-based calibration of an engine: whether the truth ranks uniformly in the posteriors that it makes.

Each trial draws a truth from the prior and an observation from it, and infers. Truths, posteriors and ranks are kept in
one folder, so that the same call continues whatever was interrupted.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import fspath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InferenceError, InvalidInputError, StoreExistsError
from tracestore.events import Event, Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.execution.provider import ProposalProvider
from tracestore.inference.calibration_ranks import Ranks, Truths
from tracestore.inference.calibration_result import FILE_NAME, Calibration, open_calibration
from tracestore.inference.conditioning import require_positive
from tracestore.inference.ic import ic_many
from tracestore.inference.importance import importance, prior
from tracestore.inference.rmh import lmh, rmh
from tracestore.inference.rmh_config import RMHConfig
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import MAX_SITES, Simulator, as_simulator
from tracestore.storage import Storage
from tracestore.store.job import Job
from tracestore.store.location import StoreLocation, StorePath, to_location
from tracestore.traces.trace import TraceStatus

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["CALIBRATED_ENGINES", "calibrate"]

CALIBRATED_ENGINES = ("is", "ic", "rmh", "lmh")
_JOB = "job.json"
_OBSERVATIONS_AT_ONCE = 256
_COMMON = frozenset(
    {"chains", "config", "defensive", "max_sites", "network", "num_draws", "observer", "seed", "workers"}
)

Engine = Callable[..., Posterior]
Observation = Mapping[str, NDArray[np.generic]]


def calibrate(
    simulator: Simulator | Callable[[], object],
    path: StorePath,
    *,
    engine: str | Engine,
    num_trials: int = 200,
    num_draws: int = 1000,
    seed: int = 0,
    network: ProposalProvider | None = None,
    names: Sequence[str] | None = None,
    defensive: float = 0.1,
    chains: int = 4,
    config: RMHConfig | None = None,
    options: "Mapping[str, JSON] | None" = None,
    workers: int = 1,
    max_sites: int = MAX_SITES,
    observer: Observer | None = None,
) -> Calibration:
    """Check that the posteriors of an engine are right on average over the prior.

    In each trial a truth is drawn from the prior, an observation from the truth, and draws from the posterior of that
    observation. The rank of the truth among the draws is uniform when the posteriors are right; it is judged for every
    variable, for the log likelihood, and for all variables jointly. A variable that only some traces have is ranked in
    the trials whose truth has it, among the draws that have it.

    Parameters
    ----------
    simulator
        A simulator, or any function without arguments.
    path
        Folder for truths, posteriors and the result. When the same job is there already it is continued, or returned
        when complete.
    engine
        ``is``, ``ic``, ``rmh`` or ``lmh``; or a function called as
        ``engine(simulator, observation, path, num_draws=..., seed=..., workers=...)`` that returns a posterior.
    num_trials
        Trials; two hundred find what matters, fifty find gross errors.
    num_draws
        Draws for each observation, all chains together.
    seed
        Seed of the job.
    network
        For the engine ``ic``.
    names
        Variables to rank, by name or address; all names when None, long vectors left out.
    defensive
        As in `ic`.
    chains, config
        As in `rmh`; the configuration is for the engine ``rmh`` alone.
    options
        Further arguments of the engine, by name.
    workers
        Processes.
    max_sites
        Length cap of a trace.
    observer
        Told of progress.

    Returns
    -------
    Calibration
        Says in words which variables are miscalibrated, and how; with an ``exit_code``.

    Raises
    ------
    InvalidInputError
        When an argument is out of range, the engine ``ic`` has no network, or the network does not fit.
    StoreExistsError
        When the path holds another job's output; names the field that differs.
    SimulatorError
        When the simulator fails in every probe, or a worker process dies.
    UnknownAddressError
        When no prior draw has one of the names.

    Examples
    --------
    >>> from tracestore.simulators.toys import gum
    >>> calibration = calibrate(gum, "calibration", engine="is", num_trials=60, num_draws=300, seed=1)
    >>> calibration.exit_code, [quantity.name for quantity in calibration.quantities]
    (0, ['mu', 'log likelihood', 'joint'])
    """
    require_positive(num_trials=num_trials, num_draws=num_draws, chains=chains, workers=workers)
    program = as_simulator(simulator)
    plan = _Plan(
        program=program,
        place=to_location(path),
        engine=_require_engine(engine, network),
        num_trials=num_trials,
        num_draws=num_draws,
        seed=seed,
        network=network,
        options=_options(engine, defensive, chains, config, options or {}),
        workers=workers,
        max_sites=max_sites,
    )
    storage = plan.place.open()
    job = plan.job(names)
    _claim(storage, job)
    if storage.exists(FILE_NAME):
        return open_calibration(plan.place)
    progress = _Progress(num_trials, observer)
    draws = prior(program, plan.below("truths"), num_draws=num_trials, seed=seed, workers=workers, max_sites=max_sites)
    trials, observations, features = _read_observations(draws)
    ranks = Ranks(Truths(draws, names), features, trials, seed)
    for trial, posterior in plan.posteriors(trials, observations, observer):
        if posterior is None:
            ranks.add_degenerate()
        else:
            ranks.add(trial, posterior)
        progress.advance()
    found = Calibration(job, len(trials), num_trials - len(trials), ranks.num_degenerate, ranks.quantities())
    storage.replace(FILE_NAME, json.dumps(found.to_json(), indent=1).encode())
    progress.finish()
    return found


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be inferred, and where it is kept."""

    program: Simulator
    place: StoreLocation
    engine: str | Engine
    num_trials: int
    num_draws: int
    seed: int
    network: ProposalProvider | None
    options: dict[str, Any]
    workers: int
    max_sites: int

    def below(self, folder: str) -> StoreLocation:
        return replace(self.place, path=f"{fspath(self.place.path).rstrip('/')}/{folder}")

    def job(self, names: Sequence[str] | None) -> Job:
        options = {
            name: value.to_json() if isinstance(value, RMHConfig) else value for name, value in self.options.items()
        }
        fields: dict[str, JSON] = {
            "engine": self.engine if isinstance(self.engine, str) else _name_of(self.engine),
            **self.program.identity,
            "network": None if self.network is None else self.network.job.hash,
            "num_trials": self.num_trials,
            "num_draws": self.num_draws,
            "seed": int(self.seed),
            "names": None if names is None else list(names),
            "max_sites": self.max_sites,
            **options,
        }
        return Job("calibrate", fields)

    def posteriors(
        self, trials: Sequence[int], observations: Sequence[Observation], observer: Observer | None
    ) -> Iterator[tuple[int, Posterior | None]]:
        """Infer, and yield the posterior of each trial; None where the engine finds no way to the observation."""
        if self.engine == "ic" and self.network is not None:
            several = ic_many(
                self.program, observations, self.below("posteriors"), network=self.network, num_draws=self.num_draws,
                seed=self.seed, workers=self.workers, max_sites=self.max_sites, observer=observer, **self.options,
            )  # fmt: skip
            yield from zip(trials, several, strict=True)
            return
        for trial, observation in zip(trials, observations, strict=True):
            try:
                yield trial, self._infer(trial, observation)
            except InferenceError:
                yield trial, None

    def _infer(self, trial: int, observation: Observation) -> Posterior:
        named: dict[str, Engine] = {"is": importance, "rmh": rmh, "lmh": lmh}
        seed = int(np.random.SeedSequence(self.seed, spawn_key=(0, trial)).generate_state(1, np.uint32)[0])
        place = self.below(f"trial-{trial:06d}")
        if not isinstance(self.engine, str):
            return self.engine(
                self.program, observation, place, num_draws=self.num_draws, seed=seed, workers=self.workers,
                **self.options,
            )  # fmt: skip
        return named[self.engine](
            self.program, observation, place, num_draws=self.num_draws, seed=seed, workers=self.workers,
            max_sites=self.max_sites, **self.options,
        )  # fmt: skip


def _require_engine(engine: str | Engine, network: ProposalProvider | None) -> str | Engine:
    if isinstance(engine, str) and engine not in CALIBRATED_ENGINES:
        message = f"`engine` must be one of {', '.join(CALIBRATED_ENGINES)}, or a function; got {engine!r}."
        raise InvalidInputError(message, argument="engine")
    if (engine == "ic") != (network is not None):
        message = f"`network` belongs to the engine 'ic', which needs one; the engine is {engine!r}."
        raise InvalidInputError(message, argument="network")
    return engine


def _options(
    engine: str | Engine, defensive: float, chains: int, config: RMHConfig | None, others: "Mapping[str, JSON]"
) -> dict[str, Any]:
    """Arguments that the engine has beside those that all have."""
    taken = sorted(_COMMON.intersection(others))
    if taken:
        message = f"`options` are further arguments of the engine; {taken} are arguments of `calibrate` itself."
        raise InvalidInputError(message, argument="options")
    found: dict[str, Any] = {}
    if engine == "ic":
        found = {"defensive": defensive}
    elif engine == "rmh":
        found = {"chains": chains, "config": config or RMHConfig()}
    elif engine == "lmh":
        found = {"chains": chains}
    return {**found, **others}


def _name_of(engine: Engine) -> str:
    return f"{getattr(engine, '__module__', '?')}:{getattr(engine, '__qualname__', type(engine).__qualname__)}"


def _claim(storage: Storage, job: Job) -> None:
    """Make the folder that of the job, or see that it is."""
    if not storage.exists(_JOB) and (storage.files("") or storage.folders("")):
        message = (
            f"{storage.url} holds something that is no calibration; give a folder that is empty or does not exist."
        )
        raise StoreExistsError(message, path=storage.url)
    if not storage.create(_JOB, json.dumps(job.to_json(), indent=1).encode()):
        job.require_same(Job.from_json(json.loads(storage.read(_JOB))), storage.url)


def _read_observations(draws: Posterior) -> tuple[list[int], list[Observation], NDArray[np.float64] | None]:
    """Trials that made an observation, the observations, and their numbers by trial where all have the same."""
    trials = np.flatnonzero(draws.table.column("status") == TraceStatus.OK)
    observations: list[Observation] = []
    for start in range(0, len(trials), _OBSERVATIONS_AT_ONCE):
        batch = draws.table.take(trials[start : start + _OBSERVATIONS_AT_ONCE])
        observations += [batch[row].observations for row in range(len(batch))]
    names = list(observations[0]) if observations else []
    if not names or any(list(observation) != names for observation in observations):
        return trials.tolist(), observations, None
    features = np.zeros((len(draws), sum(int(np.size(observations[0][name])) for name in names)))
    for trial, observation in zip(trials, observations, strict=True):
        features[trial] = np.concatenate([np.ravel(observation[name]).astype(np.float64) for name in names])
    return trials.tolist(), observations, features


class _Progress:
    """Tells an observer of the trials."""

    def __init__(self, num_trials: int, observer: Observer | None) -> None:
        self.num_trials, self.observer = num_trials, observer
        self.done = 0
        self.start = time.perf_counter()
        self._tell(PhaseStarted("calibrate", num_trials, 0, "trials"))

    def advance(self) -> None:
        self.done += 1
        self._tell(PhaseAdvanced("calibrate", self.done, self.num_trials))

    def finish(self) -> None:
        self._tell(PhaseFinished("calibrate", time.perf_counter() - self.start))

    def _tell(self, event: Event) -> None:
        if self.observer is not None:
            self.observer(event)
