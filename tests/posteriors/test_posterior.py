"""The posterior as a view of stores: names, joined stores, refusals, resampling."""

import math
from pathlib import Path

import numpy as np
import pytest

from tracestore.errors import (
    DiagnosticError,
    InvalidInputError,
    StoreNotFoundError,
    UnknownAddressError,
)
from tracestore.execution import simulate
from tracestore.inference import Posterior, RMHConfig, importance, lmh, open_posterior, prior, rmh
from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.runtime import observe, sample, tag
from tracestore.simulators.toys import gum
from tracestore.store.job import Job
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Bernoulli, Normal

OBSERVED = {"y": 1.0}
GUM_OBSERVED = {"obs0": 8.0, "obs1": 9.0}


@simulator
def mixed() -> float:
    """A draw that only some traces have, a vector, a constant tag."""
    x = sample(Normal(0.0, 1.0), name="x")
    if sample(Bernoulli(0.25), name="extra"):
        x += sample(Normal(0.0, 0.1), name="shift")
    place = sample(Normal(np.zeros(2), np.ones(2)), name="place")
    tag(place + x, name="moved")
    tag(3.0, name="three")
    observe(Normal(x, 1.0), name="y")
    return x


@simulator
def shifted() -> float:
    """What `gum` observes, with another prior."""
    mu = sample(Normal(6.0, 2.0), name="mu")
    observe(Normal(mu, math.sqrt(2.0)), name="obs0")
    observe(Normal(mu, math.sqrt(2.0)), name="obs1")
    return mu


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("posteriors")


@pytest.fixture(scope="module")
def weighted(folder: Path) -> Posterior:
    return importance(mixed, OBSERVED, folder / "is", num_draws=1500, seed=1)


@pytest.fixture(scope="module")
def chained(folder: Path) -> Posterior:
    return rmh(mixed, OBSERVED, folder / "rmh", num_draws=2000, chains=2, seed=1, config=RMHConfig(warmup=200))


@pytest.fixture(params=["weighted", "chained"])
def posterior(request: pytest.FixtureRequest) -> Posterior:
    return request.getfixturevalue(request.param)


class TestBoth:
    def test_names_are_draws_then_tags(self, posterior: Posterior) -> None:
        assert set(posterior.names[:4]) == {"x", "extra", "shift", "place"}
        assert posterior.names[4:] == ("moved", "three", "result")

    def test_draws_agree_with_the_traces(self, posterior: Posterior) -> None:
        draws = posterior.values("shift")
        wanted = {(trace.chain, trace.draw): trace["shift"] for trace in posterior.store if "shift" in trace}
        found = dict(zip(zip(draws.chain.tolist(), draws.draw.tolist(), strict=True), draws.values, strict=True))
        assert found == wanted

    def test_draws_come_chain_by_chain(self, posterior: Posterior) -> None:
        draws = posterior.values("x")
        order = np.lexsort((draws.draw, draws.chain))
        np.testing.assert_array_equal(order, np.arange(len(posterior)))

    def test_tags_results_and_addresses_are_variables(self, posterior: Posterior) -> None:
        assert np.shape(posterior.mean("moved")) == (2,)
        address = next(site.address for site in posterior.store[0].sites if site.name == "x")
        assert posterior.mean(address) == posterior.mean("x")
        total = posterior.values("moved").values - posterior.values("place").values
        np.testing.assert_allclose(total[:, 0], posterior.values("result").values)

    def test_rare_variables_have_presence_and_moments(self, posterior: Posterior) -> None:
        assert posterior.presence("x") == pytest.approx(1.0)
        assert posterior.presence("shift") == pytest.approx(posterior.mean("extra"))
        assert 0.1 < posterior.presence("shift") < 0.4
        assert abs(float(posterior.mean("shift"))) < 0.1

    def test_exact_mean(self, posterior: Posterior) -> None:
        # the shift is small: x given y is nearly Normal(1/2, sqrt(1/2))
        assert abs(float(posterior.mean("x")) - 0.5) < 4 * float(posterior.mcse("x")) + 0.002
        assert posterior.quantile("x", 0.5) == pytest.approx(0.5, abs=0.12)

    def test_unknown_names_list_the_known_ones(self, posterior: Posterior) -> None:
        with pytest.raises(UnknownAddressError, match=r"No draw has 'z'; the names are: .*x.*result"):
            posterior.values("z")

    def test_constants(self, posterior: Posterior) -> None:
        assert posterior.is_constant("three")
        assert not posterior.is_constant("x")
        assert posterior.std("three") == pytest.approx(0.0, abs=1e-12)
        assert posterior.mcse("three") == pytest.approx(0.0, abs=1e-12)

    def test_summary_has_all_names(self, posterior: Posterior) -> None:
        rows = {row.name: row for row in posterior.summary()}
        assert set(rows) == {"x", "extra", "shift", "place[0]", "place[1]", "moved[0]", "moved[1]", "three", "result"}
        assert rows["three"].note == "constant"
        assert rows["shift"].note.startswith("present in")
        assert "nan" not in str(posterior.summary(["x", "three"]))

    def test_size_is_one_number(self, posterior: Posterior) -> None:
        assert isinstance(posterior.ess, float)
        assert 20 < posterior.ess <= len(posterior)

    def test_opens_again(self, posterior: Posterior) -> None:
        again = open_posterior(posterior.store.path)
        assert again.mean("x") == posterior.mean("x")
        assert repr(again) == repr(posterior)

    def test_resampled_traces_follow_the_weights(self, posterior: Posterior) -> None:
        batch = posterior.resample(5000, np.random.default_rng(2))
        assert len(batch) == 5000
        assert batch.named("x")[0].astype(float).mean() == pytest.approx(float(posterior.mean("x")), abs=0.02)
        assert (batch.log_weight == 0.0).all()


