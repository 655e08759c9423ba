"""Calibration of engines that are right, and of engines that are wrong in one known way."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inference.providers import RuleProvider
from tracestore.errors import FormatError, InvalidInputError, StoreExistsError, StoreNotFoundError, UnknownAddressError
from tracestore.events import PhaseAdvanced
from tracestore.inference.calibration import calibrate
from tracestore.inference.calibration_result import Calibration, CalibrationQuantity, open_calibration
from tracestore.inference.importance import importance
from tracestore.inference.rmh_config import RMHConfig
from tracestore.posteriors import Posterior
from tracestore.posteriors.findings import Verdict
from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.simulators.toys import gum
from tracestore.store.job import Job
from tracestore.traces.distributions import Bernoulli, Distribution, Normal
from tracestore.traces.layout import Site

NUM_TRIALS = 80
NUM_DRAWS = 60


@simulator
def seen() -> None:
    """A number that is seen with noise as large as itself; its posterior is normal of mean y/2 and variance 1/2."""
    x = sample(Normal(0.0, 1.0), name="x")
    observe(Normal(x, 1.0), name="y")


def drawing_from(make: Callable[[float], Normal]) -> Callable[..., Posterior]:
    """Make an engine that draws x, without weights, from a distribution of the observed value."""

    def engine(
        program: Simulator, observation: Mapping[str, np.ndarray], path: Any, *, num_draws: int, seed: int, workers: int
    ) -> Posterior:
        @simulator
        def proposing() -> None:
            x = sample(make(float(observation["y"])), name="x")
            observe(Normal(x, 1.0), name="y")

        posterior = importance(proposing, observation, path, num_draws=num_draws, seed=seed, workers=workers)
        return posterior.reweight(-posterior.table.column("log_likelihood").astype(np.float64))

    return engine


def run(path: Path, make: Callable[[float], Normal]) -> Calibration:
    return calibrate(seen, path, engine=drawing_from(make), num_trials=NUM_TRIALS, num_draws=NUM_DRAWS, seed=1)


def miscalibrated(calibration: Calibration) -> dict[str, str]:
    return {finding.subject: finding.text for finding in calibration.diagnosis.of("miscalibrated")}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calibration]:
    path = tmp_path_factory.mktemp("calibrated") / "exact"
    return path, run(path, lambda y: Normal(y / 2.0, math.sqrt(0.5)))


class TestKnownEngines:
    def test_exact_posteriors_are_calibrated(self, exact: tuple[Path, Calibration]) -> None:
        _, calibration = exact
        assert calibration.exit_code == 0
        assert calibration.verdict is Verdict.GOOD
        assert [quantity.name for quantity in calibration.quantities] == ["x", "log likelihood", "joint"]
        assert all(len(quantity.pit) == NUM_TRIALS for quantity in calibration.quantities)
        assert "uniform" in str(calibration)

    @pytest.mark.parametrize(
        ("make", "word"),
        [
            (lambda y: Normal(y / 2.0, 0.3), "overconfident"),
            (lambda y: Normal(y / 2.0, 2.0), "underconfident"),
            (lambda y: Normal(y / 2.0 - 0.7, math.sqrt(0.5)), "biased low"),
            (lambda y: Normal(y / 2.0 + 0.7, math.sqrt(0.5)), "biased high"),
        ],
        ids=["too narrow", "too wide", "too low", "too high"],
    )
    def test_wrong_ones_are_told_how(self, tmp_path: Path, make: Callable[[float], Normal], word: str) -> None:
        calibration = run(tmp_path / "c", make)
        assert calibration.exit_code == 1
        assert word in miscalibrated(calibration)["x"]

    def test_what_ignores_the_data_is_found_by_the_log_likelihood(self, tmp_path: Path) -> None:
        found = miscalibrated(run(tmp_path / "c", lambda y: Normal(0.0, 1.0)))
        assert "log likelihood" in found
        assert "x" not in found


class TestEngines:
    def test_importance_sampling(self, tmp_path: Path) -> None:
        calibration = calibrate(seen, tmp_path / "c", engine="is", num_trials=60, num_draws=300, seed=2)
        assert calibration.exit_code == 0

    def test_chains(self, tmp_path: Path) -> None:
        config = RMHConfig(warmup=100, thinning=3)
        calibration = calibrate(
            seen, tmp_path / "c", engine="rmh", num_trials=30, num_draws=200, chains=2, config=config, seed=2
        )
        assert calibration.exit_code == 0

    def test_inference_compilation_infers_all_trials_in_one_call(self, tmp_path: Path) -> None:
        def rule(site: Site, prior: Distribution, previous: float | None) -> Distribution:
            return Normal(0.3, 1.2)

        base = next(site.base for site in _sites(seen, tmp_path) if site.name == "x")
        network = RuleProvider(seen, [base], rule)
        calibration = calibrate(
            seen,
            tmp_path / "c",
            engine="ic",
            network=network,
            num_trials=60,
            num_draws=200,
            seed=3,
            options={"num_slots": 16},
        )
        assert calibration.exit_code == 0
        assert calibration.job.fields["num_slots"] == 16
        assert sorted(entry.name for entry in (tmp_path / "c").iterdir() if entry.is_dir()) == ["posteriors", "truths"]


def _sites(program: Simulator, folder: Path) -> list[Site]:
    store = importance(program, {"y": 0.0}, folder / "probe", num_draws=1).store
    return store.sites()


class TestPresence:
    def test_a_variable_is_ranked_where_the_truth_has_it(self, tmp_path: Path) -> None:
        @simulator
        def sometimes() -> None:
            x = sample(Normal(0.0, 1.0), name="x")
            if sample(Bernoulli(0.5), name="more"):
                x += sample(Normal(0.0, 1.0), name="extra")
            observe(Normal(x, 1.0), name="y")

        calibration = calibrate(sometimes, tmp_path / "c", engine="is", num_trials=40, num_draws=200, seed=4)
        assert calibration.exit_code == 0
        assert len(calibration["x"].pit) == 40
        assert 8 < len(calibration["extra"].pit) < 32
        assert calibration["extra"].num_lost == 0

    def test_trials_whose_draws_all_lack_it_are_counted(self, tmp_path: Path) -> None:
        @simulator
        def rare() -> None:
            x = sample(Normal(0.0, 1.0), name="x")
            if sample(Bernoulli(0.2), name="more"):
                x += sample(Normal(0.0, 1.0), name="extra")
            observe(Normal(x, 1.0), name="y")

        calibration = calibrate(rare, tmp_path / "c", engine="is", num_trials=40, num_draws=2, seed=5)
        extra = calibration["extra"]
        assert extra.num_lost > 0
        finding = next(finding for finding in calibration.diagnosis.of("lost") if finding.subject == "extra")
        assert f"In {extra.num_lost} of {extra.num_lost + len(extra.pit)} trials" in finding.text

    def test_failed_runs_and_posteriors_without_weight_are_counted(self, tmp_path: Path) -> None:
        @simulator
        def fragile() -> None:
            x = sample(Normal(0.0, 1.0), name="x")
            if x > 1.0:
                raise ValueError("too large")
            observe(Bernoulli(0.02 if x < 0.0 else 0.0), name="y")

        def engine(
            program: Simulator, observation: Mapping[str, np.ndarray], path: Any, *, num_draws: int, **rest: Any
        ) -> Posterior:
            return importance(program, {"y": 1.0}, path, num_draws=num_draws, seed=rest["seed"]).reweight(
                np.full(num_draws, -np.inf) if rest["seed"] % 2 else np.zeros(num_draws)
            )

        calibration = calibrate(fragile, tmp_path / "c", engine=engine, num_trials=40, num_draws=20, seed=6)
        assert 0 < calibration.num_failed < 20
        assert calibration.num_trials == 40 - calibration.num_failed
        assert calibration.num_degenerate > 5
        assert calibration.diagnosis.of("no-weight")[0].verdict is Verdict.BAD


class TestFolder:
    def test_it_is_reopened_as_it_was(self, exact: tuple[Path, Calibration]) -> None:
        path, calibration = exact
        again = open_calibration(path)
        assert again.to_json() == calibration.to_json()
        np.testing.assert_array_equal(again.pit["x"], calibration.pit["x"])
        assert json.loads((path / "calibration.json").read_text("utf-8"))["diagnosis"]["verdict"] == "good"

    def test_an_interrupted_one_is_continued_to_the_same_result(self, tmp_path: Path) -> None:
        def stop(event: object) -> None:
            if isinstance(event, PhaseAdvanced) and event.done == 4:
                raise KeyboardInterrupt

        def call(path: Path, observer: Callable[[object], None] | None = None) -> Calibration:
            return calibrate(seen, path, engine="is", num_trials=10, num_draws=20, seed=7, observer=observer)

        with pytest.raises(KeyboardInterrupt):
            call(tmp_path / "stopped", stop)
        with pytest.raises(StoreNotFoundError, match="no finished calibration"):
            open_calibration(tmp_path / "stopped")
        kept = {entry: entry.stat().st_mtime_ns for entry in (tmp_path / "stopped" / "trial-000001").rglob("*.json")}
        assert call(tmp_path / "stopped").to_json() == call(tmp_path / "whole").to_json()
        assert kept == {entry: entry.stat().st_mtime_ns for entry in kept}

    @pytest.mark.processes
    def test_a_killed_one_is_continued_to_the_same_result(self, tmp_path: Path) -> None:
        call = (
            "import sys; from tracestore.inference.calibration import calibrate; "
            "from tracestore.simulators.toys import gum; "
            "calibrate(gum, sys.argv[1], engine='is', num_trials=12, num_draws=20, seed=7)"
        )
        child = subprocess.Popen([sys.executable, "-c", call, str(tmp_path / "killed")])
        while child.poll() is None and not (tmp_path / "killed" / "trial-000003").exists():
            time.sleep(0.005)
        child.kill()
        child.wait()
        assert not (tmp_path / "killed" / "calibration.json").exists()
        found = [
            calibrate(gum, tmp_path / name, engine="is", num_trials=12, num_draws=20, seed=7).to_json()
            for name in ("killed", "whole")
        ]
        assert found[0] == found[1]

    def test_a_finished_one_is_returned(self, tmp_path: Path) -> None:
        first = calibrate(seen, tmp_path / "c", engine="is", num_trials=5, num_draws=10)
        seen_events: list[object] = []
        again = calibrate(seen, tmp_path / "c", engine="is", num_trials=5, num_draws=10, observer=seen_events.append)
        assert again.to_json() == first.to_json()
        assert seen_events == []

    def test_another_job_is_refused(self, tmp_path: Path) -> None:
        calibrate(seen, tmp_path / "c", engine="is", num_trials=5, num_draws=10)
        with pytest.raises(StoreExistsError, match="`num_draws` is 10 there and 11"):
            calibrate(seen, tmp_path / "c", engine="is", num_trials=5, num_draws=11)

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine", "utf-8")
        with pytest.raises(StoreExistsError, match="no calibration"):
            calibrate(seen, tmp_path, engine="is", num_trials=5, num_draws=10)

    def test_a_damaged_result_is_refused(self, tmp_path: Path) -> None:
        calibrate(seen, tmp_path / "c", engine="is", num_trials=5, num_draws=10)
        (tmp_path / "c" / "calibration.json").write_text("{", "utf-8")
        with pytest.raises(FormatError, match="damaged"):
            open_calibration(tmp_path / "c")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"engine": "nuts"}, "one of is, ic, rmh, lmh"),
            ({"engine": "ic"}, "needs one"),
            ({"engine": "is", "num_trials": 0}, "num_trials"),
            ({"engine": "is", "options": {"seed": 3}}, "'seed'"),
        ],
    )
    def test_arguments(self, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            calibrate(seen, tmp_path / "c", **arguments)

    def test_unknown_names(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownAddressError, match="mass"):
            calibrate(seen, tmp_path / "c", engine="is", num_trials=5, num_draws=10, names=["mass"])


class TestWords:
    def test_few_trials_are_doubtful(self) -> None:
        even = tuple(((np.arange(20) + 0.5) / 20).tolist())
        found = Calibration(Job("calibrate", {}), 20, 0, 0, [CalibrationQuantity("x", even, tuple(range(20)))])
        assert found.verdict is Verdict.DOUBTFUL
        assert found.diagnosis.of("few-trials")

    def test_many_quantities_raise_the_bar(self) -> None:
        rng = np.random.default_rng(1)
        trials = tuple(range(100))
        good = [CalibrationQuantity(f"v{number}", tuple(rng.random(100)), trials) for number in range(60)]
        assert Calibration(Job("calibrate", {}), 100, 0, 0, good).exit_code == 0
        # some of sixty look bad when each is judged alone
        assert min(quantity.p_value for quantity in good) < 0.05

    def test_coverage_by_level(self) -> None:
        quantity = CalibrationQuantity("x", (0.05, 0.3, 0.5, 0.7), (0, 1, 2, 3))
        assert quantity.coverage == {0.5: 0.75, 0.8: 0.75, 0.95: 1.0}
