"""Diagnoses of posteriors that are known to be good, or bad in one way."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.posteriors.made_chains import COUNTS, independent, make_chains
from tracestore.errors import InvalidInputError, UnknownAddressError
from tracestore.inference import importance, prior, rmh
from tracestore.posteriors import Posterior
from tracestore.posteriors.diagnosis import Diagnosis, Finding, Verdict, diagnose
from tracestore.simulators.base import simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.simulators.toys import gum
from tracestore.store import Job, TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Bernoulli, Gamma, Normal, Uniform

OBSERVED = {"obs0": 2.0, "obs1": 1.0}


def only(diagnosis: Diagnosis, code: str) -> Finding:
    (finding,) = diagnosis.of(code)
    return finding


def reweighted(posterior: Posterior, path: Path, log_weights: np.ndarray) -> Posterior:
    """Store the draws of a posterior anew, with other weights."""
    batch = posterior.store.take(np.arange(len(posterior)))
    batch.log_weight[:] = log_weights
    store = TraceStore.create(path, job=posterior.store.job)
    with store.writer() as writer:
        writer.append(TraceBatch.concatenate([batch]), work=[0])
    store.fold()
    return Posterior(TraceStore.open(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("diagnosed")


@pytest.fixture(scope="module")
def easy(folder: Path) -> Posterior:
    return importance(gum, OBSERVED, folder / "easy", num_draws=3000, seed=1)


class TestWeights:
    def test_a_good_one(self, easy: Posterior) -> None:
        diagnosis = diagnose(easy)
        assert (diagnosis.verdict, diagnosis.exit_code) == (Verdict.GOOD, 0)
        assert {finding.code for finding in diagnosis.findings} == {"khat", "ess"}

    @pytest.mark.parametrize(("shape", "verdict"), [(0.3, Verdict.GOOD), (1.2, Verdict.BAD)])
    def test_khat(self, easy: Posterior, tmp_path: Path, shape: float, verdict: Verdict) -> None:
        weights = np.random.default_rng(3).pareto(1.0 / shape, len(easy)) + 1.0
        finding = only(diagnose(reweighted(easy, tmp_path / "pareto", np.log(weights))), "khat")
        assert finding.verdict is verdict
        assert ("rmh" in finding.advice) == (verdict is Verdict.BAD)

    @pytest.mark.parametrize(("largest", "verdict"), [(25.0, Verdict.GOOD), (60.0, Verdict.DOUBTFUL)])
    def test_khat_does_not_apply_to_weights_of_few_values(
        self, easy: Posterior, tmp_path: Path, largest: float, verdict: Verdict
    ) -> None:
        weights = np.ones(len(easy))
        weights[:130], weights[:60], weights[:20] = 1.6, 2.0, largest
        finding = only(diagnose(reweighted(easy, tmp_path / "ties", np.log(weights))), "khat")
        assert finding.verdict is verdict
        assert "largest weights take only 4 values" in finding.text

    @pytest.mark.parametrize(("share", "verdict"), [(0.5, Verdict.BAD), (0.1, Verdict.DOUBTFUL), (0.04, None)])
    def test_one_draw_with_much_of_the_weight(self, easy, tmp_path, share, verdict) -> None:
        log_weights = np.zeros(len(easy))
        log_weights[77] = np.log((len(easy) - 1) * share / (1.0 - share))
        findings = diagnose(reweighted(easy, tmp_path / "one", log_weights)).of("one-draw")
        assert [finding.verdict for finding in findings] == ([] if verdict is None else [verdict])
        assert all("number 77" in finding.text for finding in findings)

    @pytest.mark.parametrize(("num_used", "verdict"), [(40, Verdict.BAD), (120, Verdict.DOUBTFUL), (400, Verdict.GOOD)])
    def test_size(self, easy, tmp_path, num_used, verdict) -> None:
        log_weights = np.full(len(easy), -np.inf)
        log_weights[:num_used] = 0.0
        assert only(diagnose(reweighted(easy, tmp_path / "few", log_weights)), "ess").verdict is verdict

    def test_hardly_any_draw_counts(self, folder: Path, tmp_path: Path) -> None:
        many = importance(gum, OBSERVED, folder / "many", num_draws=4000, seed=1)
        log_weights = np.full(len(many), -np.inf)
        log_weights[:3] = 0.0
        finding = only(diagnose(reweighted(many, tmp_path / "hardly", log_weights)), "efficiency")
        assert "0.075 %" in finding.text

    def test_the_observe_that_rules_everything_out_is_named(self, folder: Path) -> None:
        @simulator
        def bounded() -> None:
            x = sample(Uniform(0.0, 1.0), name="x")
            observe(Normal(x, 1.0), name="fine")
            observe(Uniform(x, x + 1.0), name="outside")

        posterior = importance(bounded, {"fine": 0.5, "outside": 7.0}, folder / "zero", num_draws=200, seed=1)
        diagnosis = diagnose(posterior)
        finding = only(diagnosis, "no-weight")
        assert diagnosis.exit_code == 1
        assert finding.subject == "outside"
        assert "probability zero in 200 of 200 visits" in finding.text
        assert "'outside'" in finding.text
        assert "'fine'" not in finding.text + finding.advice

    def test_the_observe_with_the_lowest_log_prob_is_named_when_none_is_impossible(self, easy, tmp_path) -> None:
        finding = only(diagnose(reweighted(easy, tmp_path / "lost", np.full(len(easy), -np.inf))), "no-weight")
        assert "lowest log probabilities" in finding.text
        assert finding.subject in OBSERVED

    def test_failed_runs_are_counted_by_reason(self, folder: Path) -> None:
        @simulator
        def fragile() -> None:
            x = sample(Uniform(0.0, 1.0), name="x")
            if x < 0.2:
                raise ValueError("too small")
            observe(Normal(x, 1.0), name="y")

        posterior = importance(fragile, {"y": 0.5}, folder / "fragile", num_draws=1000, seed=1)
        finding = only(diagnose(posterior), "failed-runs")
        assert finding.verdict is Verdict.DOUBTFUL
        assert f"{posterior.num_failed} x ValueError: too small" in finding.text

    def test_every_run_failed(self, folder: Path, easy: Posterior) -> None:
        batch = easy.store.take(np.arange(50))
        batch.log_weight[:], batch.status[:] = -np.inf, 1
        batch.failures.update(dict.fromkeys(range(50), "RuntimeError: broken"))  # type: ignore[attr-defined]
        store = TraceStore.create(folder / "broken", job=easy.store.job)
        with store.writer() as writer:
            writer.append(batch, work=[0])
        store.fold()
        diagnosis = diagnose(Posterior(TraceStore.open(folder / "broken")))
        assert only(diagnosis, "failed-runs").verdict is Verdict.BAD
        assert "failed in every run" in only(diagnosis, "no-weight").text

    def test_a_rare_variable_has_few_draws_of_its_own(self, folder: Path) -> None:
        @simulator
        def rare() -> None:
            x = sample(Normal(0.0, 1.0), name="x")
            if sample(Bernoulli(0.01), name="switch"):
                x += sample(Normal(0.0, 1.0), name="seldom")
            observe(Normal(x, 1.0), name="y")

        posterior = importance(rare, {"y": 0.5}, folder / "rare", num_draws=1500, seed=1)
        finding = next(finding for finding in diagnose(posterior).of("ess-variable") if finding.subject == "seldom")
        assert "present in" in finding.text

    def test_a_random_width_is_an_unbounded_likelihood(self, folder: Path) -> None:
        @simulator
        def gdemo() -> None:
            s = 1.0 / sample(Gamma(2.0, 3.0), name="precision")
            m = sample(Normal(0.0, s**0.5), name="m")
            observe(Normal(m, s**0.5), name="y")

        posterior = importance(gdemo, {"y": 1.5}, folder / "gdemo", num_draws=1000, seed=1)
        finding = only(diagnose(posterior), "unbounded-likelihood")
        assert finding.subject == "y"
        assert "infinite" in finding.text

    def test_prior_draws_are_not_judged_by_weights(self, folder: Path) -> None:
        diagnosis = diagnose(prior(gum, folder / "prior", num_draws=50, seed=1))
        assert diagnosis.verdict is Verdict.GOOD
        assert [finding.code for finding in diagnosis.findings] == ["prior"]

    def test_addresses_that_the_network_never_met(self, easy: Posterior) -> None:
        class Ignorant:
            base_addresses = ("elsewhere",)

        finding = only(diagnose(easy, network=Ignorant()), "untrained")
        assert finding.verdict is Verdict.DOUBTFUL
        assert "mu" in finding.subject
        assert "100 % of the posterior" in finding.text

    def test_a_network_that_knows_all(self, easy: Posterior) -> None:
        class Knowing:
            base_addresses = tuple({site.base for layout in easy.store.take([0]).layouts for site in layout.sites})

        assert only(diagnose(easy, network=Knowing()), "untrained").verdict is Verdict.GOOD

    def test_no_draws(self, tmp_path: Path) -> None:
        job = Job("infer", {"engine": "is", "simulator": "x", "fingerprint": "y", "observation": "0"})
        diagnosis = diagnose(Posterior(TraceStore.create(tmp_path / "empty", job=job)))
        assert [finding.code for finding in diagnosis.findings] == ["no-draws"]
        assert diagnosis.exit_code == 1


class TestChains:
    def test_good_ones(self, tmp_path: Path) -> None:
        diagnosis = diagnose(make_chains(tmp_path / "good", independent(4, 300, 1)))
        assert diagnosis.verdict is Verdict.GOOD
        assert {"rhat", "ess-bulk", "ess-tail", "present-in-some"} == {finding.code for finding in diagnosis.findings}

    def test_good_ones_of_the_engine(self, tmp_path: Path) -> None:
        posterior = rmh(gum, OBSERVED, tmp_path / "rmh", num_draws=8000, chains=4, seed=1)
        assert diagnose(posterior).exit_code == 0

    def test_a_chain_elsewhere(self, tmp_path: Path) -> None:
        chains = independent(4, 200, 2)
        for draw in chains[2]:
            draw["mu"] += 3.0
        finding = only(diagnose(make_chains(tmp_path / "c", chains)), "rhat")
        assert finding.verdict is Verdict.BAD
        assert "'mu'" in finding.text

    def test_a_chain_of_another_spread(self, tmp_path: Path) -> None:
        chains = independent(4, 200, 3)
        for draw in chains[1]:
            draw["mu"] *= 6.0
        assert only(diagnose(make_chains(tmp_path / "c", chains)), "rhat").verdict is Verdict.BAD

    def test_a_chain_that_stands_still(self, tmp_path: Path) -> None:
        chains = independent(4, 200, 4)
        chains[3] = [chains[3][0]] * 200
        diagnosis = diagnose(make_chains(tmp_path / "c", chains))
        finding = only(diagnosis, "stuck")
        assert (finding.verdict, finding.subject) == (Verdict.BAD, "chain 3")
        assert "200 of its 200" in finding.text
        assert diagnosis.of("constant-in-some")

    def test_a_long_standstill(self, tmp_path: Path) -> None:
        chains = independent(2, 200, 5)
        chains[0][50:90] = [chains[0][50]] * 40
        finding = only(diagnose(make_chains(tmp_path / "c", chains)), "stuck")
        assert (finding.verdict, finding.subject) == (Verdict.DOUBTFUL, "chain 0")
        assert "40 of its 200" in finding.text

    def test_a_chain_that_never_accepts(self, tmp_path: Path) -> None:
        counts = [COUNTS, {"single": [1000, 0, 0], "walk": [500, 0, 0]}]
        finding = only(diagnose(make_chains(tmp_path / "c", independent(2, 100, 6), counts)), "no-acceptance")
        assert (finding.verdict, finding.subject) == (Verdict.BAD, "chain 1")
        assert "none of its 1,500 moves" in finding.text

    def test_a_move_that_never_accepts(self, tmp_path: Path) -> None:
        counts = [{"single": [1000, 300, 0], "walk": [500, 0, 0]}] * 2
        finding = only(diagnose(make_chains(tmp_path / "c", independent(2, 100, 7), counts)), "idle-move")
        assert (finding.subject, finding.verdict) == ("walk", Verdict.GOOD)

    def test_an_address_whose_moves_were_never_accepted(self, tmp_path: Path) -> None:
        by_address = {"two:mu": [400, 90], "two:coin": [300, 0], "two:extra": [20, 0]}
        posterior = make_chains(tmp_path / "c", independent(2, 100, 7), address_counts=by_address)
        finding = only(diagnose(posterior), "no-acceptance-at")
        assert (finding.subject, finding.verdict) == ("two:coin", Verdict.DOUBTFUL)
        assert "tried 600 times" in finding.text
        assert "extra" not in finding.text  # twice twenty tries say little

    def test_a_saved_view_has_no_moves_to_judge(self, tmp_path: Path) -> None:
        thinned = make_chains(tmp_path / "c", independent(4, 400, 18)).thin(2).save(tmp_path / "thin")
        assert diagnose(thinned).of("rhat")

    def test_reweighted_chains_are_judged_as_chains_and_by_their_weights(self, tmp_path: Path) -> None:
        posterior = make_chains(tmp_path / "c", independent(4, 300, 19))
        heavy = posterior.reweight(np.log(np.random.default_rng(1).pareto(0.8, len(posterior)) + 1.0))
        diagnosis = diagnose(heavy)
        assert only(diagnosis, "rhat").verdict is Verdict.GOOD
        assert only(diagnosis, "khat").verdict is Verdict.BAD

    def test_failures_are_rejected_moves(self, tmp_path: Path) -> None:
        counts = [{"single": [1000, 300, 100]}] * 2
        finding = only(diagnose(make_chains(tmp_path / "c", independent(2, 100, 8), counts)), "failed-runs")
        assert finding.verdict is Verdict.DOUBTFUL
        assert "200 of 2,000 moves" in finding.text

    def test_a_variable_constant_in_some_chains(self, tmp_path: Path) -> None:
        chains = independent(4, 200, 9)
        for draw in chains[1]:
            draw["coin"] = 1
        finding = next(
            finding
            for finding in diagnose(make_chains(tmp_path / "c", chains)).of("constant-in-some")
            if finding.subject == "coin"
        )
        assert finding.verdict is Verdict.DOUBTFUL
        assert "chain 1" in finding.text
        assert "it is 1.0 there" in finding.text

    def test_a_variable_that_differs_between_chains_and_never_varies_within(self, tmp_path: Path) -> None:
        chains = independent(4, 100, 10)
        for number, chain in enumerate(chains):
            for draw in chain:
                draw["coin"] = number % 2
        diagnosis = diagnose(make_chains(tmp_path / "c", chains))
        verdicts = {finding.subject: finding.verdict for finding in diagnosis.of("constant-in-some")}
        assert verdicts["coin"] is Verdict.BAD
        assert "infinite" in only(diagnosis, "rhat").text

    def test_a_variable_present_in_few_draws(self, tmp_path: Path) -> None:
        chains = independent(4, 200, 11, coin=0.0)
        chains[0][7]["coin"] = chains[2][9]["coin"] = 1
        diagnosis = diagnose(make_chains(tmp_path / "c", chains))
        finding = only(diagnosis, "rarely-present")
        assert finding.subject == "extra"
        assert "present in 0.25 % of the draws, 2 in 2 of 4 chains" in finding.text

    def test_presence_and_value_are_judged_apart(self, tmp_path: Path) -> None:
        presence = independent(4, 300, 12)
        for draw in presence[0]:
            draw["coin"] = int(draw["coin"] and draw["mu"] > 1)
        value = independent(4, 300, 12)
        for draw in value[0]:
            draw["extra"] += 3.0
        for name, chains, subject in (("p", presence, "presence of extra"), ("v", value, "extra where present")):
            finding = only(diagnose(make_chains(tmp_path / name, chains), names=["extra"]), "rhat")
            assert (finding.verdict, finding.subject) == (Verdict.BAD, subject)

    def test_slow_chains(self, tmp_path: Path) -> None:
        chains = independent(4, 400, 13)
        for chain in chains:
            for before, draw in pairwise(chain):
                draw["mu"] = 0.95 * before["mu"] + 0.3 * draw["mu"]
        finding = only(diagnose(make_chains(tmp_path / "c", chains)), "ess-bulk")
        assert finding.verdict in (Verdict.BAD, Verdict.DOUBTFUL)
        assert (finding.subject, "Run" in finding.advice) == ("mu", True)

    @pytest.mark.parametrize(("number", "verdict"), [(1, Verdict.DOUBTFUL), (2, Verdict.GOOD)])
    def test_few_chains(self, tmp_path: Path, number: int, verdict: Verdict) -> None:
        diagnosis = diagnose(make_chains(tmp_path / "c", independent(number, 300, 14)))
        assert only(diagnosis, "few-chains").verdict is verdict
        assert len(diagnosis.of("rhat")) == (number > 1)

    def test_few_draws(self, tmp_path: Path) -> None:
        diagnosis = diagnose(make_chains(tmp_path / "c", independent(4, 3, 15)))
        assert only(diagnosis, "few-draws").verdict is Verdict.BAD

    def test_limits_are_the_callers(self, tmp_path: Path) -> None:
        posterior = make_chains(tmp_path / "c", independent(4, 100, 16))
        strict = diagnose(posterior, ess_per_chain=1000.0)
        assert only(strict, "ess-bulk").verdict is Verdict.DOUBTFUL
        assert only(diagnose(posterior, ess_per_chain=10.0), "ess-bulk").verdict is Verdict.GOOD
        assert only(diagnose(posterior, rhat_max=1.0001), "rhat").verdict is not Verdict.GOOD


class TestDiagnosis:
    def test_the_worst_comes_first_and_the_text_says_all(self, tmp_path: Path) -> None:
        chains = independent(2, 200, 17)
        for draw in chains[0]:
            draw["mu"] += 5.0
        diagnosis = diagnose(make_chains(tmp_path / "c", chains))
        ranks = [finding.verdict.rank for finding in diagnosis.findings]
        assert ranks == sorted(ranks, reverse=True)
        lines = str(diagnosis).splitlines()
        assert lines[0].endswith("400 draws of 2 chains: do not trust")
        assert len(lines) == 1 + len(diagnosis.findings)

    def test_json(self, easy: Posterior) -> None:
        document = json.loads(json.dumps(diagnose(easy).to_json()))
        assert (document["verdict"], document["exit_code"]) == ("good", 0)
        assert {"verdict", "code", "subject", "text", "advice"} == set(document["findings"][0])

    @pytest.mark.parametrize("limits", [{"rhat_max": 1.0}, {"ess_per_chain": 0.0}])
    def test_refuses_limits_out_of_range(self, easy: Posterior, limits: dict[str, float]) -> None:
        with pytest.raises(InvalidInputError, match=next(iter(limits))):
            diagnose(easy, **limits)  # type: ignore[arg-type]

    def test_refuses_unknown_names(self, easy: Posterior) -> None:
        with pytest.raises(UnknownAddressError, match="nu"):
            diagnose(easy, names=["nu"])
