"""One chain: where it starts, what its moves leave invariant, how it goes on from its recorded state."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from tracestore.errors import InferenceError, SimulatorProtocolError
from tracestore.inference.chain import Chain
from tracestore.inference.independence import entries_of
from tracestore.inference.rerun import Target
from tracestore.inference.rmh_config import MOVES, RMHConfig
from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.runtime import observe, sample, tag
from tracestore.simulators.toys import branching, gum
from tracestore.traces.distributions import Bernoulli, Normal, Poisson, Uniform


@simulator
def tangled() -> float:
    """Dimension, scale and support all depend on earlier draws; nothing is observed."""
    count = sample(Poisson(1.0))
    total = sample(Normal(0.0, 1.0 + count), name="base")
    for _ in range(count):
        total += sample(Uniform(-1.0, 1.0))
    narrow = sample(Bernoulli(0.4), name="narrow")
    total += sample(Uniform(0.0, 1.0 if narrow else 3.0), address="x")
    return total


def chain_on(program: Simulator, observations: dict[str, float], moves: dict[str, float], **settings: object) -> Chain:
    arrays = {name: np.asarray(value, np.float64) for name, value in observations.items()}
    total = sum(moves.values())
    mixture = tuple((name, weight / total) for name, weight in moves.items())
    return Chain(Target(program, arrays, 1000, RMHConfig(**settings), mixture), 0)  # type: ignore[arg-type]


OWN_MOVES = [name for name in MOVES if name != "ic"]
"""Moves that need no network."""
EACH_MOVE = [{name: 1.0} for name in OWN_MOVES] + [dict.fromkeys(OWN_MOVES, 1.0)]


@pytest.mark.statistical
@pytest.mark.parametrize("moves", EACH_MOVE, ids=lambda moves: "+".join(moves))
def test_every_move_leaves_the_prior_invariant(moves: dict[str, float]) -> None:
    rng = np.random.default_rng(1)
    chain = chain_on(tangled, {}, moves, starts=1, joint_scale=0.8)
    before, after, lengths = [], [], []
    for _ in range(1500):
        chain.start(rng)
        before.append(chain.trace.result)
        batch = chain.run(rng, 0, 4)
        after.append(batch[3].result)
        lengths.append(len(chain.order))
    fresh, fresh_lengths = [], []
    for _ in range(6000):
        chain.start(rng)
        fresh.append(chain.trace.result)
        fresh_lengths.append(len(chain.order))
    assert stats.ks_2samp(after, fresh).pvalue > 0.001
    table = [np.bincount(np.minimum(found, 7), minlength=8)[4:] for found in (lengths, fresh_lengths)]
    assert stats.chi2_contingency(table).pvalue > 0.001
    assert np.mean(np.array(after) != np.array(before)) > 0.2


@pytest.mark.statistical
@pytest.mark.parametrize(
    "moves", [{"single": 1.0}, {"single": 1.0, "independent": 1.0}], ids=lambda moves: "+".join(moves)
)
def test_posterior_is_invariant_under_a_change_of_path(moves: dict[str, float]) -> None:
    exact = {0: 0.0304, 1: 0.1228, 2: 0.0440, 5: 0.3380, 6: 0.2254, 7: 0.1288, 8: 0.0644}
    rng = np.random.default_rng(2)
    chain = chain_on(branching, {"obs": 6.0}, moves, starts=1)
    largest = Poisson(6.0).log_prob(6)
    found: list[object] = []
    while len(found) < 3000:
        chain.start(rng)
        if math.log(rng.random()) < chain.trace.log_likelihood - largest:  # an exact posterior draw
            found.append(chain.run(rng, 0, 3)[2].result)
    counts = np.array([found.count(r) for r in exact])
    expected = np.array(list(exact.values())) * len(found)
    rest = len(found) - counts.sum(), len(found) - expected.sum()
    assert stats.chisquare([*counts, rest[0]], [*expected, rest[1]]).pvalue > 0.001


class TestStart:
    def test_is_the_most_likely_of_a_few(self) -> None:
        few, many = (chain_on(gum, {"obs0": 8.0, "obs1": 9.0}, {"single": 1.0}, starts=starts) for starts in (1, 50))
        few.start(np.random.default_rng(3))
        many.start(np.random.default_rng(3))
        assert many.trace.log_likelihood > few.trace.log_likelihood

    def test_goes_on_until_the_observation_is_possible(self) -> None:
        @simulator
        def narrow() -> None:
            x = sample(Uniform(0.0, 1.0), name="x")
            observe(Uniform(x, x + 0.01), name="y")

        chain = chain_on(narrow, {"y": 0.5}, {"single": 1.0}, starts=1)
        chain.start(np.random.default_rng(4))
        assert math.isfinite(chain.trace.log_joint)

    def test_gives_up_on_an_impossible_observation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @simulator
        def bounded() -> None:
            observe(Uniform(sample(Uniform(0.0, 1.0)), 2.0), name="y")

        monkeypatch.setattr("tracestore.inference.chain_start.MAX_START_DRAWS", 30)
        with pytest.raises(InferenceError, match=r"none of 30 prior draws .* 30 had the likelihood zero, .* 'y'\."):
            chain_on(bounded, {"y": 5.0}, {"single": 1.0}).start(np.random.default_rng(5))

    def test_failures_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @simulator
        def broken() -> None:
            if sample(Bernoulli(0.5)):
                message = "no such file"
                raise OSError(message)
            observe(Uniform(0.0, 1.0), name="y")

        monkeypatch.setattr("tracestore.inference.chain_start.MAX_START_DRAWS", 40)
        with pytest.raises(InferenceError, match=r"\d+ failed, most often with 'OSError: no such file'; \d+ had the"):
            chain_on(broken, {"y": 5.0}, {"single": 1.0}).start(np.random.default_rng(5))

    def test_a_long_search_is_told_once(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        @simulator
        def narrow() -> None:
            x = sample(Uniform(0.0, 1.0), name="x")
            observe(Uniform(x, x + 0.01), name="y")

        monkeypatch.setattr("tracestore.inference.chain_start.MAX_IDLE_SECONDS", -1.0)
        chain_on(narrow, {"y": 0.5}, {"single": 1.0}, starts=1).start(np.random.default_rng(4))
        (record,) = caplog.records
        assert "chain 0 has no start after 1 prior draws: 1 had the likelihood zero" in record.getMessage()


class TestFailures:
    @simulator
    @staticmethod
    def fragile() -> float:
        x = sample(Normal(0.0, 1.0), name="x")
        if x > 0.5:
            message = "too large"
            raise ArithmeticError(message)
        observe(Normal(x, 1.0), name="y")
        return x

    def test_failed_runs_are_rejected_and_counted(self) -> None:
        chain = chain_on(self.fragile, {"y": 0.4}, {"single": 1.0})
        rng = np.random.default_rng(6)
        chain.start(rng)
        batch = chain.run(rng, 0, 300)
        assert (batch.status == 0).all()
        assert batch.named("x")[0].max() <= 0.5
        proposed, accepted, failed = chain.tally.moves["single"]
        assert proposed == 300
        assert failed == chain.num_failed > 20
        assert accepted == batch.accepted.sum() <= 300 - failed


class TestDraws:
    def test_rejected_moves_repeat_the_trace(self) -> None:
        chain = chain_on(gum, {"obs0": 8.0, "obs1": 9.0}, {"single": 1.0})
        rng = np.random.default_rng(7)
        chain.start(rng)
        batch = chain.run(rng, 10, 50)
        assert batch.draw.tolist() == list(range(10, 60))
        assert not batch.accepted.all()
        mu = batch.named("mu")[0]
        np.testing.assert_array_equal(np.diff(mu) != 0, batch.accepted[1:])

    def test_observations_are_held_once(self) -> None:
        chain = chain_on(gum, {"obs0": 8.0, "obs1": 9.0}, {"single": 1.0})
        rng = np.random.default_rng(8)
        chain.start(rng)
        for batch in (chain.run(rng, 0, 1), chain.run(rng, 1, 40)):
            assert all(column.strides[0] == 0 for column in batch.observations.values())
            assert (batch.observations["obs1"] == 9.0).all()

    def test_thinning_keeps_every_nth_state(self) -> None:
        moves = {"single": 1.0}
        plain = chain_on(gum, {"obs0": 8.0, "obs1": 9.0}, moves)
        thinned = chain_on(gum, {"obs0": 8.0, "obs1": 9.0}, moves, thinning=3)
        for chain in (plain, thinned):
            chain.start(np.random.default_rng(9))
        every = plain.run(np.random.default_rng(10), 0, 30).named("mu")[0]
        third = thinned.run(np.random.default_rng(10), 0, 10).named("mu")[0]
        np.testing.assert_array_equal(every[2::3], third)


class TestState:
    def test_a_restored_chain_goes_on_bit_for_bit(self) -> None:
        chain = chain_on(tangled, {}, dict.fromkeys(OWN_MOVES, 1.0), warmup=200)
        rng = np.random.default_rng(11)
        chain.start(rng)
        chain.warm_up(rng)
        state = json.loads(json.dumps(chain.to_json()))
        other = chain_on(tangled, {}, dict.fromkeys(OWN_MOVES, 1.0), warmup=200)
        other.restore(state)
        ours, theirs = (one.run(np.random.default_rng(12), 0, 100) for one in (chain, other))
        np.testing.assert_array_equal(ours.values, theirs.values)
        np.testing.assert_array_equal(ours.log_probs, theirs.log_probs)
        assert chain.tally.to_json() == other.tally.to_json()

    def test_vectors_survive(self) -> None:
        @simulator
        def vectors() -> None:
            x = sample(Normal(np.zeros(3), np.ones(3)), name="x")
            observe(Normal(x, 0.5), name="y")
            tag(x * 2, name="double")

        chain = chain_on(vectors, {"y": [1.0, 2.0, 3.0]}, {"single": 1.0, "walk": 1.0}, warmup=100)  # type: ignore[dict-item]
        rng = np.random.default_rng(13)
        chain.start(rng)
        chain.warm_up(rng)
        state = json.loads(json.dumps(chain.to_json()))
        other = chain_on(vectors, {"y": [1.0, 2.0, 3.0]}, {"single": 1.0, "walk": 1.0})  # type: ignore[dict-item]
        other.restore(state)
        ours, theirs = (one.run(np.random.default_rng(14), 0, 50) for one in (chain, other))
        np.testing.assert_array_equal(ours.values, theirs.values)

    def test_a_simulator_that_is_not_a_function_of_its_draws_is_found(self) -> None:
        drift = [0.0]

        @simulator
        def drifting() -> None:
            sample(Normal(0.0, 1.0), name="x")
            observe(Normal(drift[0], 100.0), name="y")

        chain = chain_on(drifting, {"y": 0.0}, {"single": 1.0})
        chain.start(np.random.default_rng(15))
        state = chain.to_json()
        drift[0] = 50.0
        with pytest.raises(SimulatorProtocolError, match=r"trace of chain 0 .* the log probability at 'y' was -5\.5"):
            chain.restore(state)

    def test_a_tag_that_differs_is_found(self) -> None:
        calls = [0]

        @simulator
        def counting() -> None:
            sample(Normal(0.0, 1.0), name="x")
            tag(calls[0], name="calls")

        chain = chain_on(counting, {}, {"single": 1.0})
        chain.start(np.random.default_rng(15))
        state = chain.to_json()
        calls[0] = 1
        with pytest.raises(SimulatorProtocolError, match="a tag, the result or a parameter differs"):
            chain.restore(state)

    def test_a_start_that_cannot_be_repeated_is_refused(self) -> None:
        calls = iter(range(10**6))

        @simulator
        def counting() -> None:
            sample(Normal(0.0, 1.0), name="x")
            tag(next(calls), name="calls")

        chain = chain_on(counting, {}, {"single": 1.0}, starts=1)
        with pytest.raises(SimulatorProtocolError, match=r"value of the tag 'calls' at .* was 0\.0, in the .* is 1\.0"):
            chain.start(np.random.default_rng(15))

    def test_a_path_that_changes_by_itself_is_refused(self) -> None:
        calls = [0]

        @simulator
        def moody() -> None:
            calls[0] += 1
            sample(Normal(0.0, 1.0), name="x" if calls[0] < 50 else "y", address=f"a{calls[0] // 50}")

        chain = chain_on(moody, {}, {"single": 1.0})
        rng = np.random.default_rng(15)
        chain.start(rng)
        with pytest.raises(SimulatorProtocolError, match="did not reach 'a0~Normal#1', although every draw before it"):
            chain.run(rng, 0, 100)

    def test_does_not_grow_with_the_run(self) -> None:
        chain = chain_on(tangled, {}, {"single": 1.0, "walk": 1.0}, warmup=100)
        rng = np.random.default_rng(18)
        chain.start(rng)
        chain.warm_up(rng)
        chain.run(rng, 0, 300)
        before = len(json.dumps(chain.tally.to_json()))
        chain.run(rng, 300, 3000)
        assert len(json.dumps(chain.tally.to_json())) < 2 * before
        assert len(chain.to_json()["draws"]) == len(chain.order)


def test_the_role_of_a_draw_follows_its_name() -> None:
    """One address may have a name on one path only; a chain restored there must not differ."""

    @simulator
    def renamed() -> None:
        branch = sample(Bernoulli(0.5), name="branch")
        sample(Normal(0.0, 1.0), name="x" if branch else None, address="x")

    chain = chain_on(renamed, {}, {"single": 1.0}, starts=1)
    rng = np.random.default_rng(23)
    chain.start(rng)
    seen = set()
    for step in range(40):
        chain.run(rng, step, 1)
        assert chain.entries == entries_of(chain.trace, None)
        seen.add(chain.trace["branch"])
    assert seen == {0, 1}


class TestWarmUp:
    def test_finds_a_step_that_is_accepted(self) -> None:
        @simulator
        def sharp() -> None:
            x = sample(Normal(0.0, 1.0), name="x")
            y = sample(Normal(0.0, 10.0), name="y")
            observe(Normal(x, 0.01), name="a")
            observe(Normal(y, 1.0), name="b")

        chain = chain_on(sharp, {"a": 0.3, "b": 2.0}, {"walk": 1.0}, warmup=3000)
        rng = np.random.default_rng(16)
        chain.start(rng)
        chain.warm_up(rng)
        assert chain.tally.moves["walk"] == [0, 0, 0]
        chain.run(rng, 0, 500)
        assert 0.1 < chain.tally.moves["walk"][1] / 500 < 0.7
        small, large = chain.scales.steps.values()
        assert large > 20 * small  # each draw has a step of its own

    def test_fixes_the_steps(self) -> None:
        chain = chain_on(gum, {"obs0": 8.0, "obs1": 9.0}, {"walk": 1.0}, warmup=200)
        rng = np.random.default_rng(17)
        chain.start(rng)
        chain.warm_up(rng)
        steps = dict(chain.scales.steps)
        chain.run(rng, 0, 100)
        assert chain.scales.steps == steps

    @pytest.mark.parametrize("stop", [1, 40, 75])
    def test_goes_on_from_its_state_bit_for_bit(self, stop: int) -> None:
        """Before, in and after the part of the warm-up in which spreads are measured."""
        moves = dict.fromkeys(OWN_MOVES, 1.0)
        whole, first, second = (chain_on(tangled, {}, moves, warmup=100) for _ in range(3))
        for chain in (whole, first):
            chain.start(np.random.default_rng(19))
            chain.warm_up(np.random.default_rng(20), range(stop))
        whole.warm_up(np.random.default_rng(21), range(stop, 100))
        second.restore(json.loads(json.dumps(first.to_json())))
        second.warm_up(np.random.default_rng(21), range(stop, 100))
        assert second.to_json() == whole.to_json()
        assert whole.scales.steps

    def test_counts_of_the_warm_up_are_not_those_of_the_draws(self) -> None:
        chain = chain_on(tangled, {}, {"single": 1.0}, warmup=100)
        rng = np.random.default_rng(22)
        chain.start(rng)
        chain.warm_up(rng, range(50))
        state = chain.to_json()
        assert state["counts"] == {"single": [0, 0, 0]}
        assert state["warmup"]["counts"]["single"][0] == 50