class TestWeighted:
    def test_evidence(self, weighted: Posterior) -> None:
        exact = -0.25 - 0.5 * math.log(4 * math.pi)
        assert abs(weighted.log_evidence - exact) < 4 * weighted.log_evidence_se + 0.002

    def test_numbers_of_the_weights(self, weighted: Posterior) -> None:
        assert weighted.weights.sum() == pytest.approx(1.0)
        assert weighted.khat < 0.5
        assert weighted.ess_of("shift") < weighted.ess
        assert "ESS" in repr(weighted)

    def test_no_rhat(self, weighted: Posterior) -> None:
        with pytest.raises(DiagnosticError, match=r"weighted draws of the engine 'is'\. Look at `ess` and `khat`"):
            weighted.rhat("x")

    def test_no_acceptance(self, weighted: Posterior) -> None:
        with pytest.raises(DiagnosticError, match="Acceptance belongs to Markov chains"):
            _ = weighted.acceptance


class TestChains:
    def test_agree(self, chained: Posterior) -> None:
        assert chained.rhat("x") < 1.05
        assert math.isnan(chained.rhat("three"))
        assert chained.ess <= chained.ess_of("x")
        assert chained.num_chains == 2

    def test_no_evidence(self, chained: Posterior) -> None:
        with pytest.raises(DiagnosticError, match="do not estimate the evidence; these are draws of the engine 'rmh'"):
            _ = chained.log_evidence

    def test_no_khat(self, chained: Posterior) -> None:
        with pytest.raises(DiagnosticError, match="k-hat judges importance weights"):
            _ = chained.khat

    def test_acceptance_by_chain_and_move(self, chained: Posterior) -> None:
        rows = chained.acceptance_by_move
        assert sum(row.num_proposed for row in rows) == 2000
        assert {row.chain for row in rows} == {0, 1}
        assert chained.acceptance == sum(row.num_accepted for row in rows) / 2000
        assert 0.1 < chained.acceptance < 1.0


