"""Stores of Markov chains made by hand, so that it is known what is wrong with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tracestore.posteriors import Posterior
from tracestore.simulators.base import run_trace, simulator
from tracestore.simulators.runtime import Value, observe, sample
from tracestore.store import Job, TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Bernoulli, Distribution, Normal
from tracestore.traces.layout import Site

COUNTS = {"single": [1000, 300, 0], "walk": [500, 100, 0]}


@simulator
def two() -> None:
    """A number, a coin, and a second number where the coin shows 1."""
    mu = sample(Normal(0.0, 3.0), name="mu")
    if sample(Bernoulli(0.5), name="coin"):
        mu += sample(Normal(0.0, 1.0), name="extra")
    observe(Normal(mu, 1.0), name="y")


class Given:
    """Gives each named draw its value."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = values

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        value = self.values[site.name]
        return value, prior.log_prob(value)


def make_chains(
    path: Path,
    chains: Sequence[Sequence[Mapping[str, float]]],
    counts: Sequence[Mapping[str, Sequence[int]]] | None = None,
    address_counts: Mapping[str, Sequence[int]] | None = None,
) -> Posterior:
    """Write chains of given draws, with given counts of moves, the same by address for each."""
    fields = {"engine": "rmh", "simulator": two.name, "fingerprint": two.fingerprint, "observation": "0"}
    store = TraceStore.create(path, job=Job("infer", fields))
    observed = {"y": np.array(0.5)}
    rng = np.random.default_rng(0)
    with store.writer() as writer:
        for number, draws in enumerate(chains):
            traces = [run_trace(two, Given(values), rng, observations=observed) for values in draws]
            for draw, trace in enumerate(traces):
                trace.chain, trace.draw = number, draw
            moves = COUNTS if counts is None else counts[number]
            state = {
                "chain": number,
                "chunk": 0,
                "counts": {name: list(count) for name, count in moves.items()},
                "address_counts": {name: list(count) for name, count in (address_counts or {}).items()},
            }
            writer.append(TraceBatch.from_traces(traces), work=[number], state=state)
    store.fold()
    return Posterior(TraceStore.open(path))


def independent(num_chains: int, num_draws: int, seed: int, *, coin: float = 0.5) -> list[list[dict[str, float]]]:
    """Make chains that agree: independent draws of the same distribution."""
    rng = np.random.default_rng(seed)
    return [
        [
            {"mu": float(rng.normal()), "coin": int(rng.random() < coin), "extra": float(rng.normal())}
            for _ in range(num_draws)
        ]
        for _ in range(num_chains)
    ]
