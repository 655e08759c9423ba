"""Many chains that step together have the exact posterior, whatever moves they make."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

import tracestore as ts
from tracestore.errors import InferenceError
from tracestore.inference import RMHConfig
from tracestore.inference.batched_chains import BatchedChains
from tracestore.inference.batched_moves import SiteTable, propose_single, propose_walk
from tracestore.simulators.batched import BatchedSimulator, run_batch
from tracestore.traces import SiteKind

C = 4000
MOVES: dict[str, dict[str, Any]] = {
    "default": {},
    "walk": {"move_weights": {"walk": 1.0}},
    "single": {"move_weights": {"single": 1.0}},
    "steps": {"move_weights": {"single": 1.0}, "kernel_share": 1.0},
    "prior": {"move_weights": {"single": 1.0}, "kernel_share": 0.0, "warmup": 1200},
}


def gum():
    mu = ts.sample(ts.Normal(1.0, math.sqrt(5.0)), name="mu")
    for name in ("obs0", "obs1"):
        ts.observe(ts.Normal(mu, math.sqrt(2.0)), name=name)


def rate():
    ts.observe(ts.Poisson(ts.sample(ts.Gamma(3.0, 2.0), name="x")), name="y")


def share():
    ts.observe(ts.Binomial(10, ts.sample(ts.Beta(2.0, 3.0), name="x")), name="y")


def bounded():
    ts.observe(ts.Normal(ts.sample(ts.Uniform(0.0, 1.0), name="x"), 0.5), name="y")


def nested():
    """A support that depends on another draw."""
    top = ts.sample(ts.Uniform(1.0, 2.0), name="top")
    ts.observe(ts.Normal(ts.sample(ts.Uniform(0.0, top), name="x"), 0.5), name="y")


def angle():
    ts.observe(ts.VonMises(ts.sample(ts.VonMises(2.5, 1.0), name="x"), 2.0), name="y")


def precise():
    """Numbers far smaller than one."""
    ts.observe(ts.Normal(ts.sample(ts.Normal(0.0, 1e-7), name="x"), 1e-7), name="y")


def grid_moments(log_density, low, high):
    x = np.linspace(low, high, 20_001)
    weights = np.exp(log_density(x))
    mean = (weights * x).sum() / weights.sum()
    return mean, math.sqrt((weights * (x - mean) ** 2).sum() / weights.sum())


def nested_moments():
    top = np.linspace(1.0, 2.0, 401)[:, None]
    x = np.linspace(0.0, 2.0, 4001)[None]
    weights = np.where(x <= top, stats.norm.pdf(0.9, x, 0.5) / top, 0.0)
    mean = (weights * x).sum() / weights.sum()
    return mean, math.sqrt((weights * (x - mean) ** 2).sum() / weights.sum())


CASES = {
    "gum": (gum, {"obs0": 8.0, "obs1": 9.0}, "mu", (7.25, math.sqrt(1.0 / 1.2))),
    "rate": (rate, {"y": 7.0}, "x", (10.0 / 3.0, math.sqrt(10.0) / 3.0)),
    "share": (share, {"y": 7.0}, "x", (stats.beta(9, 6).mean(), stats.beta(9, 6).std())),
    "bounded": (bounded, {"y": 0.9}, "x", grid_moments(lambda x: stats.norm.logpdf(0.9, x, 0.5), 0.0, 1.0)),
    "nested": (nested, {"y": 0.9}, "x", nested_moments()),
    "angle": (
        angle,
        {"y": -2.8},
        "x",
        grid_moments(lambda x: np.cos(x - 2.5) + 2.0 * np.cos(-2.8 - x), -math.pi, math.pi),
    ),
    "precise": (precise, {"y": 2e-7}, "x", (1e-7, 1e-7 / math.sqrt(2.0))),
}


def chains_of(program, observations, num_chains=C, seed=1, **config):
    given = {name: np.asarray(value, np.float64) for name, value in observations.items()}
    settings = RMHConfig(**{"warmup": 150, **config})
    made = BatchedChains(BatchedSimulator(program), given, num_chains, settings, np.random.default_rng(seed), 1000)
    made.start()
    made.warm_up()
    return made


def assert_moments(values, mean, sd):
    """Chains are independent of each other: the last state of each is one draw."""
    assert values.mean() == pytest.approx(mean, abs=5.0 * sd / math.sqrt(len(values)))
    assert values.std() == pytest.approx(sd, rel=0.1)


@pytest.mark.statistical
@pytest.mark.parametrize("moves", MOVES)
@pytest.mark.parametrize("case", CASES)
def test_draws_are_those_of_the_posterior(case, moves):
    program, observations, name, exact = CASES[case]
    made = chains_of(program, observations, **MOVES[moves])
    assert_moments(made.draw(0).named(name)[0], *exact)


@pytest.mark.statistical
def test_steps_leave_the_posterior_as_it_is():
    """Chains that start in the posterior stay in it; nothing adapts."""
    made = chains_of(gum, {"obs0": 8.0, "obs1": 9.0}, warmup=0, starts=1)
    made.standing.values[:, 0] = np.random.default_rng(3).normal(7.25, math.sqrt(1.0 / 1.2), C)
    replay = made._probability(_nowhere(made))[1]
    made.standing.take_over(replay, np.ones(C, np.bool_))
    for number in range(5):
        assert_moments(made.draw(number).named("mu")[0], 7.25, math.sqrt(1.0 / 1.2))


def _nowhere(made):
    return propose_walk(made.sites, made.standing.values, np.zeros((C, 1)))


@pytest.mark.statistical
def test_discrete_draws_have_their_posterior_probabilities():
    def program():
        state = ts.sample(ts.Categorical([0.5, 0.3, 0.2]), name="state")
        count = ts.sample(ts.Poisson(2.0), name="count")
        ts.observe(ts.Normal(np.array([0.0, 1.0, 3.0])[state] + count, 1.0), name="y")

    counts, states = np.arange(30), np.array([0.0, 1.0, 3.0])
    joint = np.array([0.5, 0.3, 0.2])[:, None] * stats.poisson.pmf(counts, 2.0)
    joint *= stats.norm.pdf(4.0, states[:, None] + counts, 1.0)
    joint /= joint.sum()
    batch = chains_of(program, {"y": 4.0}).draw(0)
    found = np.bincount(batch.named("state")[0].astype(int), minlength=3) / C
    np.testing.assert_allclose(found, joint.sum(axis=1), atol=5.0 * 0.5 / math.sqrt(C))
    assert batch.named("count")[0].mean() == pytest.approx((joint.sum(axis=0) * counts).sum(), abs=0.12)


@pytest.mark.statistical
@pytest.mark.parametrize("moves", ["default", "walk", "steps"])
def test_correlated_vectors_have_their_covariance(moves):
    covariance = np.array([[1.0, 0.95, 0.0], [0.95, 1.0, 0.0], [0.0, 0.0, 100.0]])

    def program():
        x = ts.sample(ts.MultivariateNormal(np.zeros(3), covariance), name="x")
        ts.observe(ts.Normal(x, 1.0), name="y")

    gain = covariance @ np.linalg.inv(covariance + np.eye(3))
    values = chains_of(program, {"y": [1.0, -1.0, 5.0]}, **{"warmup": 400, **MOVES[moves]}).draw(0).named("x")[0]
    exact = covariance - gain @ covariance
    np.testing.assert_allclose(values.mean(axis=0), gain @ [1.0, -1.0, 5.0], atol=5.0 / math.sqrt(C))
    np.testing.assert_allclose(np.cov(values.T), exact, atol=0.09)


@pytest.mark.statistical
def test_draws_without_a_name_or_control_come_from_the_posterior():
    def program():
        x = ts.sample(ts.Normal(0.0, 1.0))
        z = ts.sample(ts.Normal(0.0, 1.0), name="z", control=False)
        ts.observe(ts.Normal(x + z, 1.0), name="y")

    batch = chains_of(program, {"y": 3.0}, warmup=300).draw(0)
    for name in ("z", batch.layouts[0].sites[0].address):
        assert_moments(batch.named(name)[0], 1.0, math.sqrt(2.0 / 3.0))


@pytest.mark.statistical
def test_a_program_that_fails_cuts_off_what_it_fails_for():
    def program():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        if (x > 1.0).any():
            message = "too far"
            raise ValueError(message)
        ts.observe(ts.Normal(x, 1.0), name="y")

    made = chains_of(program, {"y": 1.0}, num_chains=5, warmup=200, thinning=3)
    values = np.concatenate([made.draw(number).named("x")[0] for number in range(1500)])
    exact = stats.truncnorm(-np.inf, 0.5 / math.sqrt(0.5), 0.5, math.sqrt(0.5))
    assert values.max() <= 1.0
    assert values.mean() == pytest.approx(exact.mean(), abs=0.08)
    assert values.std() == pytest.approx(exact.std(), abs=0.08)
    assert sum(counts[2] for counts in made.tally.moves.values()) > 0


def test_draws_hold_whole_traces():
    given = {"obs0": 8.0, "obs1": 9.0}
    batch = chains_of(gum, given, num_chains=6, thinning=2).draw(3)
    for chain, trace in enumerate(batch):
        mu = trace["mu"]
        assert trace.log_prior == pytest.approx(ts.Normal(1.0, math.sqrt(5.0)).log_prob(mu))
        assert trace.log_likelihood == pytest.approx(sum(ts.Normal(mu, 2.0**0.5).log_prob(y) for y in (8.0, 9.0)))
        assert trace.parameters.tolist() == [1.0, math.sqrt(5.0), mu, math.sqrt(2.0), mu, math.sqrt(2.0)]
        assert (trace.chain, trace.draw, trace.stream) == (chain, 3, (chain << 40) + 3)
    assert batch.observations["obs0"].strides == (0,)


def test_later_steps_do_not_change_earlier_draws():
    made = chains_of(gum, {"obs0": 8.0, "obs1": 9.0}, num_chains=50)
    first = made.draw(0)
    values = first.values.copy()
    for number in range(1, 10):
        made.draw(number)
    assert np.array_equal(first.values, values)


def test_moves_are_counted_for_all_chains_together():
    made = chains_of(gum, {"obs0": 8.0, "obs1": 9.0}, num_chains=50)
    for number in range(20):
        made.draw(number)
    assert sum(counts[0] for counts in made.tally.moves.values()) == 20 * 50
    assert set(made.tally.addresses) == {"gum:mu~Normal#1"}
    proposed, accepted = made.tally.addresses["gum:mu~Normal#1"]
    assert proposed == made.tally.moves["single"][0] > accepted > 0


@pytest.fixture(scope="module")
def table():
    def program():
        ts.sample(ts.Gamma(2.0, 1.0), name="rate")
        ts.sample(ts.Poisson(3.0), name="count")
        ts.sample(ts.VonMises(0.0, 1.0), name="turn")
        ts.sample(ts.Normal(np.zeros((1, 2)), 1.0), name="pair")

    batch = run_batch(BatchedSimulator(program), 500, np.random.default_rng(1))
    sites = SiteTable(batch.layouts[0], None)
    assert all(site.kind is SiteKind.SAMPLE for site in batch.layouts[0].sites)
    return sites, batch.values.reshape(500, -1)


def test_a_single_move_changes_one_draw_of_each_chain(table):
    sites, values = table
    proposal = propose_single(sites, values, np.ones(4), 0.5, np.random.default_rng(1))
    for chain in range(500):
        changed = np.flatnonzero(proposal.table[chain] != values[chain]).tolist()
        number = int(proposal.chosen[chain])
        if proposal.redrawn[chain] >= 0:
            assert changed == []
            assert proposal.redrawn[chain] == number
        else:
            assert changed == list(range(*sites.slices[number].indices(5)))
    assert set(proposal.chosen[proposal.redrawn < 0].tolist()) == {0, 2, 3}


def test_steps_of_positive_numbers_are_corrected(table):
    sites, values = table
    proposal = propose_walk(sites, values, np.random.default_rng(2).standard_normal((500, 4)))
    np.testing.assert_allclose(proposal.correction, np.log(proposal.table[:, 0] / values[:, 0]), rtol=1e-12)
    assert (proposal.table[:, 0] > 0.0).all()
    assert (np.abs(proposal.table[:, 2]) <= math.pi).all()
    assert np.array_equal(proposal.table[:, 1], values[:, 1])


def test_a_walk_over_some_names_keeps_the_others():
    def program():
        x = ts.sample(ts.Gamma(2.0, 1.0), name="x")
        ts.observe(ts.Normal(x + ts.sample(ts.Gamma(2.0, 1.0), name="z"), 1.0), name="y")

    made = chains_of(program, {"y": 3.0}, num_chains=100, joint_names=("z",), warmup=20)
    proposal = propose_walk(made.sites, made.standing.values, made.steps.walk(100, made.rng))
    assert np.array_equal(proposal.table[:, 0], made.standing.values[:, 0])
    assert (proposal.table[:, 1] != made.standing.values[:, 1]).all()


def test_a_program_whose_sites_change_is_refused():
    def program():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        if x.max() > 2.0:
            ts.tag(1.0, name="far")
        ts.observe(ts.Normal(x, 1.0), name="y")

    with pytest.raises(InferenceError, match="differ from one run to another"):
        chains_of(program, {"y": 1.0}, num_chains=50)


def test_an_impossible_observation_is_refused():
    with pytest.raises(InferenceError, match="No start for 20 of 20 chains"):
        chains_of(lambda: ts.observe(ts.Uniform(0.0, ts.sample(ts.Uniform(1.0, 2.0))), name="y"), {"y": 5.0}, 20)


def test_a_program_without_draws_is_refused():
    with pytest.raises(InferenceError, match="nothing to infer"):
        chains_of(lambda: ts.observe(ts.Normal(0.0, 1.0), name="y"), {"y": 5.0}, 20)


def test_a_program_that_always_fails_is_given_up():
    calls = []

    def program():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        ts.observe(ts.Normal(x, 1.0), name="y")
        calls.append(len(x))
        if len(calls) > 10:
            message = "out of order"
            raise OSError(message)

    with pytest.raises(InferenceError, match="failed in 50 steps in a row, the last time with: OSError: out of order"):
        chains_of(program, {"y": 0.0}, 20)
