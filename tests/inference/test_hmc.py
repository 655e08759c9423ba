"""Chains that follow gradients as engines: exact posteriors, stores, resuming, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InferenceError, InvalidInputError, StoreExistsError
from tracestore.events import PhaseAdvanced
from tracestore.inference import HMCConfig, MALAConfig, RMHConfig, hmc, importance, mala, rmh
from tracestore.simulators.batched import BatchedSimulator
from tracestore.simulators.toys import gum as single_gum
from tracestore.store import verify

torch = pytest.importorskip("torch")
pytest.importorskip("tracestore.simulators.tensor_target")

OBSERVED = {"obs0": 8.0, "obs1": 9.0}
QUICK = HMCConfig(warmup=30)


def declared(function):
    return BatchedSimulator(function, arrays="torch")


@declared
def gum():
    mu = ts.sample(ts.Normal(1.0, math.sqrt(5.0)), name="mu")
    likelihood = ts.Normal(mu, math.sqrt(2.0))
    ts.observe(likelihood, name="obs0")
    ts.observe(likelihood, name="obs1")
    return mu


@declared
def counts():
    rate = ts.sample(ts.Gamma(3.0, 1.0), name="rate")
    ts.observe(ts.Poisson(rate), name="first")
    ts.observe(ts.Poisson(rate), name="second")


@declared
def bounds():
    low = ts.sample(ts.Uniform(0.0, 2.0), name="low")
    middle = ts.sample(ts.Uniform(low, low + 1.0), name="middle")
    share = ts.sample(ts.Beta(2.0, 3.0), name="share")
    ts.observe(ts.Normal(middle + share, 0.3), name="seen")


@declared
def angle():
    direction = ts.sample(ts.VonMises(3.0, 1.0), name="direction")
    ts.observe(ts.VonMises(direction, 4.0), name="seen")


COVARIANCE = 0.9 ** np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
FACTOR = np.linalg.cholesky(COVARIANCE)


@declared
def correlated():
    unit = ts.sample(ts.Normal(np.zeros((1, 10)), 1.0), name="unit")
    ts.observe(ts.Normal(unit @ torch.tensor(FACTOR).T, 0.5), name="seen")


def sample_with(engine, program, observations, path, **settings):
    usual: dict[str, Any] = {"num_draws": 3200, "chains": 80, "seed": 1}
    if engine is hmc:
        usual["config"] = HMCConfig(warmup=60)
    else:
        usual |= {"num_draws": 8000, "chains": 200, "config": MALAConfig(warmup=60)}
    return engine(program, observations, path, **{**usual, **settings})


def require_mean(posterior, name, mean, sd):
    """Both moments within five standard errors of chains of this size."""
    found = posterior.mean(name)
    error = np.asarray(sd) / math.sqrt(posterior.ess)
    assert np.all(np.abs(found - mean) < 5.0 * error), (found, mean, error)
    spread = np.sqrt(posterior.var(name))
    assert np.all(np.abs(spread - sd) < 5.0 * error), (spread, sd, error)


@pytest.mark.statistical
@pytest.mark.parametrize("engine", [hmc, mala])
def test_a_normal_posterior_is_exact(engine, tmp_path):
    posterior = sample_with(engine, gum, OBSERVED, tmp_path / "post")
    require_mean(posterior, "mu", 7.25, math.sqrt(1.0 / 1.2))
    assert posterior.rhat("mu") < 1.1


@pytest.mark.statistical
@pytest.mark.parametrize("engine", [hmc, mala])
def test_a_rate_has_its_gamma_posterior(engine, tmp_path):
    posterior = sample_with(engine, counts, {"first": 4.0, "second": 7.0}, tmp_path / "post")
    require_mean(posterior, "rate", 14.0 / 3.0, math.sqrt(14.0) / 3.0)
    # ranks: the share of draws below each quantile of Gamma(14, 3), by its cumulative function
    draws = np.sort(posterior.values("rate").values)
    below = [math.fsum(_poisson_tail(14, 3.0 * draw) for draw in draws[::50]) / len(draws[::50])]
    assert below[0] == pytest.approx(0.5, abs=5.0 * 0.29 / math.sqrt(posterior.ess))


def _poisson_tail(shape, x):
    """Cumulative function of a Gamma of whole shape: the chance of at least so many counts."""
    return 1.0 - math.fsum(math.exp(-x + k * math.log(x) - math.lgamma(k + 1.0)) for k in range(shape))


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    return sample_with(hmc, bounds, {"seen": 1.5}, tmp_path_factory.mktemp("bounded") / "post")


@pytest.mark.statistical
def test_bounds_that_depend_on_draws_are_kept(bounded):
    grid = np.linspace(0.0, 1.0, 101)[:-1] + 0.005
    low, offset, share = np.meshgrid(2.0 * grid, grid, grid, indexing="ij")
    weight = share * (1.0 - share) ** 2 * np.exp(-0.5 * ((low + offset + share - 1.5) / 0.3) ** 2)
    weight /= weight.sum()
    for name, numbers in (("low", low), ("middle", low + offset), ("share", share)):
        mean = float((weight * numbers).sum())
        require_mean(bounded, name, mean, math.sqrt(float((weight * (numbers - mean) ** 2).sum())))


@pytest.mark.statistical
def test_ten_correlated_numbers_have_their_posterior(tmp_path):
    seen = np.linspace(-1.0, 1.0, 10)
    posterior = sample_with(hmc, correlated, {"seen": seen}, tmp_path / "post")
    precision = np.eye(10) + FACTOR.T @ FACTOR / 0.25
    covariance = np.linalg.inv(precision)
    require_mean(posterior, "unit", covariance @ FACTOR.T @ seen / 0.25, np.sqrt(np.diagonal(covariance)))


@pytest.mark.statistical
def test_angles_go_around(tmp_path):
    posterior = sample_with(hmc, angle, {"seen": -2.9}, tmp_path / "post")
    draws = posterior.values("direction").values
    # the product of two von Mises densities is one
    vector = np.exp(3.0j) + 4.0 * np.exp(-2.9j)
    assert np.mean(np.sin(draws - np.angle(vector))) == pytest.approx(0.0, abs=0.05)
    assert ((draws > 3.0).any(), (draws < -3.0).any()) == (True, True)


@pytest.mark.statistical
def test_engines_agree(bounded, tmp_path):
    observations = {"seen": 1.5}
    weighted = importance(bounds, observations, tmp_path / "is", num_draws=20_000, seed=2)
    walk = RMHConfig(warmup=80)
    walked = rmh(bounds, observations, tmp_path / "rmh", num_draws=20_000, chains=400, seed=3, config=walk)
    for name in ("low", "middle", "share"):
        assert bounded.mean(name) == pytest.approx(weighted.mean(name), abs=0.03)
        assert bounded.mean(name) == pytest.approx(walked.mean(name), abs=0.03)


def test_a_funnel_shows_divergences(tmp_path):
    @declared
    def funnel(n):
        width = ts.sample(ts.Normal(0.0, 3.0), name="width")
        ts.sample(ts.Normal(torch.zeros(n, 5, dtype=torch.float64), torch.exp(0.5 * width)[:, None]), name="x")

    posterior = hmc(
        funnel, {}, tmp_path / "post", num_draws=500, chains=10, seed=1, config=HMCConfig(warmup=30, max_steps=10)
    )
    assert sum(row.num_divergent for row in posterior.trajectories) > 0
    codes = {finding.code for finding in posterior.diagnose().findings}
    assert {"divergences", "energy", "trajectories"} <= codes


def test_the_store_tells_what_the_chains_did(tmp_path):
    posterior = sample_with(hmc, gum, OBSERVED, tmp_path / "post", num_draws=400, chains=4, config=QUICK)
    assert [row.num_proposed for row in posterior.acceptance_by_move] == [100] * 4
    rows = posterior.trajectories
    assert [(row.chain, row.move, row.num_steps) for row in rows] == [(chain, "hmc", 100) for chain in range(4)]
    assert all(row.step_size == rows[0].step_size > 0.0 and row.ebfmi > 0.3 for row in rows)
    chain, draw = posterior.store.column("chain"), posterior.store.column("draw")
    assert {*zip(chain.tolist(), draw.tolist(), strict=True)} == {(c, d) for c in range(4) for d in range(100)}
    assert posterior.diagnose().subject.startswith("Hamiltonian Monte Carlo for ")


def test_draws_are_recorded_as_traces(tmp_path):
    posterior = sample_with(hmc, gum, OBSERVED, tmp_path / "post", num_draws=40, chains=4, config=QUICK)
    trace = posterior.store[7]
    assert trace.log_joint == pytest.approx(float(trace.log_probs.sum()))
    assert posterior.values("result").values.tolist() == posterior.values("mu").values.tolist()
    assert verify(posterior.store, deep=True) == []


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize(("engine", "stop_after"), [(hmc, 10), (hmc, 40), (mala, 40)])
def test_an_interrupted_job_makes_the_same_draws(engine, stop_after, tmp_path):
    settings: dict[str, Any] = {"num_draws": 160, "chains": 4, "seed": 1}
    settings["config"] = HMCConfig(warmup=30, max_steps=16) if engine is hmc else MALAConfig(warmup=30)
    whole = engine(bounds, {"seen": 1.5}, tmp_path / "whole", **settings)
    calls = []

    def stop(event):
        calls.append(event)
        if isinstance(event, PhaseAdvanced) and len(calls) == stop_after:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        engine(bounds, {"seen": 1.5}, tmp_path / "parts", **settings, observer=stop)
    parts = engine(bounds, {"seen": 1.5}, tmp_path / "parts", **settings)
    for name in ("low", "middle", "share"):
        assert np.array_equal(_in_order(parts, name), _in_order(whole, name))
    assert parts.trajectories == whole.trajectories


def _in_order(posterior, name):
    found = posterior.values(name)
    return found.values[np.lexsort((found.draw, found.chain))]


def test_trajectories_differ_in_length_by_the_jitter(tmp_path):
    found = {}
    for jitter in (0.0, 0.9):
        config = HMCConfig(warmup=30, length=2.0, jitter=jitter)
        draws = hmc(gum, OBSERVED, tmp_path / str(jitter), num_draws=40, chains=4, seed=1, config=config)
        found[jitter] = draws.values("mu")
    assert not np.array_equal(found[0.0], found[0.9])


def test_the_same_call_returns_what_is_there_and_another_is_refused(tmp_path):
    first = sample_with(hmc, gum, OBSERVED, tmp_path / "post", num_draws=40, chains=4, config=QUICK)
    again = sample_with(hmc, gum, OBSERVED, tmp_path / "post", num_draws=40, chains=4, config=QUICK)
    assert again.mean("mu") == first.mean("mu")
    with pytest.raises(StoreExistsError, match="seed"):
        sample_with(hmc, gum, OBSERVED, tmp_path / "post", num_draws=40, chains=4, config=QUICK, seed=2)


def test_draws_depend_on_the_seed(tmp_path):
    means = {
        sample_with(hmc, gum, OBSERVED, tmp_path / f"{seed}", num_draws=40, chains=4, config=QUICK, seed=seed).mean(
            "mu"
        )
        for seed in (1, 2)
    }
    assert len(means) == 2


@pytest.mark.parametrize("metric", ["diagonal", "dense"])
def test_both_metrics_sample(metric, tmp_path):
    config = HMCConfig(warmup=50, metric=metric)
    seen = np.zeros(10)
    posterior = sample_with(hmc, correlated, {"seen": seen}, tmp_path / "post", num_draws=320, chains=16, config=config)
    assert np.abs(posterior.mean("unit")).max() < 0.3


def refused(program, tmp_path, match, observations=None, **settings):
    with pytest.raises(InferenceError, match=match) as caught:
        sample_with(
            hmc, program, observations or {}, tmp_path / "post", num_draws=40, chains=4, config=QUICK, **settings
        )
    return caught.value


def test_a_program_without_gradients_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"'hmc' follows gradients.*arrays=\"torch\""):
        hmc(single_gum, OBSERVED, tmp_path / "post", num_draws=40)
    with pytest.raises(InvalidInputError, match="'mala' follows gradients"):
        mala(BatchedSimulator(lambda: ts.sample(ts.Normal(0.0, 1.0))), {}, tmp_path / "post", num_draws=40)


def test_a_discrete_draw_is_refused_by_name(tmp_path):
    @declared
    def program():
        number = ts.sample(ts.Poisson(3.0), name="number")
        ts.observe(ts.Normal(number, 1.0), name="seen")

    refused(program, tmp_path, r"The draw 'number' cannot be inferred with gradients: Poisson draws whole numbers",
            {"seen": 2.0})  # fmt: skip


def test_an_uncontrolled_draw_is_refused_by_name(tmp_path):
    program = declared(lambda: ts.sample(ts.Normal(0.0, 1.0), name="noise", control=False))
    refused(program, tmp_path, r"'noise' is declared with `control=False`")


def test_a_program_without_draws_is_refused(tmp_path):
    program = declared(lambda: ts.observe(ts.Normal(0.0, 1.0), name="seen"))
    refused(program, tmp_path, "nothing to infer", {"seen": 0.0})


@pytest.mark.parametrize("kind", ["detached", "through numpy", "rounded"])
def test_an_influence_without_gradient_is_refused_by_name(kind, tmp_path):
    @declared
    def program():
        good = ts.sample(ts.Normal(0.0, 1.0), name="good")
        broken = ts.sample(ts.Normal(0.0, 1.0), name="broken")
        ways = {
            "detached": lambda: broken.detach(),
            "through numpy": lambda: torch.from_numpy(np.sin(broken.detach().numpy())),
            "rounded": lambda: broken + (broken.detach() - broken.detach() ** 2),
        }
        ts.observe(ts.Normal(good + ways[kind](), 0.5), name="seen")

    error = refused(
        program, tmp_path, r"The draw 'broken' has an influence that its gradient does not show", {"seen": 1.0}
    )
    assert error.fields["draw"] == "broken"


def test_a_draw_without_any_influence_is_fine(tmp_path):
    @declared
    def program():
        ts.sample(ts.Normal(0.0, 1.0), name="idle")
        ts.observe(ts.Normal(ts.sample(ts.Normal(0.0, 1.0), name="mu"), 1.0), name="seen")

    sample_with(hmc, program, {"seen": 1.0}, tmp_path / "post", num_draws=40, chains=4, config=QUICK)


def test_numpy_on_a_draw_is_refused_with_what_torch_says(tmp_path):
    @declared
    def program():
        mu = ts.sample(ts.Normal(0.0, 1.0), name="mu")
        ts.observe(ts.Normal(np.asarray(mu), 1.0), name="seen")

    refused(program, tmp_path, "with gradients the program raised RuntimeError.*numpy", {"seen": 1.0})


def test_draws_that_differ_between_runs_are_refused(tmp_path):
    @declared
    def program(n):
        names = ("a", "b") if torch.is_grad_enabled() else ("a", "c")
        for name in names:
            ts.sample(ts.Normal(0.0, 1.0), name=name)

    refused(program, tmp_path, "differ from one run to another")


def test_an_impossible_observation_is_refused(tmp_path):
    @declared
    def program():
        ts.observe(ts.Uniform(0.0, ts.sample(ts.Uniform(1.0, 2.0), name="top")), name="seen")

    refused(program, tmp_path, "No start for 4 of 4 chains", {"seen": 5.0})


def test_a_gradient_that_is_no_number_is_refused_by_name(tmp_path):
    @declared
    def program():
        mu = ts.sample(ts.Normal(0.0, 1.0), name="mu")
        ts.observe(ts.Normal(torch.sqrt(mu * 0.0), 1.0), name="seen")

    refused(program, tmp_path, "the gradient at the draw 'mu' was no finite number", {"seen": 1.0})


def test_scores_of_ones_own_must_agree_with_those_recorded(tmp_path):
    class Odd(ts.Normal):
        def tensor_log_prob(self, values):
            return -values

    program = declared(lambda: ts.observe(Odd(0.0, 1.0), ts.sample(ts.Normal(0.0, 1.0), name="mu"), name="seen"))
    refused(program, tmp_path, "as recorded, and .* with gradients")


def test_rows_for_which_the_program_fails_are_rejected_alone(tmp_path):
    @declared
    def program():
        mu = ts.sample(ts.Normal(0.0, 1.0), name="mu")
        if (mu < -1.5).any():
            raise ValueError("too low")
        ts.observe(ts.Normal(mu, 1.0), name="seen")

    posterior = sample_with(hmc, program, {"seen": 0.0}, tmp_path / "post", num_draws=400, chains=4, config=QUICK)
    assert posterior.values("mu").values.min() > -1.5
    assert posterior.acceptance > 0.3


def test_settings_out_of_range_are_refused():
    with pytest.raises(InvalidInputError, match=r"`target_acceptance` must be between 0 and 1; got 1.5"):
        HMCConfig(target_acceptance=1.5)
    with pytest.raises(InvalidInputError, match=r"`jitter` must be at least 0 and below 1; got 1.0"):
        HMCConfig(jitter=1.0)
    with pytest.raises(
        InvalidInputError, match="MALAConfig: `metric` must be None or one of diagonal, dense; got 'full'"
    ):
        MALAConfig(metric="full")


@pytest.mark.parametrize(("engine", "config"), [(hmc, MALAConfig()), (mala, HMCConfig())])
def test_settings_of_the_other_engine_are_refused(engine, config, tmp_path):
    with pytest.raises(InvalidInputError, match=f"got a {type(config).__name__}"):
        engine(gum, OBSERVED, tmp_path / "post", num_draws=4, config=config)
