"""Many observations in one call, and draws made on executors: the same draws, wherever they are made."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inference.providers import RuleProvider
from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.executors import ProcessExecutor, SerialExecutor
from tracestore.inference import RMHConfig, ic, ic_many, importance, prior, rmh
from tracestore.inference.chain_recipe import ChainRecipe
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.toys import gum
from tracestore.traces.distributions import Distribution, Normal
from tracestore.traces.layout import Site

SEVERAL = [{"obs0": 8.0, "obs1": 9.0}, {"obs0": 0.5, "obs1": 1.0}, {"obs0": -2.0, "obs1": 0.0}]


def wide(site: Site, prior: Distribution, previous: float | None) -> Distribution:
    return Normal(2.0, 5.0)


def network() -> RuleProvider:
    return RuleProvider(gum, {"x"}, wide)


def exact_mean(observed: dict[str, float]) -> float:
    return (1 / 5 + sum(observed.values()) / 2) / (1 / 5 + 1)


def exact_evidence(observed: dict[str, float]) -> float:
    from scipy import stats

    covariance = np.full((2, 2), 5.0) + 2.0 * np.eye(2)
    return float(stats.multivariate_normal.logpdf(list(observed.values()), [1.0, 1.0], covariance))


class TestManyObservations:
    def test_each_posterior_is_that_of_its_observation(self, tmp_path: Path) -> None:
        found = ic_many(gum, SEVERAL, tmp_path / "post", network=network(), num_draws=4000, seed=1)
        assert len(found) == 3
        for posterior, observed in zip(found, SEVERAL, strict=True):
            assert len(posterior) == 4000
            error = float(posterior.mcse("mu"))
            assert abs(float(posterior.mean("mu")) - exact_mean(observed)) < 4 * error
            assert abs(posterior.log_evidence - exact_evidence(observed)) < 4 * posterior.log_evidence_se

    def test_rows_say_which_observation_they_are_for(self, tmp_path: Path) -> None:
        store = ic_many(gum, SEVERAL, tmp_path / "post", network=network(), num_draws=50, seed=1).store
        for trace in store:
            assert trace.chain == trace.stream // 50
            assert trace.draw == trace.stream % 50
            assert trace.observations["obs0"] == SEVERAL[trace.chain]["obs0"]

    def test_slots_are_assigned_to_their_observation(self, tmp_path: Path) -> None:
        provider = network()
        ic_many(gum, SEVERAL, tmp_path / "post", network=provider, num_draws=20, num_slots=7, seed=1)
        assert set(provider.sessions[0].assigned) == {0, 1, 2}

    def test_one_observation_is_the_same_as_ic(self, tmp_path: Path) -> None:
        one = ic(gum, SEVERAL[0], tmp_path / "one", network=network(), num_draws=300, seed=2)
        many = ic_many(gum, SEVERAL[:1], tmp_path / "many", network=network(), num_draws=300, seed=2)
        np.testing.assert_array_equal(one.log_weights, many[0].log_weights)

    def test_goes_on_with_the_same_call_and_refuses_others(self, tmp_path: Path) -> None:
        first = ic_many(gum, SEVERAL, tmp_path / "post", network=network(), num_draws=50, seed=1)
        again = ic_many(gum, SEVERAL, tmp_path / "post", network=network(), num_draws=50, seed=1)
        assert len(again.store) == len(first.store) == 150
        with pytest.raises(StoreExistsError, match="`observation` is"):
            ic_many(gum, SEVERAL[:2], tmp_path / "post", network=network(), num_draws=50, seed=1)

    @pytest.mark.parametrize(
        ("observations", "words"),
        [
            ([], "at least one mapping"),
            ({"obs0": 1.0, "obs1": 2.0}, "a list of at least one mapping"),
            ([SEVERAL[0], {"obs0": 1.0}], "number 1 has 'obs0'"),
            ([SEVERAL[0], {"obs0": 1.0, "obs1": math.nan}], "must be finite"),
        ],
    )
    def test_refuses(self, tmp_path: Path, observations: list[dict[str, float]], words: str) -> None:
        with pytest.raises(InvalidInputError, match=words):
            ic_many(gum, observations, tmp_path / "post", network=network(), num_draws=50)
        assert not (tmp_path / "post").exists()


EXECUTORS = [
    pytest.param(SerialExecutor(), id="serial"),
    pytest.param(ProcessExecutor(2), id="fork", marks=pytest.mark.processes),
    pytest.param(ProcessExecutor(2, start_method="spawn"), id="spawn", marks=pytest.mark.processes),
]


def columns(posterior: Posterior) -> dict[int, tuple[float, ...]]:
    return {trace.stream: (float(trace["mu"]), trace.log_weight) for trace in posterior.store}


def steps(posterior: Posterior) -> dict[tuple[int, int], tuple[float, bool]]:
    return {(trace.chain, trace.draw): (float(trace["mu"]), trace.accepted) for trace in posterior.store}


def stopping(limit: int) -> Callable[[object], None]:
    """An observer that interrupts after some events."""
    seen = 0

    def stop(event: object) -> None:
        nonlocal seen
        seen += 1
        if seen > limit:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("executor", EXECUTORS)
class TestOnExecutors:
    def test_importance(self, tmp_path: Path, executor: SerialExecutor) -> None:
        here = importance(gum, SEVERAL[0], tmp_path / "here", num_draws=300, seed=3)
        there = importance(gum, SEVERAL[0], tmp_path / "there", num_draws=300, seed=3, executor=executor)
        assert columns(there) == columns(here)

    def test_prior(self, tmp_path: Path, executor: SerialExecutor) -> None:
        here = prior(gum, tmp_path / "here", num_draws=300, seed=3)
        there = prior(gum, tmp_path / "there", num_draws=300, seed=3, executor=executor)
        assert columns(there) == columns(here)

    def test_ic(self, tmp_path: Path, executor: SerialExecutor) -> None:
        here = ic(gum, SEVERAL[0], tmp_path / "here", network=network(), num_draws=300, num_slots=4, seed=3)
        there = ic(
            gum, SEVERAL[0], tmp_path / "there", network=network(), num_draws=300, num_slots=4, seed=3,
            executor=executor,
        )  # fmt: skip
        assert columns(there) == columns(here)

    @pytest.mark.parametrize("proposes", [None, network()], ids=["alone", "with a network"])
    def test_rmh(self, tmp_path: Path, executor: SerialExecutor, proposes: RuleProvider | None) -> None:
        settings = {"num_draws": 600, "chains": 3, "seed": 4, "config": RMHConfig(warmup=60), "network": proposes}
        here = rmh(gum, SEVERAL[0], tmp_path / "here", **settings)  # type: ignore[arg-type]
        there = rmh(gum, SEVERAL[0], tmp_path / "there", executor=executor, **settings)  # type: ignore[arg-type]
        assert steps(there) == steps(here)
        assert there.acceptance == here.acceptance

    def test_chains_begun_here_are_finished_there(self, tmp_path: Path, executor: SerialExecutor) -> None:
        settings = {"num_draws": 600, "chains": 3, "seed": 4, "config": RMHConfig(warmup=60)}
        with pytest.raises(KeyboardInterrupt):
            rmh(gum, SEVERAL[0], tmp_path / "both", observer=stopping(40), **settings)  # type: ignore[arg-type]
        both = rmh(gum, SEVERAL[0], tmp_path / "both", executor=executor, **settings)  # type: ignore[arg-type]
        assert steps(both) == steps(rmh(gum, SEVERAL[0], tmp_path / "one", **settings))  # type: ignore[arg-type]

    def test_a_job_begun_here_is_finished_there(self, tmp_path: Path, executor: SerialExecutor) -> None:
        with pytest.raises(KeyboardInterrupt):
            importance(gum, SEVERAL[0], tmp_path / "both", num_draws=300, seed=3, observer=stopping(5))
        both = importance(gum, SEVERAL[0], tmp_path / "both", num_draws=300, seed=3, executor=executor)
        assert columns(both) == columns(importance(gum, SEVERAL[0], tmp_path / "one", num_draws=300, seed=3))


def test_two_places_to_work_at_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="`workers` or `executor`, not both"):
        importance(gum, SEVERAL[0], tmp_path / "post", num_draws=30, workers=2, executor=SerialExecutor())
    assert not (tmp_path / "post").exists()


def test_a_turn_of_a_chain_that_runs_twice_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[Any] = []

    class Watching(SerialExecutor):
        def run(self, function: Callable[[Any], Any], tasks: Sequence[Any], *, label: str = "task") -> Iterator[Any]:
            for task in tasks:
                turns.append((function, task, function(task)))
                yield turns[-1][2]

    config = RMHConfig(warmup=20)
    posterior = rmh(gum, SEVERAL[0], tmp_path / "post", num_draws=80, chains=2, config=config, executor=Watching())
    assert len(posterior) == 80

    def fails(*_: object) -> None:
        pytest.fail("the chain ran again")

    monkeypatch.setattr(ChainRecipe, "units", fails)
    assert len(turns) > 20
    assert all(function(task) == found for function, task, found in turns)
    posterior.store.fold()
    assert len(posterior.store) == 80
