"""Refinement: rounds that learn from each other's draws, right whatever they learn, and continued after a stop."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.events import Event, PhaseAdvanced
from tracestore.simulators.toys import gum

training = pytest.importorskip("tracestore.training")
refinement = pytest.importorskip("tracestore.workflows.refinement")

SEEN = {"obs0": 8.0, "obs1": 9.0}
SMALL = training.NetworkConfig(core_size=12, observation_size=8, head_size=8, mixture_size=2)
QUICK = training.TrainConfig(epochs=4, batch_size=32, learning_rate=3e-3, validation_fraction=0.1)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("first")
    store = ts.simulate(gum, folder / "traces", num_traces=300, seed=1)
    config = training.TrainConfig(epochs=1, batch_size=32, network=SMALL)
    return training.train(store, folder / "network", config=config)


def hash_of(folder: Path, number: int) -> int:
    """A seed of its own for each store."""
    return 2 * (int(folder.name) if folder.name.isdigit() else 0) + number


def run(path: Path, first: Any, **settings: Any) -> Any:
    options = {"num_rounds": 3, "num_draws": 500, "goal": 1.0, "seed": 2, "config": QUICK, **settings}
    return refinement.refine(gum, SEEN, path, network=first, **options)


class TestRounds:
    def test_get_better_and_stay_right(self, tmp_path: Path, first: Any) -> None:
        found = run(tmp_path / "r", first)
        assert [one.number for one in found.rounds] == [0, 1, 2]
        assert found.rounds[-1].ess > 1.5 * found.rounds[0].ess
        posterior = found.posterior
        assert len(posterior) == 1500
        assert abs(posterior.mean("mu") - 7.25) < 4 * posterior.mcse("mu")
        assert abs(posterior.log_evidence + 8.239404) < 4 * posterior.log_evidence_se

    def test_stop_when_the_goal_is_reached(self, tmp_path: Path, first: Any) -> None:
        found = run(tmp_path / "r", first, goal=0.001)
        assert len(found.rounds) == 1
        assert math.isnan(found.rounds[0].power)
        assert found.network is first

    def test_the_network_that_is_given_stays_as_it_is(self, tmp_path: Path, first: Any) -> None:
        before = {name: value.clone() for name, value in first.state_dict().items()}
        run(tmp_path / "r", first, num_rounds=2)
        assert all((first.state_dict()[name] == value).all() for name, value in before.items())

    def test_the_next_network_learns_the_posterior(self, tmp_path: Path, first: Any) -> None:
        found = run(tmp_path / "r", first, num_rounds=2, num_draws=2000)
        material = ts.TraceStore.open(tmp_path / "r" / "round-0" / "material")
        drawn = ts.inference.open_posterior(tmp_path / "r" / "round-0" / "draws")
        power = found.rounds[0].power
        logs = np.where(drawn.log_weights > -np.inf, power * drawn.log_weights, -np.inf)
        weights = np.exp(logs - logs.max())
        expected = float(weights @ drawn.values("mu").values / weights.sum())
        assert len(material) == 2000
        assert abs(float(material.values("mu")[0].astype(float).mean()) - expected) < 0.1
        assert abs(float(np.mean(drawn.values("mu").values)) - expected) > 0.5

    def test_draws_of_different_rounds_are_different(self, tmp_path: Path, first: Any) -> None:
        run(tmp_path / "r", first, num_rounds=2)
        one, two = (ts.TraceStore.open(tmp_path / "r" / f"round-{number}" / "draws") for number in (0, 1))
        assert not set(one.values("mu")[0]) & set(two.values("mu")[0])


class TestContinuing:
    def test_after_a_stop_gives_the_same(self, tmp_path: Path, first: Any) -> None:
        whole = run(tmp_path / "whole", first)
        num_stopped = 0
        for limit in (1, 2, 3, 2, 3, 4):
            count = 0

            def stop(event: Event, limit: int = limit) -> None:
                nonlocal count
                count += isinstance(event, PhaseAdvanced)
                if count >= limit:
                    raise KeyboardInterrupt

            try:
                run(tmp_path / "parts", first, observer=stop)
            except KeyboardInterrupt:
                num_stopped += 1
        assert num_stopped > 3
        parts = run(tmp_path / "parts", first)
        np.testing.assert_array_equal(parts.posterior.log_weights, whole.posterior.log_weights)
        np.testing.assert_array_equal(parts.posterior.values("mu").values, whole.posterior.values("mu").values)

    def test_other_settings_are_refused(self, tmp_path: Path, first: Any) -> None:
        run(tmp_path / "r", first, num_rounds=1)
        with pytest.raises(ts.errors.StoreExistsError, match="num_draws"):
            run(tmp_path / "r", first, num_rounds=1, num_draws=400)


class TestPooling:
    @staticmethod
    def stores(folder: Path, sizes: tuple[int, ...]) -> list[ts.TraceStore]:
        return [
            ts.inference.importance(gum, SEEN, folder / str(number), num_draws=size, seed=hash_of(folder, number)).store
            for number, size in enumerate(sizes)
        ]

    def test_evidence_is_the_average_of_the_rounds(self, tmp_path: Path) -> None:
        stores = self.stores(tmp_path, (400, 1200))
        halves = [[store.column("log_weight")[store.column("draw") % 2 == half] for half in (0, 1)] for store in stores]
        expected = 0.0
        for this in (0, 1):
            sizes = [ts.diagnostics.kish_ess(half[1 - this]) for half in halves]
            means = [float(np.exp(half[this]).mean()) for half in halves]
            expected += 0.5 * float(np.dot(sizes, means) / sum(sizes))
        assert refinement._pool(stores).log_evidence == pytest.approx(math.log(expected))

    def test_one_round_is_left_as_it_is(self, tmp_path: Path) -> None:
        (store,) = self.stores(tmp_path, (300,))
        plain = ts.inference.open_posterior(tmp_path / "0")
        np.testing.assert_allclose(refinement._pool([store]).log_weights, plain.log_weights)

    def test_is_unbiased(self, tmp_path: Path) -> None:
        """Rounds of few draws, which often miss the posterior, must not be believed when they do."""
        found = [
            math.exp(refinement._pool(self.stores(tmp_path / str(seed), (40, 40))).log_evidence) for seed in range(150)
        ]
        error = float(np.std(found)) / math.sqrt(len(found))
        assert abs(np.mean(found) - math.exp(-8.239404)) < 4 * error


class TestTemperedPower:
    def test_is_one_where_enough_draws_count(self) -> None:
        assert refinement.tempered_power(np.zeros(50), 50.0) == 1.0

    def test_reaches_the_size_that_is_wanted(self) -> None:
        logs = np.random.default_rng(1).normal(0.0, 5.0, 2000)
        logs[::7] = -np.inf
        power = refinement.tempered_power(logs, 300.0)
        assert 0.0 < power < 1.0
        finite = logs > -np.inf
        size = ts.diagnostics.kish_ess(np.where(finite, power * np.where(finite, logs, 0.0), -np.inf))
        assert size == pytest.approx(300.0, rel=1e-6)

    def test_is_nothing_where_there_are_too_few(self) -> None:
        assert refinement.tempered_power([0.0, -1.0, -np.inf], 3.0) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_rounds": 0}, "`num_rounds` must be at least 1"),
        ({"num_draws": 0}, "`num_draws` must be at least 1"),
        ({"goal": 0.0}, "`goal` must lie above 0"),
        ({"goal": 1.5}, "`goal` must lie above 0"),
    ],
)
def test_refuses(tmp_path: Path, first: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        run(tmp_path / "r", first, **settings)
    assert not (tmp_path / "r").exists()
