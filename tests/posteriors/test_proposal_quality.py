"""Quality of proposals by address, with a network whose proposals are known."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.execution import simulate
from tracestore.inference import importance, rmh
from tracestore.posteriors import Posterior
from tracestore.posteriors.findings import Verdict
from tracestore.posteriors.proposal_quality import proposal_quality
from tracestore.simulators.base import simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Bernoulli, Normal
from tracestore.traces.layout import Site

Rule = Callable[[Site, float, Mapping[str, np.ndarray]], float]
"""Log q of a value at a site for an observation; NaN for the prior."""

OBSERVED = {"y": 2.0}


@simulator
def program() -> None:
    """A number that is seen, one that is not, and one that few traces have."""
    x = sample(Normal(0.0, 1.0), name="x")
    sample(Normal(0.0, 1.0), name="unseen")
    if sample(Bernoulli(0.25), name="coin"):
        sample(Normal(0.0, 1.0), name="seldom")
    observe(Normal(x, 1.0), name="y")


class Session:
    def __init__(self, rule: Rule, observations: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.rule = rule
        self.observations = observations

    def site_log_probs(self, batch: TraceBatch, observation: int | np.ndarray = 0) -> np.ndarray:
        numbers = np.broadcast_to(observation, len(batch))
        return np.array(
            [
                self.rule(site, float(trace.value(position)), self.observations[int(number)])
                for trace, number in zip(batch, numbers, strict=True)
                for position, site in enumerate(trace.sites)
                if site.is_controlled
            ]
        )


class Network:
    def __init__(self, rule: Rule, *, unknown: Sequence[str] = ()) -> None:
        self.rule = rule
        store_bases = {"x", "unseen", "coin", "seldom"} - set(unknown)
        self.names = store_bases
        self.base_addresses: tuple[str, ...] = ()

    def session(self, observations: Sequence[Mapping[str, np.ndarray]], num_slots: int) -> Session:
        return Session(self.rule, observations)

    def trained_on(self, store: TraceStore) -> "Network":
        self.base_addresses = tuple({site.base for site in store.sites() if site.name in self.names})
        return self


def exact(site: Site, value: float, seen: Mapping[str, np.ndarray]) -> float:
    """Propose x from its posterior, and leave the others to the prior."""
    return Normal(float(seen["y"]) / 2.0, math.sqrt(0.5)).log_prob(value) if site.name == "x" else math.nan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quality")


@pytest.fixture(scope="module")
def posterior(folder: Path) -> Posterior:
    return importance(program, OBSERVED, folder / "is", num_draws=4000, seed=1)


def test_the_gain_of_exact_proposals_is_what_the_observation_tells(posterior: Posterior) -> None:
    rows = {
        row.name: row
        for row in proposal_quality(posterior, Network(exact).trained_on(posterior.store), max_traces=4000)
    }
    # relative entropy of N(1, 1/2) from N(0, 1)
    assert rows["x"].gain == pytest.approx(0.5 * (0.5 + 1.0 - 1.0 + math.log(2.0)), abs=0.05)
    assert rows["x"].prior_share == 0.0
    assert rows["unseen"].gain == 0.0
    assert rows["unseen"].prior_share == 1.0


def test_the_benefit_is_how_many_times_more_draws_the_prior_needs(posterior: Posterior) -> None:
    quality = proposal_quality(posterior, Network(exact).trained_on(posterior.store), max_traces=4000)
    rows = {row.name: row for row in quality}
    assert quality.efficiency == pytest.approx(1.0, abs=0.05)  # known as well as the evidence is
    assert rows["x"].benefit == pytest.approx(len(posterior) / posterior.ess, rel=0.05)
    assert rows["unseen"].benefit == pytest.approx(1.0)


def test_presence_is_by_weight_and_visits_are_counted(posterior: Posterior) -> None:
    quality = proposal_quality(posterior, Network(exact).trained_on(posterior.store), max_traces=4000)
    rows = {row.name: row for row in quality}
    assert rows["seldom"].presence == pytest.approx(posterior.presence("seldom"))
    assert rows["seldom"].num_visits == len(posterior.values("seldom").values)
    assert [row.presence for row in quality] == sorted((row.presence for row in quality), reverse=True)


def test_a_proposal_worse_than_the_prior_is_found(posterior: Posterior) -> None:
    def harmful(site: Site, value: float, seen: Mapping[str, np.ndarray]) -> float:
        return Normal(3.0, 1.0).log_prob(value) if site.name == "unseen" else exact(site, value, seen)

    quality = proposal_quality(posterior, Network(harmful).trained_on(posterior.store))
    rows = {row.name: row for row in quality}
    assert rows["unseen"].benefit < 0.5
    (finding,) = quality.findings()
    assert (finding.subject, finding.verdict) == ("unseen", Verdict.DOUBTFUL)
    assert "by 4." in finding.text  # 4.5 nats on average


def test_addresses_never_trained_are_listed(posterior: Posterior) -> None:
    quality = proposal_quality(posterior, Network(exact, unknown=["seldom"]).trained_on(posterior.store))
    assert [row.name for row in quality if not row.is_trained] == ["seldom"]
    assert [base.count("seldom") for base in quality.untrained] == [1]
    assert "never trained" in str(quality)


def test_chains_serve_as_well(folder: Path, posterior: Posterior) -> None:
    chains = rmh(program, OBSERVED, folder / "rmh", num_draws=4000, chains=2, seed=1)
    quality = proposal_quality(chains, Network(exact).trained_on(chains.store), max_traces=4000)
    rows = {row.name: row for row in quality}
    assert rows["x"].gain == pytest.approx(0.5 * (0.5 + math.log(2.0)), abs=0.1)
    assert math.isnan(quality.efficiency)  # chains do not know the evidence


def test_a_store_gives_each_trace_its_own_observation(folder: Path) -> None:
    store = simulate(program, folder / "prior", num_traces=1500, seed=3)
    quality = proposal_quality(store, Network(exact).trained_on(store), max_traces=1500)
    rows = {row.name: row for row in quality}
    # mutual information of x and y: log of the ratio of standard deviations
    assert rows["x"].gain == pytest.approx(0.5 * math.log(2.0), abs=0.05)
    assert math.isnan(rows["x"].benefit)


def test_refuses_scores_of_the_wrong_number(posterior: Posterior) -> None:
    class Short(Session):
        def site_log_probs(self, batch: TraceBatch, observation: int | np.ndarray = 0) -> np.ndarray:
            return np.zeros(3)

    class Odd(Network):
        def session(self, observations: Sequence[Mapping[str, np.ndarray]], num_slots: int) -> Session:
            return Short(self.rule, observations)

    with pytest.raises(InvalidInputError, match="one number for each"):
        proposal_quality(posterior, Odd(exact))


def test_refuses_draws_without_weight(folder: Path) -> None:
    @simulator
    def impossible() -> None:
        sample(Normal(0.0, 1.0), name="x")
        observe(Bernoulli(0.0), name="y")

    posterior = importance(impossible, {"y": 1.0}, folder / "none", num_draws=20, seed=1)
    with pytest.raises(InvalidInputError, match="cannot be judged"):
        proposal_quality(posterior, Network(exact))
