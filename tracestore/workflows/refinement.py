"""Refine a network for one observation: draw, learn from the weighted draws, draw again; all draws count in the end.

Each round samples the posterior with the network of the round before, in a mixture with the prior, and fits the next
network to all weighted draws so far.

A draw keeps the weight that it got in its round, which is unbiased given the rounds before, and rounds count in
proportion to their effective draws. Were those counted on the same draws, rounds that missed something would count
more; so each half of the draws is weighed by what the other half shows. The balance heuristic over all rounds (Cornuet
et al. 2012) has smaller nominal errors, but networks have a high density exactly at the draws that they learned from,
which takes weight from them: on a program with an exact answer its evidence was too low by one to three standard errors
each time.

Weights that a few draws dominate are flattened for learning: raised to the largest power up to one at which enough
draws count (Del Moral, Doucet and Jasra 2006).
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.diagnostics.weights import kish_ess
from tracestore.errors import InvalidInputError
from tracestore.events import Observer
from tracestore.inference import ic
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import MAX_SITES, Simulator, as_simulator
from tracestore.store.job import Job
from tracestore.store.trace_store import TraceStore

if TYPE_CHECKING:
    from tracestore.networks import ProposalNetwork
    from tracestore.training import TrainConfig

__all__ = ["Refinement", "Round", "refine", "tempered_power"]

logger = logging.getLogger(__name__)

ROUNDS_FILE = "rounds.json"
BATCH = 2048
"""Traces scored at once."""
MIN_EFFECTIVE = 200.0
"""Draws that must count, at least, in what a network learns from."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found."""

    number: int
    num_draws: int
    ess: float
    """Effective draws of the round by itself."""
    pooled_ess: float
    """Effective draws of all rounds so far."""
    log_evidence: float
    """By all rounds so far."""
    power: float
    """What the weights were raised to for the next network; 1 learns the posterior itself, NaN after the last round."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """The outcome of `refine`."""

    posterior: Posterior
    """Weighted draws of all rounds."""
    network: "ProposalNetwork" = field(repr=False)
    """The network of the last round."""
    rounds: tuple[Round, ...]


def refine(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    network: "ProposalNetwork",
    num_rounds: int = 4,
    num_draws: int = 4000,
    goal: float = 0.5,
    seed: int = 0,
    defensive: float = 0.1,
    num_slots: int = 64,
    workers: int = 1,
    max_sites: int = MAX_SITES,
    config: "TrainConfig | None" = None,
    observer: Observer | None = None,
) -> Refinement:
    """Sample the posterior of one observation with networks that learn from the draws.

    The same call on the same path continues an interrupted refinement, or returns the finished one.

    Parameters
    ----------
    simulator
        A simulator, or any function without arguments.
    observations
        Observed values by name.
    path
        Folder for draws, networks and the posterior.
    network
        Trained on prior traces of this simulator; it is not changed.
    num_rounds
        Rounds at most.
    num_draws
        Draws of each round.
    goal
        Share of effective draws in a round at which no further network is trained.
    seed
        Seed of the job.
    defensive, num_slots, workers, max_sites
        As in `tracestore.inference.ic`.
    config
        How networks are fitted; by default few epochs at a small learning rate. Its ``network`` means nothing.
    observer
        Told of progress.

    Returns
    -------
    Refinement
        Posterior, last network, and a record of each round.

    Raises
    ------
    InvalidInputError
        When the observations or the network do not fit the simulator, or an argument is out of range.
    StoreExistsError
        When the path holds another job's output; names the field that differs.
    DegenerateWeightsError
        When no draw of a round has any weight.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> folder = tempfile.mkdtemp()
    >>> traces = ts.simulate(gum, folder + "/traces", num_traces=300, seed=1)
    >>> first = ts.training.train(traces, folder + "/network", config=ts.training.TrainConfig(epochs=1))
    >>> seen = {"obs0": 8.0, "obs1": 9.0}
    >>> found = refine(gum, seen, folder + "/refined", network=first, num_rounds=2, num_draws=400, goal=1.0)
    >>> len(found.rounds), len(found.posterior)
    (2, 800)
    """
    from tracestore.training import train

    _require(num_rounds, num_draws, goal)
    program, folder = as_simulator(simulator), Path(path)
    config = _default_config() if config is None else config
    stores: list[TraceStore] = []
    rounds: list[Round] = []
    for number in range(num_rounds):
        place = folder / f"round-{number}"
        current = ic(
            program, observations, place / "draws",
            network=network, num_draws=num_draws, seed=_seed(seed, number), defensive=defensive, num_slots=num_slots,
            workers=workers, max_sites=max_sites, observer=observer,
        )  # fmt: skip
        stores.append(current.store)
        pooled = _pool(stores)
        is_last = number + 1 == num_rounds or current.ess >= goal * num_draws
        wanted = min(MIN_EFFECTIVE, 0.1 * len(pooled))
        power = np.nan if is_last else round(tempered_power(pooled.log_weights, wanted), 6)
        rounds.append(Round(number, num_draws, current.ess, pooled.ess, pooled.log_evidence, float(power)))
        logger.info("Round %d: %.0f of %d draws are effective.", number, current.ess, num_draws)
        if is_last:
            break
        material = _write_material(pooled, float(power), place / "material", num_draws, seed=_seed(seed, number))
        network = train(
            material, place / "network", config=replace(config, seed=seed), start=network, observer=observer
        )
    posterior = pooled.save(folder / "posterior", observer=observer)
    (folder / ROUNDS_FILE).write_text(json.dumps([_plain(asdict(each)) for each in rounds], indent=2) + "\n")
    return Refinement(posterior, network, tuple(rounds))


def tempered_power(log_weights: ArrayLike, num_effective: float) -> float:
    """Return the largest power up to one of weights at which so many draws are effective.

    Parameters
    ----------
    log_weights
        Unnormalized log weights, shape ``(draws,)``.
    num_effective
        Kish's size that is wanted; where not even equal weights have it, 0 is returned.

    Examples
    --------
    >>> tempered_power([0.0, 0.0, 0.0], 3.0)
    1.0
    >>> 0.0 < tempered_power([0.0, -10.0, -20.0, -30.0], 2.0) < 0.2
    True
    """
    logs = np.asarray(log_weights, np.float64)
    if kish_ess(logs) >= num_effective * (1.0 - 1e-9):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if kish_ess(middle * _finite(logs)) >= num_effective else (low, middle)
    return low


def _pool(stores: Sequence[TraceStore]) -> Posterior:
    """View the draws of all rounds, each half of them weighed by what the other half shows of its round."""
    pooled = Posterior(*stores)
    home, half = pooled.table.chain, pooled.table.draw % 2
    factors = np.zeros(len(pooled))
    for this in (0, 1):
        sizes = [np.count_nonzero((home == place) & (half == this)) for place in range(len(stores))]
        shares = np.array(
            [kish_ess(pooled.log_weights[(home == place) & (half != this)]) for place in range(len(stores))]
        )
        if not shares.any():
            shares[:] = 1.0
        for place, share in enumerate(shares / shares.sum()):
            # the mean weight over all draws is then the average of the rounds' evidence with these shares
            factor = math.log(share * sum(sizes) / sizes[place]) if share > 0.0 and sizes[place] else -math.inf
            factors[(home == place) & (half == this)] = factor
    return pooled.reweight(factors)


def _write_material(pooled: Posterior, power: float, path: Path, num_draws: int, *, seed: int) -> TraceStore:
    """Write what the next network learns from: draws by their tempered weights."""
    fields = dict(pooled.store.job.fields) if pooled.store.job else {}
    kept = {name: fields.get(name) for name in ("simulator", "fingerprint", "observation", "network")}
    store = TraceStore.open_or_create(path, Job("material", {**kept, "power": power, "num_draws": num_draws}))
    if len(store) == 0:
        logs = pooled.log_weights
        tempered = pooled.reweight(np.where(logs > -np.inf, (power - 1.0) * _finite(logs), 0.0))
        chosen = tempered.resample(num_draws, np.random.default_rng(seed))
        with store.writer() as writer:
            writer.append(chosen, work=[0])
        store.refresh()
    return store


def _finite(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace what is infinite, relative to the largest."""
    top = logs.max()
    return np.where(logs > -np.inf, logs - top, -1e300) if top > -np.inf else logs


def _default_config() -> "TrainConfig":
    from tracestore.training import TrainConfig

    return TrainConfig(epochs=8, learning_rate=1e-3, batch_size=64, validation_fraction=0.1, patience=3)


def _seed(seed: int, number: int) -> int:
    """Seed of a round; rounds must not repeat each other's random numbers."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in record.items()}


def _require(num_rounds: int, num_draws: int, goal: float) -> None:
    for name, number in (("num_rounds", num_rounds), ("num_draws", num_draws)):
        if number < 1:
            message = f"`{name}` must be at least 1; got {number!r}."
            raise InvalidInputError(message, argument=name)
    if not 0.0 < goal <= 1.0:
        message = f"`goal` must lie above 0 and be at most 1; got {goal!r}."
        raise InvalidInputError(message, argument="goal")
