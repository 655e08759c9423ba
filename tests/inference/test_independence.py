"""Proposals of whole traces from a network: weights, numbering, and chains that use them."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.inference.providers import RuleProvider
from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.events import Event, PhaseAdvanced
from tracestore.inference import RMHConfig, rmh
from tracestore.inference.independence import IndependenceSource, entries_of
from tracestore.inference.moves import Fresh
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import Simulator, run_trace, simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.simulators.toys import geometric, gum
from tracestore.traces.distributions import Bernoulli, Binomial, Distribution, Normal, Poisson
from tracestore.traces.layout import Site
from tracestore.traces.trace import TraceStatus

OBSERVED = {"obs0": np.asarray(8.0), "obs1": np.asarray(9.0)}


def near(site: Site, prior: Distribution, previous: float | None) -> Distribution:
    return Normal(6.5, 1.5)


def source(program: Simulator = gum, observed: dict[str, np.ndarray] | None = None) -> IndependenceSource:
    return IndependenceSource(
        program,
        OBSERVED if observed is None else observed,
        RuleProvider(program, (), near),
        seed=1,
        defensive=0.25,
        num_slots=8,
        max_sites=1000,
    )


def run(path: Path, **settings: object) -> Posterior:
    call = {"num_draws": 400, "seed": 1, "network": RuleProvider(gum, (), near), **settings}
    call["config"] = RMHConfig(warmup=100, **call.pop("config", {}))  # type: ignore[arg-type]
    return rmh(gum, OBSERVED, path, **call)  # type: ignore[arg-type]


class TestPool:
    def test_weights_are_those_of_the_mixture(self) -> None:
        for trace in source().draw_pool(0, 0, 0, 40):
            mixture = 0.25 * math.exp(trace.log_prior) + 0.75 * math.exp(Normal(6.5, 1.5).log_prob(trace["mu"]))
            assert trace.log_weight == pytest.approx(trace.log_joint - math.log(mixture))

    def test_a_trace_from_elsewhere_is_weighted_alike(self) -> None:
        proposals = source()
        for trace in proposals.draw_pool(0, 0, 0, 20):
            assert proposals.log_weight(trace) == pytest.approx(trace.log_weight, abs=1e-12)

    def test_is_a_function_of_its_numbers(self) -> None:
        ours, again = (
            [trace["mu"] for trace in source().draw_pool(2, 5, first, number)] for first, number in ((0, 30), (0, 30))
        )
        rest = [trace["mu"] for trace in source().draw_pool(2, 5, 20, 10)]
        assert ours == again
        assert ours[20:] == rest

    def test_differs_between_chains_and_units(self) -> None:
        pools = [(chain, unit) for chain in range(3) for unit in range(3)]
        drawn = {trace["mu"] for chain, unit in pools for trace in source().draw_pool(chain, unit, 0, 5)}
        assert len(drawn) == 45

    def test_failed_runs_have_no_weight(self) -> None:
        @simulator
        def fragile() -> None:
            if sample(Normal(0.0, 1.0)) > 5.0:
                message = "too large"
                raise ArithmeticError(message)
            observe(Normal(0.0, 1.0), name="y")

        pool = source(fragile, {"y": np.asarray(0.0)}).draw_pool(0, 0, 0, 60)
        failed = [trace for trace in pool if trace.status is not TraceStatus.OK]
        assert 10 < len(failed) < 60
        assert {trace.log_weight for trace in failed} == {-math.inf}


@simulator
def kinds() -> None:
    n = sample(Poisson(3.0), name="n")
    sample(Binomial(4, [0.1, 0.5]))
    for _ in range(n):  # a whole number, and not 3.0
        sample(Normal(0.0, 1.0), name="x", control=False)


def test_entries_are_those_of_the_run() -> None:
    move = Fresh(None)
    trace = run_trace(kinds, move, np.random.default_rng(3))
    found = entries_of(trace, None)
    assert list(found) == list(move.entries)
    for ident, entry in move.entries.items():
        np.testing.assert_array_equal(found[ident].value, entry.value)
        assert type(found[ident].value) is type(entry.value)
        assert found[ident][1:] == entry[1:]


class TestJob:
    def test_chains_start_from_draws_of_the_network(self, tmp_path: Path) -> None:
        # no warm-up, and a move that changes next to nothing
        config = {"warmup": 0, "move_weights": {"walk": 1.0}, "joint_scale": 1e-6}
        seeded = rmh(
            gum, OBSERVED, tmp_path / "seeded", num_draws=40, chains=40, network=RuleProvider(gum, (), near),
            config=RMHConfig(**config),  # type: ignore[arg-type]
        )  # fmt: skip
        starts = seeded.values("mu").values
        # exact draws but for the finite number of proposals: mean 7.25, sd 0.91
        assert abs(np.mean(starts) - 7.25) < 4 * 0.91 / math.sqrt(40)
        assert 0.5 < np.std(starts) < 1.4

    def test_may_start_from_the_prior_all_the_same(self, tmp_path: Path) -> None:
        config = {"starts_from_ic": False, "move_weights": {"single": 1.0}}
        ours, plain = run(tmp_path / "a", config=config), run(tmp_path / "b", config=config, network=None)
        np.testing.assert_array_equal(ours.values("mu").values, plain.values("mu").values)

    def test_a_quarter_of_the_moves_by_default(self, tmp_path: Path) -> None:
        posterior = run(tmp_path / "post", num_draws=4000)
        proposed = {row.move: row.num_proposed for row in posterior.acceptance_by_move if row.chain == 0}
        assert list(proposed) == ["single", "walk", "independent", "ic"]
        assert 200 <= proposed["ic"] <= 300

    def test_states_have_no_weight_as_draws(self, tmp_path: Path) -> None:
        store = run(tmp_path / "post", config={"move_weights": {"ic": 1.0}}).store
        assert (store.column("log_weight") == 0.0).all()

    @pytest.mark.processes
    def test_does_not_depend_on_the_workers(self, tmp_path: Path) -> None:
        one, two = run(tmp_path / "one"), run(tmp_path / "two", workers=2)
        assert sorted(one.values("mu").values) == sorted(two.values("mu").values)

    @pytest.mark.parametrize("stop_after", [2, 50])
    def test_goes_on_bit_for_bit(self, tmp_path: Path, stop_after: int) -> None:
        told = []

        def interrupt(event: Event) -> None:
            told.append(event)
            if isinstance(event, PhaseAdvanced) and len(told) > stop_after:
                raise KeyboardInterrupt

        config = {"move_weights": {"ic": 1.0, "walk": 1.0, "single": 1.0}}
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "post", observer=interrupt, config=config)
        resumed, whole = run(tmp_path / "post", config=config), run(tmp_path / "whole", config=config)
        ours, theirs = resumed.values("mu"), whole.values("mu")
        np.testing.assert_array_equal(ours.values[np.argsort(ours.chain, kind="stable")],
                                      theirs.values[np.argsort(theirs.chain, kind="stable")])  # fmt: skip
        assert resumed.acceptance_by_move == whole.acceptance_by_move

    def test_another_network_is_another_job(self, tmp_path: Path) -> None:
        run(tmp_path / "post")
        with pytest.raises(StoreExistsError, match="`network`"):
            run(tmp_path / "post", network=RuleProvider(gum, (), near, version="2"))

    def test_a_network_for_another_simulator_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match=r"was trained on .*geometric"):
            run(tmp_path / "post", network=RuleProvider(geometric, (), lambda *_: Bernoulli(0.5)))

    def test_the_move_needs_a_network(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="asks for 'ic', which needs a network"):
            run(tmp_path / "post", network=None, config={"move_weights": {"ic": 1.0}})
