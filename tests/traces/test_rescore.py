"""Log probabilities computed anew: sound traces of every kind agree, and every kind of change is found and named."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.inference.providers import RuleProvider
from tests.traces.distribution_cases import CASES, DISCRETE, Case, case_id
from tracestore.errors import InvalidInputError
from tracestore.inference import RMHConfig, ic, importance, lmh, prior, rmh
from tracestore.simulators import PriorController, Simulator, observe, run_trace, sample, simulator, tag, toys
from tracestore.store import TraceStore
from tracestore.traces import Layout, Site, SiteKind, Trace, TraceBatch, TraceStatus
from tracestore.traces.distributions import (
    FAMILIES,
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    LogNormal,
    Mixture,
    MultivariateNormal,
    Normal,
    PiecewiseUniform,
    Poisson,
    TruncatedNormal,
    Uniform,
    VonMises,
    Weibull,
    from_parameters,
    rows,
)
from tracestore.traces.rescore import Disagreement, disagreements, rescore, scored_observations

FAR = 1e-3
"""A change of a log probability that no tolerance covers."""
OBSERVED = {"obs0": 8.0, "obs1": 9.0}

positive = Gamma(3.0, 2.0)
MAKERS: list[Callable[[np.random.Generator], Distribution]] = [
    lambda rng: Normal(rng.normal(), positive.sample(rng)),
    lambda rng: Uniform(-positive.sample(rng), positive.sample(rng)),
    lambda rng: Categorical(rng.dirichlet(np.ones(4))),
    lambda rng: Poisson(positive.sample(rng)),
    lambda rng: Bernoulli(rng.random()),
    lambda rng: Beta(positive.sample(rng), positive.sample(rng), -positive.sample(rng), 1.0),
    lambda rng: Exponential(positive.sample(rng)),
    lambda rng: Gamma(positive.sample(rng), positive.sample(rng)),
    lambda rng: LogNormal(rng.normal(), positive.sample(rng)),
    lambda rng: Binomial(int(rng.integers(1, 30)), rng.random()),
    lambda rng: Weibull(positive.sample(rng), positive.sample(rng)),
    lambda rng: TruncatedNormal(rng.normal(), positive.sample(rng), -1.0, positive.sample(rng)),
    lambda rng: VonMises(rng.normal(), positive.sample(rng)),
    lambda rng: MultivariateNormal(rng.normal(size=2), np.eye(2) + 0.5 * rng.random()),
    lambda rng: Mixture([Normal(rng.normal(), 1.0), Uniform(-positive.sample(rng), 1.0)], rng.dirichlet([1.0, 1.0])),
    lambda rng: PiecewiseUniform(np.cumsum([0.0, *rng.random(3)]), rng.dirichlet(np.ones(3))),
    lambda rng: Normal(rng.normal(size=(2, 3)), positive.sample(rng)),
    lambda rng: TruncatedNormal(rng.normal(size=3), 1.0, -1.0, 2.0),
    lambda rng: Binomial([3, 9], rng.random(2)),
    lambda rng: Mixture([Poisson(rng.random(2)), Poisson([3.0, 4.0])], rng.dirichlet([1.0, 1.0])),
]
"""Distributions with parameters of their own in every trace: every family, and some that are vector-valued."""


def simulate(program: Callable[[], object], num_traces: int, **options: object) -> TraceBatch:
    runner = program if isinstance(program, Simulator) else Simulator(program)
    traces = [
        run_trace(runner, PriorController(), np.random.default_rng([7, k]), **options)  # type: ignore[arg-type]
        for k in range(num_traces)
    ]
    return TraceBatch.from_traces(traces)


def one_draw(distribution: Distribution, num_traces: int = 3) -> TraceBatch:
    def program() -> None:
        sample(distribution, address="here", name="x")

    return simulate(program, num_traces)


def one_observe(likelihood: Distribution, value: float | None = None, **options: object) -> TraceBatch:
    def program() -> None:
        observe(likelihood, value, address="here", name="y", **options)  # type: ignore[arg-type]

    return simulate(program, 3)


def found_in(batch: TraceBatch) -> list[tuple[int, str]]:
    return [(one.row, one.address) for one in disagreements(batch)]


def changed(flat: np.ndarray, index: int, number: float) -> np.ndarray:
    copy = flat.copy()
    copy[index] = number
    return copy


def address_of(batch: TraceBatch, position: int = 0) -> str:
    return batch.layouts[0].sites[position].address


def first_words(family: str) -> str:
    return family.partition("(")[0]


class Cauchy(Normal):
    """A family of somebody else."""

    __slots__ = ()
    family = "Cauchy"

    def log_prob(self, value: object) -> float:
        return -math.log(math.pi) - math.log1p(float(value) ** 2)  # type: ignore[arg-type]


class TestSoundTraces:
    def test_the_cases_cover_every_family(self) -> None:
        rng = np.random.default_rng(1)
        assert {first_words(case.distribution.family) for case in CASES} == set(FAMILIES)
        assert {first_words(make(rng).family) for make in MAKERS} == set(FAMILIES)

    @pytest.mark.parametrize("case", CASES, ids=case_id)
    def test_of_every_family_agree(self, case: Case) -> None:
        def program() -> None:
            sample(case.distribution)
            sample(case.distribution, control=False)
            observe(case.distribution)
            observe(case.distribution, name="seen")
            tag(1.0)

        batch = simulate(program, 12)
        assert disagreements(batch) == []
        is_scored = 1.0 if case.distribution.num_parameters else 0.0
        np.testing.assert_array_equal(np.isfinite(rescore(batch)).reshape(12, 5).mean(0), [*[is_scored] * 4, 0.0])

    def test_with_parameters_of_their_own_are_recomputed_exactly(self) -> None:
        source = np.random.default_rng(3)

        def program() -> None:
            for place, make in enumerate(MAKERS):
                sample(make(source), address=f"draw{place}")
                observe(make(source), address=f"see{place}", name=f"obs{place}")

        batch = simulate(program, 40)
        np.testing.assert_allclose(rescore(batch), batch.log_probs, rtol=1e-13, atol=1e-13)
        assert disagreements(batch, rtol=1e-13, atol=1e-13) == []

    @pytest.mark.parametrize("name", toys.__all__)
    def test_of_every_toy_agree(self, name: str) -> None:
        batch = simulate(getattr(toys, name), 100)
        assert disagreements(batch, rtol=1e-14, atol=1e-14) == []

    def test_of_tau_decays_agree(self) -> None:
        pytest.importorskip("alouette")
        from tracestore.simulators.tau import tau

        batch = simulate(tau, 15)
        assert scored_observations(batch.layouts) == set()
        assert disagreements(replace(batch, observations={}), rtol=1e-14, atol=1e-14) == []

    def test_that_failed_or_were_capped_hold_the_sums_so_far(self) -> None:
        @simulator
        def fragile() -> None:
            x = sample(Normal(0.0, 1.0))
            observe(Normal(x, 1.0), name="y")
            if x > 0.0:
                raise ValueError
            sample(Normal(0.0, 1.0))
            observe(Normal(x, 1.0), name="z")

        batch = simulate(fragile, 20, max_sites=3)
        assert set(batch.status.tolist()) == {TraceStatus.FAILED, TraceStatus.CAPPED}
        assert disagreements(batch) == []

    def test_without_sites_agree(self) -> None:
        assert disagreements(simulate(lambda: None, 2)) == []

    def test_of_an_empty_batch_agree(self) -> None:
        assert disagreements(simulate(toys.gum, 2).take([])) == []

    def test_with_a_conditioned_draw_agree(self) -> None:
        batch = simulate(toys.branching, 10, observations={"r": np.array(2.0), "obs": np.array(9.0)})
        assert batch.layouts[0].sites[0].kind is SiteKind.OBSERVE
        assert disagreements(batch) == []

    @pytest.mark.parametrize(
        "likelihood", [LogNormal([0.0, 1.0], 0.5), Gamma([0.5, 3.0], 2.0), Normal([0.0, 1.0], 3.0)]
    )
    def test_observed_in_single_precision_are_scored_in_it(self, likelihood: Distribution) -> None:
        batch = one_observe(likelihood, dtype=np.float32)
        assert batch.observations["y"].dtype == np.float32
        assert disagreements(batch, rtol=1e-14, atol=1e-14) == []

    def test_whose_sums_were_added_in_another_order_agree(self) -> None:
        @simulator
        def long() -> None:
            for place in range(4_000):
                sample(Normal(0.0, 1e-3 if place % 2 else 58.5), address="x")

        batch = simulate(long, 1)
        assert abs(batch.log_prior[0]) < 1e-2 * np.abs(batch.log_probs).sum()
        assert batch.log_prior[0] != math.fsum(batch.log_probs)
        other = replace(batch, log_prior=np.array([math.fsum(batch.log_probs)]))
        assert disagreements(other, rtol=1e-15, atol=0.0) == []


class TestEngines:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "post"

    @staticmethod
    def sound(store: TraceStore) -> bool:
        assert len(store) >= 60
        return disagreements(store.take(np.arange(len(store))), rtol=1e-13, atol=1e-13) == []

    def test_prior(self, path: Path) -> None:
        assert self.sound(prior(toys.hmm, path, num_draws=60).store)

    def test_importance(self, path: Path) -> None:
        assert self.sound(importance(toys.gum, OBSERVED, path, num_draws=60).store)

    def test_rmh(self, path: Path) -> None:
        assert self.sound(rmh(toys.gum, OBSERVED, path, num_draws=120, config=RMHConfig(warmup=50)).store)

    @pytest.mark.parametrize(
        ("program", "observed"),
        [
            (toys.gum_marsaglia, OBSERVED),
            (toys.branching, {"obs": 6.0}),
            (toys.geometric, {"obs": 3.0}),
            (toys.hmm, {f"obs{step}": value for step, value in enumerate(toys.HMM_OBSERVATIONS)}),
        ],
        ids=lambda value: value.name.rpartition(":")[2] if isinstance(value, Simulator) else "",
    )
    def test_lmh(self, program: Simulator, observed: dict[str, float], path: Path) -> None:
        assert self.sound(lmh(program, observed, path, num_draws=120).store)

    def test_ic(self, path: Path) -> None:
        network = RuleProvider(toys.gum, {"anything"}, lambda *_: Normal(7.0, 1.5))
        assert self.sound(ic(toys.gum, OBSERVED, path, network=network, num_draws=60).store)


class TestChanges:
    @pytest.mark.parametrize("case", [case for case in CASES if case.distribution.num_parameters], ids=case_id)
    def test_of_a_value_are_found(self, case: Case) -> None:
        batch = one_draw(case.distribution)
        # a step inside the support where that changes the log probability, else one out of it
        place = batch.value_offsets[1]
        steps = (1.0, -1.0, 1000.5)
        self.check_value(batch, case.distribution, [batch.values[place] + step for step in steps])

    @pytest.mark.parametrize("case", [case for case in DISCRETE if case.id != "poisson-large"], ids=case_id)
    def test_of_a_discrete_value_to_another_possible_one_are_found(self, case: Case) -> None:
        masses = {number: case.distribution.log_prob(number) for number in range(6)}
        possible = [float(number) for number, mass in masses.items() if mass > -math.inf]
        self.check_value(one_draw(case.distribution), case.distribution, possible)

    @staticmethod
    def check_value(batch: TraceBatch, distribution: Distribution, candidates: list[float]) -> None:
        place = int(batch.value_offsets[1])
        for number in candidates:
            broken = replace(batch, values=changed(batch.values, place, number))
            log_prob = distribution.log_prob(broken[1].value(0))
            if abs(log_prob - batch.log_probs[1]) > FAR:
                assert disagreements(broken) == [Disagreement(1, address_of(batch), batch.log_probs[1], log_prob)]
                return
        pytest.fail("no candidate changes the log probability")

    @pytest.mark.parametrize("case", [case for case in CASES if case.distribution.num_parameters], ids=case_id)
    def test_of_a_parameter_are_found(self, case: Case) -> None:
        distribution = case.distribution
        batch = one_draw(distribution)
        start, stop = batch.parameter_offsets[1:3]
        for place in range(start, stop):
            broken = replace(batch, parameters=changed(batch.parameters, place, 0.9 * batch.parameters[place] + 0.05))
            try:
                other = from_parameters(distribution.family, broken.parameters[start:stop], distribution.shape)
            except InvalidInputError:
                assert found_in(broken) == [(1, address_of(batch))]
                continue
            if abs(other.log_prob(batch[1].value(0)) - batch.log_probs[1]) > FAR:
                assert found_in(broken) == [(1, address_of(batch))]
                return
        pytest.fail("no change of a parameter changes the log probability")

    def test_of_parameters_that_make_no_distribution_are_found(self) -> None:
        batch = simulate(toys.gum, 3)
        broken = replace(batch, parameters=changed(batch.parameters, batch.parameter_offsets[2] + 1, -1.0))
        (found,) = disagreements(broken)
        assert (found.row, found.address) == (2, address_of(batch))
        assert math.isnan(found.recomputed)

    def test_of_a_log_prob_are_found_with_the_sum(self) -> None:
        batch = simulate(toys.hmm, 3)
        place = batch.site_offsets[1] + 2
        broken = replace(batch, log_probs=changed(batch.log_probs, place, -77.0))
        assert address_of(batch, 2).partition("~")[2] == "Normal#1"
        assert found_in(broken) == [(1, address_of(batch, 2)), (1, "log_likelihood")]
        assert disagreements(broken)[0] == Disagreement(1, address_of(batch, 2), -77.0, batch.log_probs[place])

    @pytest.mark.parametrize("column", ["log_prior", "log_likelihood"])
    @pytest.mark.parametrize("number", [1.25, math.nan, math.inf, -math.inf])
    def test_of_a_sum_are_found(self, column: str, number: float) -> None:
        batch = simulate(toys.gum, 4)
        before = getattr(batch, column)
        (found,) = disagreements(replace(batch, **{column: changed(before, 2, number)}))  # type: ignore[arg-type]
        assert (found.row, found.address) == (2, column)
        np.testing.assert_array_equal([found.stored, found.recomputed], [number, before[2]])

    def test_of_an_observation_are_found(self) -> None:
        batch = simulate(toys.gum, 3)
        seen = {**batch.observations, "obs1": changed(batch.observations["obs1"], 0, 50.0)}
        assert found_in(replace(batch, observations=seen)) == [(0, address_of(batch, 2))]

    def test_of_the_shape_of_an_observation_are_found(self) -> None:
        batch = simulate(toys.gum, 2)
        seen = {**batch.observations, "obs1": np.zeros((2, 3))}
        assert found_in(replace(batch, observations=seen)) == [(0, address_of(batch, 2)), (1, address_of(batch, 2))]

    def test_of_the_number_of_parameters_are_found(self) -> None:
        site = Site("p:x~Normal#1", SiteKind.SAMPLE, True, "x", "Normal", (), 3)
        trace = Trace(Layout((site,)), np.zeros(1), np.array([-1.0]), np.ones(3), log_prior=-1.0)
        assert found_in(TraceBatch.from_traces([trace])) == [(0, site.address)]

    def test_come_by_trace_and_then_by_site(self) -> None:
        batch = simulate(toys.gum, 3)
        broken = replace(batch, log_probs=batch.log_probs - 1.0, log_prior=batch.log_prior - 1.0)
        names = [address_of(batch, 0), address_of(batch, 1), address_of(batch, 2), "log_likelihood"]
        assert found_in(broken) == [(row, name) for row in range(3) for name in names]

    def test_within_the_tolerances_are_let_pass(self) -> None:
        batch = simulate(toys.gum, 2)
        broken = replace(batch, log_probs=changed(batch.log_probs, 0, batch.log_probs[0] + 0.1))
        assert disagreements(broken, atol=0.2) == []
        assert disagreements(broken, rtol=0.2, atol=0.0) == []

    @pytest.mark.parametrize(("error", "expected"), [(0.29, []), (0.31, [(0, "here~Normal[3]#1")])])
    def test_have_an_absolute_tolerance_for_each_element(self, error: float, expected: list[tuple[int, str]]) -> None:
        batch = one_draw(Normal(np.zeros(3), 1.0))
        log_probs = changed(batch.log_probs, 0, batch.log_probs[0] + error)
        broken = replace(batch, log_probs=log_probs, log_prior=log_probs)
        assert [(one.row, one.address) for one in disagreements(broken, rtol=0.0, atol=0.1)] == expected

    def test_say_what_is_wrong(self) -> None:
        assert (
            str(Disagreement(3, "log_prior", -1.0, -2.0))
            == "trace 3: log_prior is stored as -1.0, but its sites sum to -2.0"
        )


class TestInfinitiesAndNaN:
    def test_minus_infinity_agrees_with_itself(self) -> None:
        batch = one_observe(Uniform(0.0, 1.0), 5.0)
        assert batch.log_likelihood.tolist() == [-math.inf] * 3
        assert disagreements(batch) == []

    def test_minus_infinity_does_not_agree_with_a_number(self) -> None:
        batch = simulate(toys.gum, 1)
        broken = replace(batch, log_probs=changed(batch.log_probs, 0, -math.inf), log_prior=np.array([-math.inf]))
        assert found_in(broken) == [(0, address_of(batch))]

    def test_a_number_does_not_agree_with_a_sum_of_minus_infinity(self) -> None:
        batch = one_observe(Uniform(0.0, 1.0), 5.0)
        assert found_in(replace(batch, log_likelihood=np.array([-math.inf, -1.0, -math.inf]))) == [
            (1, "log_likelihood")
        ]

    def test_a_stored_nan_is_found(self) -> None:
        batch = simulate(toys.gum, 1)
        broken = replace(batch, log_probs=changed(batch.log_probs, 0, math.nan), log_prior=np.array([math.nan]))
        assert found_in(broken) == [(0, address_of(batch))]

    def test_a_stored_nan_agrees_where_parameters_make_no_distribution(self) -> None:
        batch = simulate(toys.gum, 1)
        broken = replace(
            batch,
            parameters=changed(batch.parameters, 1, -1.0),
            log_probs=changed(batch.log_probs, 0, math.nan),
            log_prior=np.array([math.nan]),
        )
        assert disagreements(broken) == []

    def test_a_draw_that_is_nan_has_no_probability(self) -> None:
        batch = simulate(toys.gum, 1)
        assert rescore(replace(batch, values=changed(batch.values, 0, math.nan)))[0] == -math.inf


class TestWhatCannotBeRecomputed:
    def test_unknown_families_are_nan_and_agree(self) -> None:
        batch = one_draw(Cauchy(0.0, 1.0))
        assert np.isnan(rescore(batch)).all()
        assert disagreements(batch) == []

    def test_unknown_families_inside_a_mixture_are_nan(self) -> None:
        batch = one_draw(Mixture([Normal(0.0, 1.0), Cauchy(0.0, 1.0)], [0.5, 0.5]))
        assert np.isnan(rescore(batch)).all()
        assert disagreements(batch) == []

    def test_traces_that_failed_with_nan_agree(self) -> None:
        class Undefined(Cauchy):
            def log_prob(self, value: object) -> float:
                return math.nan

        batch = one_draw(Undefined(0.0, 1.0))
        assert np.isnan(batch.log_prior).all()
        assert disagreements(batch) == []

    def test_likelihoods_too_large_to_store_need_no_observation(self) -> None:
        batch = one_observe(Normal(np.zeros(40), 1.0))
        assert scored_observations(batch.layouts) == set()
        assert disagreements(replace(batch, observations={})) == []
        assert np.isnan(rescore(batch)).all()

    def test_a_missing_observation_is_refused(self) -> None:
        batch = simulate(toys.gum, 2)
        assert scored_observations(batch.layouts) == {"obs0", "obs1"}
        with pytest.raises(InvalidInputError, match=r"'obs0'.*it has none.*`scored_observations`"):
            rescore(replace(batch, observations={}))


class TestRows:
    def test_do_not_depend_on_how_many_are_scored_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(5)
        parameters = np.stack([rng.normal(size=20), rng.integers(1, 3, 20)], axis=1)
        values = rng.normal(size=20)
        expected = [Normal(*row).log_prob(value) for row, value in zip(parameters.tolist(), values, strict=True)]
        assert rows.log_prob_rows("Normal", (), parameters, values).tolist() == expected
        monkeypatch.setattr(rows, "ROWS_AT_ONCE", 3)
        assert rows.log_prob_rows("Normal", (), parameters, values).tolist() == expected

    def test_that_do_not_fit_their_parameters_are_refused(self) -> None:
        with pytest.raises(InvalidInputError, match=r"got \(2, 2\) and \(3,\)"):
            rows.log_prob_rows("Normal", (), np.ones((2, 2)), np.zeros(3))

    @pytest.mark.parametrize(
        "family", ["", "Cauchy", "Mixture(Normal,Cauchy)", "normal", "Normal/2", "Mixture(Normal-2)"]
    )
    def test_families_of_others_are_not_known(self, family: str) -> None:
        assert not rows.is_known_family(family)

    @pytest.mark.parametrize("case", CASES, ids=case_id)
    def test_families_of_this_release_are_known(self, case: Case) -> None:
        assert rows.is_known_family(case.distribution.family)