class TestJoined:
    def test_weighted_stores_pool_their_draws(self, folder: Path, weighted: Posterior) -> None:
        other = importance(mixed, OBSERVED, folder / "is2", num_draws=500, seed=2)
        both = open_posterior(weighted.store.path, other.store.path)
        assert len(both) == 2000
        pooled = np.concatenate([weighted.log_weights, other.log_weights])
        assert both.log_evidence == pytest.approx(float(np.log(np.mean(np.exp(pooled)))))
        values = np.concatenate([weighted.values("x").values, other.values("x").values])
        assert both.mean("x") == pytest.approx(float(np.exp(pooled) @ values / np.exp(pooled).sum()))
        assert len(both.resample(100, np.random.default_rng(3))) == 100

    def test_draws_of_several_proposals_pool_to_one_estimate(self, folder: Path) -> None:
        # log evidence and mean of gum at these values are exact; the second store has another proposal and size
        prior_like = importance(gum, GUM_OBSERVED, folder / "pool-is", num_draws=900, seed=1)
        traces = list(importance(shifted, GUM_OBSERVED, folder / "pool-q", num_draws=300, seed=2).store)
        for trace in traces:
            log_prior = Normal(1.0, math.sqrt(5.0)).log_prob(float(trace["mu"]))
            trace.log_proposal, trace.log_weight = trace.log_prior, trace.log_weight + log_prior - trace.log_prior
        job = prior_like.store.job
        assert job is not None
        store = TraceStore.create(folder / "pool-ic", job=Job("infer", {**job.fields, "engine": "ic"}))
        store.append(TraceBatch.from_traces(traces))
        both = Posterior(prior_like.store, store)
        assert both.engine == "is+ic"
        pooled = np.concatenate([prior_like.log_weights, [trace.log_weight for trace in traces]])
        assert both.log_evidence == pytest.approx(float(np.log(np.exp(pooled).mean())))
        assert abs(both.log_evidence + 8.239403981583319) < 4 * both.log_evidence_se
        assert abs(float(both.mean("mu")) - 7.25) < 4 * float(both.mcse("mu"))

    def test_chains_are_numbered_on(self, folder: Path, chained: Posterior) -> None:
        other = lmh(mixed, OBSERVED, folder / "lmh", num_draws=600, chains=3, seed=2, warmup=200)
        both = open_posterior(chained.store.path, other.store.path)
        assert both.num_chains == 5
        assert np.unique(both.values("x").chain).tolist() == [0, 1, 2, 3, 4]
        assert both.rhat("x") < 1.2
        assert {row.chain for row in both.acceptance_by_move} == {0, 1, 2, 3, 4}
        assert both.engine == "rmh+lmh"

    def test_another_observation_is_refused(self, folder: Path, weighted: Posterior) -> None:
        other = importance(mixed, {"y": 2.0}, folder / "elsewhere", num_draws=50, seed=1)
        with pytest.raises(InvalidInputError, match="differ in 'observation'"):
            Posterior(weighted.store, other.store)

    def test_another_simulator_is_refused(self, folder: Path, weighted: Posterior) -> None:
        program = Simulator(mixed.function, name="other")
        other = importance(program, OBSERVED, folder / "other", num_draws=50, seed=1)
        with pytest.raises(InvalidInputError, match="differ in 'simulator'"):
            Posterior(weighted.store, other.store)

    def test_weights_and_chains_are_refused(self, weighted: Posterior, chained: Posterior) -> None:
        with pytest.raises(InvalidInputError, match=r"engines \['is', 'rmh'\] cannot be joined"):
            Posterior(weighted.store, chained.store)


class TestNotAPosterior:
    def test_a_store_of_prior_traces(self, tmp_path: Path) -> None:
        store = simulate(gum, tmp_path / "traces", num_traces=5)
        with pytest.raises(
            InvalidInputError, match="not the output of an inference engine; it was written by 'simulate'"
        ):
            Posterior(store)

    def test_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(StoreNotFoundError):
            open_posterior(tmp_path / "nothing")

    def test_prior_draws_are_a_posterior_without_observation(self, tmp_path: Path) -> None:
        posterior = prior(mixed, tmp_path / "prior", num_draws=200, seed=1)
        assert posterior.is_weighted
        assert posterior.ess == pytest.approx(200)
        assert posterior.khat == 0.0
